"""What ECS hears: which status changes become events of the outbox.

`emitted` is the highest status that is already in the outbox; it is saved together with the event, so each status is
announced once. acs compares with what ECS accepted before it sends (ECS agent behaviour, spec 03 §8.1, §8.2). That a
container runs waits a little for the start of its ECS Exec agent, so that both travel in one call (spec 05 §12.4).
"""

from __future__ import annotations

from msgspec.structs import replace

from common.model.messages import ContainerChanged, CredentialsReleased, TaskChanged
from common.model.status import ContainerStatus, TaskStatus
from common.model.task import Container, Task
from common.serviceconnect import AGENT_IMAGE, publisher
from services.engine.core.agents import is_awaited
from services.engine.core.turn import Turn

C, T = ContainerStatus, TaskStatus


def digest_resolved(container: Container) -> bool:
    """True when the agent itself found the digest: neither the image reference nor the image's archive told it."""
    told = "@" in container.image or container.image == AGENT_IMAGE
    return not container.is_internal and bool(container.image_digest) and not told


def is_reported(container: Container) -> bool:
    """Whether the container's present status is one that ECS hears about, and has not been told yet."""
    if container.is_internal or container.emitted >= container.known or is_awaited(container):
        return False
    if container.known == C.MANIFEST_PULLED:
        return digest_resolved(container)
    return container.known in (container.steady, C.STOPPED)


def task_is_reported(task: Task) -> bool:
    """The same for the task."""
    if task.is_internal or task.emitted >= task.known:
        return False
    if task.known == T.MANIFEST_PULLED:
        return any(digest_resolved(c) for c in task.containers)
    if task.known == T.RUNNING and any(is_awaited(c) for c in task.containers):
        return False
    return task.known in (T.RUNNING, T.STOPPED)


def container_event(task: Task, container: Container) -> ContainerChanged:
    """The container's present state as ECS hears it."""
    ports = publisher(task, container)
    return ContainerChanged(
        arn=task.arn,
        name=container.name,
        status=C.RUNNING if container.known.is_running else container.known,
        runtime_id=container.docker_id,
        exit_code=container.exit_code,
        reason=str(container.error) if container.error else "",
        image_digest=container.image_digest,
        port_bindings=ports.port_bindings,
        single_ports=tuple(sorted(ports.single_ports)),
        port_ranges=ports.port_ranges,
    )


def task_event(task: Task, reason: str) -> TaskChanged:
    """The task's present state as ECS hears it."""
    return TaskChanged(
        arn=task.arn,
        status=task.known,
        reason=reason,
        pull_started_at=task.pull_started_at,
        pull_stopped_at=task.pull_stopped_at,
        execution_stopped_at=task.execution_stopped_at,
    )


def emit_container(turn: Turn, name: str) -> None:
    """Announce the container's status, unless ECS does not hear about it or knows it."""
    container = turn.container(name)
    if is_reported(container):
        turn.emit(container_event(turn.task, container))
        turn.change_container(name, emitted=container.known)


def emit_task(turn: Turn, reason: str | None = None) -> None:
    """Announce the task's status; `reason` overrides the terminal reason of a stopped task."""
    task = turn.task
    if task_is_reported(task):
        if reason is None:
            reason = task.terminal_reason if task.known == T.STOPPED else ""
        turn.emit(task_event(task, reason))
        turn.change_task(emitted=task.known)


def emit_awaited(turn: Turn) -> None:
    """Announce what was held back for an ECS Exec agent and need not wait any more."""
    for container in turn.task.containers:
        if container.known.is_running:
            emit_container(turn, container.name)
    if turn.task.known == T.RUNNING:
        emit_task(turn)


def emit_start_first(turn: Turn, name: str) -> None:
    """The container has ended while its start was held back: that it ran is announced before its end."""
    container = turn.container(name)
    turn.emit(container_event(turn.task, replace(container, known=container.steady)))
    turn.change_container(name, emitted=container.steady)


def release_credentials(turn: Turn) -> None:
    """Say once, after the STOPPED report, that the task role's credentials are no longer needed."""
    task = turn.task
    if task.known != T.STOPPED or task.credentials_released:
        return
    if task.credentials_id:
        turn.emit(CredentialsReleased(arn=task.arn, credentials_ids=(task.credentials_id,)))
    turn.change_task(credentials_released=True)
