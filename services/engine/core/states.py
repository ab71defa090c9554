"""Which status follows which: the tables of containers, tasks and resources.

A container climbs one row at a time until its steady status, and goes from there to STOPPED; one that does not run
is stopped without asking Docker. The task's status is derived from its containers, never set by an event
(ECS agent behaviour, spec 03 §2).
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from common.model.status import ContainerStatus, ResourceStatus, TaskStatus
from common.model.task import Container, Resource, Task
from services.engine.core.effects import Action, Effect

C, T, R = ContainerStatus, TaskStatus, ResourceStatus

CLIMB: dict[ContainerStatus, tuple[ContainerStatus, Action]] = {
    # known             next                         what leads there
    C.NONE:            (C.MANIFEST_PULLED,           Action.RESOLVE_MANIFEST),
    C.MANIFEST_PULLED: (C.PULLED,                    Action.PULL),
    C.PULLED:          (C.CREATED,                   Action.CREATE),
    C.CREATED:         (C.RUNNING,                   Action.START),
    C.RUNNING:         (C.RESOURCES_PROVISIONED,     Action.PROVISION),
}  # fmt: skip

LEADS_TO: dict[Action, ContainerStatus] = {action: status for status, action in CLIMB.values()}

# What a container in a status makes of its task, unless it is at its steady status (then RUNNING).
TASK_STATUS: dict[ContainerStatus, TaskStatus] = {
    C.NONE:            T.NONE,
    C.MANIFEST_PULLED: T.MANIFEST_PULLED,
    C.PULLED:          T.MANIFEST_PULLED,
    C.CREATED:         T.CREATED,
    C.RUNNING:         T.CREATED,  # on its way to RESOURCES_PROVISIONED
    C.STOPPED:         T.STOPPED,
}  # fmt: skip

# What the task's desired status asks of a resource.
RESOURCE_DESIRED: dict[TaskStatus, ResourceStatus] = {T.RUNNING: R.CREATED}  # every other one: REMOVED


class Step(Struct, frozen=True):
    """The next status of a container. Without `action` it is reached at once, without Docker."""

    status: ContainerStatus
    action: Action | None = None


def natural_next(container: Container) -> ContainerStatus:
    """known + 1, or STOPPED from the steady status: what transition dependencies are looked up by."""
    if container.known >= container.steady or container.known not in CLIMB:
        return C.STOPPED
    return CLIMB[container.known][0]


def next_step(container: Container) -> Step | None:
    """The container's next step towards its desired status; None when it is there (or past it), or must wait."""
    if container.known >= container.desired:
        return None
    if container.desired == C.STOPPED:
        return _towards_stopped(container)
    status, action = CLIMB[container.known] if container.known < container.steady else (C.STOPPED, Action.STOP)
    return Step(status, action)


def is_pointless(effect: Effect, task: Task) -> bool:
    """Whether an effect that waited for its turn is not wanted any more: its container was stopped meanwhile.

    A pull or create ends for a container that is STOPPED already; a start for one that shall be.
    """
    container = task.container(effect.target)
    if container is None or effect.action not in (Action.RESOLVE_MANIFEST, Action.PULL, Action.CREATE, Action.START):
        return False
    return container.known == C.STOPPED or (effect.action is Action.START and container.desired == C.STOPPED)


def _towards_stopped(container: Container) -> Step | None:
    if container.known.is_running:
        return Step(C.STOPPED, Action.STOP)
    # A start in flight may yet succeed, and a stop after an uncertain start has not told yet: a container marked
    # STOPPED now might run on, unknown to anyone.
    return None if container.applied in (C.RUNNING, C.STOPPED) else Step(C.STOPPED)


def task_status_of(container: Container) -> TaskStatus:
    """What this container alone makes of its task."""
    if container.known == container.steady:
        return T.RUNNING
    return TASK_STATUS.get(container.known, T.NONE)


def known_status(task: Task) -> TaskStatus:
    """The task's known status as its containers tell it; never lower than it is."""
    if not task.containers:
        return task.known
    earliest = min(task.containers, key=lambda c: c.known)
    if earliest.known == earliest.steady and any(c.essential and c.known == C.STOPPED for c in task.containers):
        return task.known
    return max(task.known, min(task_status_of(c) for c in task.containers))


def with_desired(task: Task) -> Task:
    """The task with its desired status passed on, up from essential containers, then down to all."""
    desired = task.desired
    if any(c.essential and C.STOPPED in (c.known, c.desired) for c in task.containers):
        desired = T.STOPPED
    containers = tuple(_container_desired(c, desired) for c in task.containers)
    resources = tuple(_resource_desired(r, desired) for r in task.resources)
    if desired == task.desired and containers == task.containers and resources == task.resources:
        return task
    return replace(task, desired=desired, containers=containers, resources=resources)


def _container_desired(container: Container, task: TaskStatus) -> Container:
    wanted = {T.RUNNING: container.steady, T.STOPPED: C.STOPPED, T.CREATED: C.CREATED}.get(task, C.NONE)
    return replace(container, desired=wanted) if wanted > container.desired else container


def _resource_desired(resource: Resource, task: TaskStatus) -> Resource:
    wanted = RESOURCE_DESIRED.get(task, R.REMOVED)
    return replace(resource, desired=wanted) if wanted > resource.desired else resource


def is_steady(task: Task) -> bool:
    """Nothing to do but to wait for events."""
    return task.known == T.RUNNING and task.known >= task.desired
