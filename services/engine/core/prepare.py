"""Setting a task up after it was decoded: once in its life, before it is stored.

Adds what the payload leaves to the agent: the order that Service Connect, volumesFrom, links and firelens imply, the
variables of the local endpoints, the containers that hold namespaces, and what each container waits for among the
resources. The steps stand in the order of spec 03 §3.7, which decides what the added containers do not get.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from common.model.status import ContainerStatus, ContainerType
from common.model.task import Container, Dependency, Resource, Task, TransitionDependency
from services.engine.core import service_connect
from services.engine.core.effects import SetupError
from services.engine.core.hosts import folded, host_config
from services.engine.core.waiting import PAUSE_IMAGE, waiting, waiting_for, waiting_for_cgroup

C = ContainerStatus

ENDPOINT = "http://169.254.170.2"
NAMESPACE_PAUSE = "~internal~ecs~pause~namespace"
AWSFIRELENS = "awsfirelens"


def _new_uuid() -> str:
    return str(uuid.uuid4())


# In Resource.detail, true: the resource is created again whenever the execution role gets new credentials.
RENEWED = "renewed"


class ResourceRule(Struct, frozen=True):
    """Which step of which containers waits for a resource of one kind."""

    steps: tuple[ContainerStatus, ...]
    applies: Callable[[Container, Resource], bool]


def _mounts(container: Container, resource: Resource) -> bool:
    return any(m.source_volume == resource.name for m in container.mount_points)


def _has_secrets(provider: str) -> Callable[[Container, Resource], bool]:
    def applies(container: Container, resource: Resource) -> bool:
        # The log router needs the log options of the containers that log through it.
        is_router = bool(container.name) and resource.detail.get("router") == container.name
        return is_router or any(s.provider == provider for s in container.secrets)

    return applies


RESOURCE_RULES: dict[str, ResourceRule] = {
    # kind            waits before                         which containers
    "cgroup":         ResourceRule((C.PULLED,),            lambda c, r: True),
    "dockerVolume":   ResourceRule((C.PULLED,),            _mounts),
    "asm-auth":       ResourceRule((C.MANIFEST_PULLED, C.PULLED),
                                   lambda c, r: c.registry_auth is not None and c.registry_auth.type == "asm"),
    "ssmsecret":      ResourceRule((C.CREATED,),           _has_secrets("ssm")),
    "asmsecret":      ResourceRule((C.CREATED,),           _has_secrets("asm")),
    "envfile":        ResourceRule((C.CREATED,),           lambda c, r: r.detail.get("container") == c.name),
    "firelens":       ResourceRule((C.CREATED,),           lambda c, r: c.firelens is not None),
    "credentialspec": ResourceRule((C.CREATED,),           lambda c, r: c.name in r.detail.get("containers", ())),
}  # fmt: skip


def set_order(task: Task) -> Task:
    """The order implied by Service Connect, volumesFrom and links.

    Raises SetupError for a name that the task does not have.
    """
    return replace(task, containers=tuple(_implied_order(task, c) for c in task.containers))


def _implied_order(task: Task, container: Container) -> Container:
    implied = service_connect.order_of(task, container)
    for volume in container.volumes_from:
        if task.container(volume.source_container) is None:
            raise SetupError(f"could not find volume source container with name {volume.source_container}")
        implied.append(Dependency(container_name=volume.source_container, condition="CREATE"))
    for link in container.links:
        parts = link.split(":")
        if len(parts) > 2:
            raise SetupError("invalid link format")
        if task.container(parts[0]) is None:
            raise SetupError(f"could not find container for link {link}")
        implied.append(Dependency(container_name=parts[0], condition="START"))
    return replace(container, depends_on=(*container.depends_on, *implied)) if implied else container


def set_up(
    task: Task, resources: Sequence[Resource], limits_enabled: bool, new_uuid: Callable[[], str] = _new_uuid
) -> Task:
    """The task as it will run: `task` comes from `set_order`, `resources` from the hands. Raises SetupError."""
    containers = [_with_endpoints(task, c, new_uuid()) for c in task.containers]
    containers = [_with_resources(c, resources) for c in containers]
    task = replace(
        task,
        containers=tuple(containers),
        resources=tuple(resources),
        limits_enabled=limits_enabled,
        prepared=True,
    )
    task = service_connect.with_proxy(_with_firelens_order(task))
    return _with_namespace_pause(task)


def wrapped(task: Task, error: SetupError) -> str:
    """The task's reason when its set-up failed."""
    return str(error) if error.bare else f"resource cannot be initialized for task {task.arn}: {error}"


