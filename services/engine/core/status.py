"""Bringing the task's statuses up to date after any change, and announcing what changed."""

from __future__ import annotations

from common.model.status import ContainerStatus, TaskStatus
from services.engine.core import agents
from services.engine.core.emission import (
    emit_awaited,
    emit_container,
    emit_start_first,
    emit_task,
    release_credentials,
)
from services.engine.core.names import terminal_reason
from services.engine.core.states import known_status, with_desired
from services.engine.core.turn import Turn

C, T = ContainerStatus, TaskStatus
PROGRESS_REASON = "TaskStateError: Agent could not progress task's state to stopped"


def refresh(turn: Turn) -> None:
    """Derive the task's known status, pass desired statuses on, and announce a new status."""
    before, known = turn.task.known, known_status(turn.task)
    if known > before:
        turn.change_task(known=known, known_at=turn.around.now)
        turn.say(f"the task is {known.name}")
    turn.task = with_desired(turn.task)
    if known > before:  # only then: a digest that the pull found makes no PENDING report of its own (spec 03 §6.3)
        emit_task(turn)
    release_credentials(turn)


def reached(turn: Turn, name: str) -> None:
    """The container has a new known status: record, announce, and look at the task."""
    container = turn.container(name)
    if container.known == C.RUNNING:
        turn.change_container(name, boot=turn.around.boot)
        agents.container_runs(turn, name)
    if container.known == C.STOPPED:
        if agents.is_awaited(container):
            emit_start_first(turn, name)
        agents.container_stopped(turn, name)
        emit_awaited(turn)
        if container.essential and not turn.task.execution_stopped_at:
            turn.change_task(execution_stopped_at=turn.around.now)
    emit_container(turn, name)
    refresh(turn)


def set_desired(turn: Turn, status: TaskStatus, why: str) -> bool:
    """Raise the task's desired status; it never falls. False when it was there already."""
    if status <= turn.task.desired:
        return False
    turn.say(f"the task shall be {status.name}: {why}")
    turn.change_task(desired=status)
    turn.task = with_desired(turn.task)
    return True


def set_terminal_reason(turn: Turn, text: str) -> None:
    """Keep the first reason of the task's life."""
    if not turn.task.terminal_reason:
        turn.change_task(terminal_reason=terminal_reason(text))


def give_up(turn: Turn) -> None:
    """Nothing in the task can move any more (spec 03 §3.5)."""
    task = turn.task
    if task.desired == T.STOPPED:
        turn.say("nothing can move although the task shall stop; it counts as stopped")
        turn.change_task(known=T.STOPPED, known_at=turn.around.now)
        emit_task(turn, PROGRESS_REASON)
        release_credentials(turn)
    elif any(c.essential and c.known != c.steady for c in task.containers):
        set_desired(turn, T.STOPPED, "an essential container cannot reach its steady status and nothing else can move")


def reject(turn: Turn, reason: str) -> None:
    """The task never runs: one STOPPED report without containers and times (spec 03 §3.4)."""
    turn.say(f"the task is rejected: {reason}")
    for container in turn.task.containers:
        turn.change_container(container.name, desired=C.STOPPED, known=C.STOPPED, emitted=C.STOPPED)
    turn.change_task(
        desired=T.STOPPED,
        known=T.STOPPED,
        known_at=turn.around.now,
        resources=(),
        rejected=True,
        terminal_reason=turn.task.terminal_reason or reason,
    )
    emit_task(turn, reason)
    release_credentials(turn)
