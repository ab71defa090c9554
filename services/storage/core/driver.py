"""The task of the EBS CSI driver: a container that the agent runs for itself (ECS agent behaviour, spec 05 §5).

ECS knows nothing of it. Docker restarts its process after a crash; a container that has ended for good is answered by
a new task at the next need.
"""

from __future__ import annotations

import json
import os
import uuid
from enum import Enum, auto

from common.ebs import DRIVER_IMAGE
from common.model.status import ContainerType, TaskStatus
from common.model.task import Container, Task

NAME = "ebs-csi-driver"
CONTAINER_NAME = f"ecs-managed-{NAME}"
CONTAINER_ARN = f"arn:::::/instance-{NAME}"
INSIDE = "/csi-driver/"  # the socket's directory in the container
COMMAND_OPTIONS = ("--log_file=/var/log/csi.log", "--log_file_max_size=20", "--logtostderr=false")
STEADY_SECONDS = 60.0  # a driver that has run for so long is no longer one that fails at its start


class Condition(Enum):
    """How the driver's task stands."""

    RUNS = auto()
    COMES = auto()  # or goes: not now
    ABSENT = auto()  # never asked for, not taken up yet, or cleaned up
    ENDED = auto()


def condition(task: Task | None) -> Condition:
    """What the task's document tells."""
    if task is None:
        return Condition.ABSENT
    if task.known >= TaskStatus.STOPPED:
        return Condition.ENDED
    if task.known == TaskStatus.RUNNING and task.desired == TaskStatus.RUNNING:
        return Condition.RUNS
    return Condition.COMES


def new_arn() -> str:
    """The ARN of another driver task."""
    return f"arn:::::/{NAME}-{uuid.uuid4()}"


def task_of(arn: str, socket_path: str, log_directory: str, volumes: str) -> Task:
    """The driver's task. Its network is none at last: that of every internal container (spec 04 §1.1)."""
    mounts = [
        _mount(os.path.dirname(socket_path) + "/", INSIDE),
        _mount(log_directory + "/", "/var/log/"),
        _mount(volumes, volumes, shared=True),
        _mount("/dev", "/dev", shared=True),
    ]
    host_config = {
        "Privileged": True,
        "CapAdd": ["SYS_ADMIN"],
        "NetworkMode": "host",
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 0},
        "Mounts": mounts,
    }
    container = Container(
        name=CONTAINER_NAME,
        container_arn=CONTAINER_ARN,
        image=DRIVER_IMAGE,
        type=ContainerType.MANAGED_DAEMON,
        essential=True,
        command=(f"--endpoint=unix:/{INSIDE}{os.path.basename(socket_path)}", *COMMAND_OPTIONS),
        docker_config=json.dumps({"User": "0", "Healthcheck": {}}),
        docker_host_config=json.dumps(host_config),
    )
    return Task(arn=arn, is_internal=True, desired=TaskStatus.RUNNING, containers=(container,))


def _mount(source: str, target: str, shared: bool = False) -> dict[str, object]:
    mount: dict[str, object] = {"Type": "bind", "Source": source, "Target": target}
    return mount | ({"BindOptions": {"Propagation": "shared"}} if shared else {})