def _with_endpoints(task: Task, container: Container, endpoint_id: str) -> Container:
    environment = dict(container.environment)
    if task.credentials_id:
        environment["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"] = f"/v2/credentials/{task.credentials_id}"
    environment["ECS_CONTAINER_METADATA_URI"] = f"{ENDPOINT}/v3/{endpoint_id}"
    environment["ECS_CONTAINER_METADATA_URI_V4"] = f"{ENDPOINT}/v4/{endpoint_id}"
    environment["ECS_AGENT_URI"] = f"{ENDPOINT}/api/{endpoint_id}"
    log_config = folded(folded(host_config(container)).get("logconfig"))
    options = log_config.get("config")
    return replace(
        container,
        endpoint_id=endpoint_id,
        environment=environment,
        # The metadata endpoint shows the log driver that was asked for, not the one that Docker chose (spec 06 §8.1).
        log_driver=str(log_config.get("type") or ""),
        log_options=_texts(options) if isinstance(options, dict) else {},
    )


def _texts(options: dict[str, Any]) -> dict[str, str]:
    """A map of texts as the reference decodes it: null is "". Of another type there is none: the create fails."""
    return {key: value or "" for key, value in options.items() if value is None or isinstance(value, str)}


def _with_resources(container: Container, resources: Sequence[Resource]) -> Container:
    for resource in resources:
        rule = RESOURCE_RULES.get(resource.kind)
        if rule is not None and rule.applies(container, resource):
            container = waiting_for(container, resource, *rule.steps)
    return container


# -- firelens --------------------------------------------------------------------------------------


def _with_firelens_order(task: Task) -> Task:
    """Containers that log through the router start after it, unless the router itself waits for something."""
    router = next((c for c in task.containers if c.firelens is not None), None)
    if router is None:
        return task
    containers = []
    for container in task.containers:
        logs_there = _log_driver(container) == AWSFIRELENS and container.name != router.name
        waits = any(d.container_name == router.name for d in container.depends_on)
        if logs_there and not waits and not router.depends_on:
            entry = Dependency(container_name=router.name, condition="START")
            container = replace(container, depends_on=(*container.depends_on, entry))
        containers.append(container)
    return replace(task, containers=tuple(containers))


def _log_driver(container: Container) -> str:
    """The overlay's LogConfig.Type; an overlay that is not JSON was refused with the router's resource."""
    log_config = folded(folded(host_config(container)).get("logconfig"))
    return str(log_config.get("type", ""))


# -- a namespace for all containers of the task ----------------------------------------------------


def _with_namespace_pause(task: Task) -> Task:
    """pidMode or ipcMode `task`: a container that does nothing but hold the namespaces, from first to last."""
    if "task" not in (task.pid_mode, task.ipc_mode):
        return task
    up = TransitionDependency(target=NAMESPACE_PAUSE, status=int(C.RUNNING))
    containers = [waiting(c, C.PULLED, other=up) if not c.is_internal else c for c in task.containers]
    pause = Container(name=NAMESPACE_PAUSE, image=PAUSE_IMAGE, type=ContainerType.NAMESPACE_PAUSE, essential=True)
    for container in containers:
        if not container.is_internal:
            down = TransitionDependency(target=container.name, status=int(C.STOPPED))
            pause = waiting(pause, C.STOPPED, other=down)
    return replace(task, containers=(*containers, waiting_for_cgroup(pause, task.resources)))
