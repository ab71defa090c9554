"""When a stopped task is cleaned up, and what that takes.

Nothing is removed before ECS has accepted the STOPPED report: until then the containers are the only witnesses. A
report that is never accepted keeps them for 72 hours; then the worker gives up and the next start of the agent tries
again (ECS agent behaviour, spec 03 §10).
"""

from __future__ import annotations

from msgspec import Struct

from common.model.agent import Sent
from common.model.messages import CredentialsReleased, Event, TaskForgotten
from common.model.status import TaskStatus
from common.model.task import Task
from services.engine.core.effects import Action, Effect

LONGEST_WAIT_SECONDS = 72 * 3600.0
FIRST_CHECK_SECONDS, LAST_CHECK_SECONDS = 1.0, 30.0


class Wait(Struct, frozen=True):
    """Not yet; look again after `seconds`."""

    seconds: float
    reason: str


class Sweep(Struct, frozen=True):
    """Now: perform these one after the other (a failure is logged, no more), then forget the task."""

    effects: tuple[Effect, ...]


class GiveUp(Struct, frozen=True):
    """Never, in this life of the agent."""

    reason: str


def due_at(task: Task, wait_seconds: float) -> float:
    """When the task may be cleaned up (Unix seconds); `wait_seconds` contains the jitter."""
    return task.known_at + wait_seconds


def next_step(
    task: Task, sent: Sent | None, now: float, due: float, checks: int, since: float
) -> Wait | Sweep | GiveUp:
    """What to do about a task that is known STOPPED.

    `checks` counts the looks at `sent` so far, `since` is the time of the first of them (in this life of the agent).
    """
    if now < due:
        return Wait(due - now, "stopped tasks are kept for a while")
    accepted = task.is_internal or (sent is not None and sent.task >= TaskStatus.STOPPED)
    if accepted:
        return Sweep(sweep(task))
    if now - since > LONGEST_WAIT_SECONDS:
        return GiveUp("ECS has not accepted the STOPPED report for 72 hours; the containers stay until the next start")
    seconds = min(LAST_CHECK_SECONDS, FIRST_CHECK_SECONDS * 2 ** min(checks, 10))
    return Wait(seconds, "ECS has not yet accepted the STOPPED report")


def sweep(task: Task) -> tuple[Effect, ...]:
    """Remove the containers in their order, then the resources."""
    containers = [
        Effect(action=Action.REMOVE, target=c.name, reason="the task is cleaned up")
        for c in task.containers
        if c.docker_id or c.docker_name
    ]
    resources = [
        Effect(action=Action.REMOVE_RESOURCE, target=r.name, reason="the task is cleaned up") for r in task.resources
    ]
    return (*containers, *resources)


def last_words(task: Task) -> tuple[Event, ...]:
    """The events that go with the deletion of the task: no credentials of it are needed, nor what ECS was told."""
    ids = tuple(i for i in (task.execution_credentials_id, task.credentials_id) if i)
    released = (CredentialsReleased(arn=task.arn, credentials_ids=ids),) if ids else ()
    return released if task.is_internal else (*released, TaskForgotten(arn=task.arn))
