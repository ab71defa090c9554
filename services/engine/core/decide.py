"""The one way into the core: messages for a task in, a Decision out.

Messages that arrived together are handled in their order and decided on together, so that a burst costs one commit;
no status is lost by that, because each message announces what it brings about before the next is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from common.model.status import TaskStatus
from common.model.task import Task
from services.engine.core import outcomes
from services.engine.core.effects import DockerEvent, Effect, Outcome
from services.engine.core.prepare import RENEWED
from services.engine.core.progress import advance, renew
from services.engine.core.status import set_desired, set_terminal_reason
from services.engine.core.turn import Decision, Surroundings, Turn


class Desire(Struct, frozen=True):
    """ECS wants the task to be in `status`."""

    status: TaskStatus
    why: str = "ECS asks for it"


class Finished(Struct, frozen=True):
    """An effect has come to its end."""

    effect: Effect
    outcome: Outcome


class Happened(Struct, frozen=True):
    """Docker told about the container `name`."""

    name: str
    event: DockerEvent


class PullBegan(Struct, frozen=True):
    """The first registry pull of the task began (Unix seconds)."""

    at: float


class Admitted(Struct, frozen=True):
    """The task holds its host resources now."""


class Inadmissible(Struct, frozen=True):
    """The task asks the host for something that the host does not know; waiting would not help."""

    reason: str


class CredentialsArrived(Struct, frozen=True):
    """Role credentials of the task arrived or changed."""

    credentials_id: str
    execution: bool = False


class Look(Struct, frozen=True):
    """Time has passed."""


Message = Desire | Finished | Happened | PullBegan | Admitted | Inadmissible | CredentialsArrived | Look


def decide(task: Task, messages: Iterable[Message], around: Surroundings) -> Decision:
    """What becomes of the task by these messages, and what to do next."""
    turn = Turn(task, around)
    for message in messages:
        HANDLERS[type(message)](turn, message)
    advance(turn)
    return turn.decision()


def _desire(turn: Turn, message: Desire) -> None:
    set_desired(turn, message.status, message.why)


def _finished(turn: Turn, message: Finished) -> None:
    outcomes.finished(turn, message.effect, message.outcome)


def _happened(turn: Turn, message: Happened) -> None:
    outcomes.docker_event(turn, message.name, message.event)


def _pull_began(turn: Turn, message: PullBegan) -> None:
    outcomes.pull_began(turn, message.at)


def _admitted(turn: Turn, message: Admitted) -> None:
    turn.change_task(admitted=True)
    turn.say("the host has room for the task")


def _inadmissible(turn: Turn, message: Inadmissible) -> None:
    set_terminal_reason(turn, message.reason)
    set_desired(turn, TaskStatus.STOPPED, message.reason)


def _credentials(turn: Turn, message: CredentialsArrived) -> None:
    field = "execution_credentials_id" if message.execution else "credentials_id"
    if message.credentials_id and getattr(turn.task, field) != message.credentials_id:
        turn.change_task(**{field: message.credentials_id})
    if message.execution:
        renew(turn, [r for r in turn.task.resources if r.detail.get(RENEWED)], "its role has new credentials")


def _look(turn: Turn, message: Look) -> None:
    """Looking is all there is to it: `advance` follows."""


HANDLERS: dict[type, Callable[[Turn, Any], None]] = {
    Desire: _desire,
    Finished: _finished,
    Happened: _happened,
    PullBegan: _pull_began,
    Admitted: _admitted,
    Inadmissible: _inadmissible,
    CredentialsArrived: _credentials,
    Look: _look,
}
