"""The statuses. Their numeric order is semantic: comparisons use it (ECS agent behaviour, spec 03 §2.1)."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class ContainerStatus(IntEnum):
    """Where a container is, or should be."""

    NONE = 0
    MANIFEST_PULLED = 1
    PULLED = 2
    CREATED = 3
    RUNNING = 4
    RESOURCES_PROVISIONED = 5
    STOPPED = 6
    ZOMBIE = 7

    @property
    def is_running(self) -> bool:
        """True while the container's process is believed to run."""
        return self in (ContainerStatus.RUNNING, ContainerStatus.RESOURCES_PROVISIONED)


class TaskStatus(IntEnum):
    """Where a task is, or should be."""

    NONE = 0
    MANIFEST_PULLED = 1
    PULLED = 2
    CREATED = 3
    RUNNING = 4
    STOPPED = 5
    ZOMBIE = 6


class ResourceStatus(IntEnum):
    """Where a task resource is, or should be."""

    NONE = 0
    CREATED = 1
    REMOVED = 2


class HealthStatus(StrEnum):
    """A container's health as Docker's health check tells it."""

    UNKNOWN = "UNKNOWN"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"


class ContainerType(StrEnum):
    """Who put the container into the task. Only NORMAL ones come from the task definition and are reported."""

    NORMAL = "NORMAL"
    EMPTY_HOST_VOLUME = "EMPTY_HOST_VOLUME"
    CNI_PAUSE = "CNI_PAUSE"
    NAMESPACE_PAUSE = "NAMESPACE_PAUSE"
    SERVICE_CONNECT_RELAY = "SERVICE_CONNECT_RELAY"
    MANAGED_DAEMON = "MANAGED_DAEMON"


def wire_task_status(status: TaskStatus) -> str:
    """The word for `status` in SubmitTaskStateChange."""
    return status.name if status in (TaskStatus.RUNNING, TaskStatus.STOPPED) else "PENDING"


def wire_container_status(status: ContainerStatus) -> str:
    """The word for `status` in SubmitTaskStateChange; RESOURCES_PROVISIONED is reported as RUNNING."""
    if status.is_running:
        return "RUNNING"
    return "STOPPED" if status == ContainerStatus.STOPPED else "PENDING"
