"""GPUs and accelerators of a container (ECS agent behaviour, spec 03 §6.6.9, spec 05 §11)."""

from __future__ import annotations

from typing import Any

from common.model.task import Container, Task
from services.engine.core.effects import SetupError
from services.engine.docker.draft import Draft, Refused
from services.engine.docker.settings import Settings

VISIBLE_DEVICES = "NVIDIA_VISIBLE_DEVICES"
NEURON_DEVICES = "AWS_NEURON_VISIBLE_DEVICES"


def ids(task: Task, container: Container) -> list[str]:
    """The GPUs that the backend gave to this container: the names of its gpu associations."""
    return [a.name for a in task.associations if a.type == "gpu" and container.name in a.containers]


def check(task: Task, settings: Settings) -> None:
    """Each GPU belongs to one container of the task. Raises SetupError."""
    if not settings.gpu:
        return
    for association in (a for a in task.associations if a.type == "gpu"):
        if len(association.containers) != 1:  # the reference says "multiple" of none, too
            raise SetupError(f"could not associate multiple containers to GPU {association.name}")
        for name in association.containers:
            if task.container(name) is None:
                raise SetupError(f"could not find container with name {name} for associating GPU {association.name}")


def environment(draft: Draft) -> dict[str, str]:
    """The variable by which the NVIDIA runtime knows the container's GPUs."""
    settings = draft.world.settings
    given = ids(draft.task, draft.container) if settings.gpu and not settings.external else []
    return {VISIBLE_DEVICES: ",".join(given)} if given else {}


def _sees_gpus(draft: Draft) -> bool:
    """The task has GPUs, and the container a variable that shows it some."""
    if not draft.world.settings.gpu or not any(a.type == "gpu" for a in draft.task.associations):
        return False
    return VISIBLE_DEVICES in draft.container.environment or bool(environment(draft))


def host_config(draft: Draft) -> dict[str, Any]:
    """Runtime and DeviceRequests."""
    settings, container = draft.world.settings, draft.container
    wanted: dict[str, Any] = {}
    if settings.gpu and settings.external:
        # For every container, also without GPUs of its own: then it is given none.
        given = ids(draft.task, container) or None
        wanted["DeviceRequests"] = [{"Capabilities": [["gpu"]], "DeviceIDs": given}]
    elif _sees_gpus(draft):
        if not settings.nvidia_runtime:
            raise Refused("HostConfigError", "Runtime is not set for GPU containers")
        wanted["Runtime"] = settings.nvidia_runtime
    if settings.neuron and NEURON_DEVICES in container.environment:
        wanted["Runtime"] = "neuron"
    return wanted
