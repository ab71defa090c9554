"""Names that the engine gives to Docker objects, and their labels (ECS agent behaviour, spec 03 §6.5)."""

from __future__ import annotations

import re
import secrets

from common.model.task import Container, Task

LABEL = "com.amazonaws.ecs."
TASK_ARN = LABEL + "task-arn"
CONTAINER_NAME = LABEL + "container-name"
FAMILY = LABEL + "task-definition-family"
VERSION = LABEL + "task-definition-version"
CLUSTER = LABEL + "cluster"

_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9-]")


def suffix() -> str:
    """20 lower-case hex digits: a random number in the reference's encoding (zig-zag varint, 10 bytes)."""
    number = secrets.randbits(63) << 1
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded).ljust(10, b"\0").hex()


def container(task: Task, name: str) -> str:
    """A Docker name for the container `name` of `task`. Random: choose it once and save it before the create call."""
    return f"ecs-{task.family}-{task.version}-{_NOT_ALLOWED.sub('', name)}-{suffix()}"


def volume(task: Task, name: str) -> str:
    """A Docker name for a volume that the agent makes for `task`. Random, as above."""
    return f"ecs-{task.family}-{task.version}-{name}-{suffix()}"


def labels(task: Task, of: Container, cluster: str) -> dict[str, str]:
    """The labels of a container; they win over labels of the task definition."""
    return {
        TASK_ARN: task.arn,
        CONTAINER_NAME: of.name,
        FAMILY: task.family,
        VERSION: task.version,
        CLUSTER: cluster,
    }
