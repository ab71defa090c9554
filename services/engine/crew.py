"""Greenlets that perform effects, a bounded number of each sort at a time.

The bounds keep a burst from drowning the Docker daemon; they are wide, because a call that hangs until its deadline
holds a place. Stops have their own, since each may last as long as the container's stop timeout. But creations and
starts, and stops, begin a few at a time: all together they contend inside Docker and the kernel, all of them end late
and at once, and what follows from each (inspecting, saving, reporting) waits for that moment too. One that lasts gives
its place in this gate to the next.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import gevent
from gevent.lock import BoundedSemaphore
from msgspec.structs import replace

from common.errors import NamedError
from common.logs import fields
from common.model.task import Task
from services.engine.core.effects import Action, Effect, Outcome

log = logging.getLogger(__name__)

PLACES: dict[str, int] = {"image": 64, "docker": 32, "stop": 512, "look": 8, "remove": 8, "resource": 32, "agent": 32}
YOUNG_STOPS, YOUNG_STOP_SECONDS = 8, 0.5
YOUNG_STARTS, YOUNG_START_SECONDS = max(6, 3 * (os.cpu_count() or 2)), 2.0
SORT: dict[Action, str] = {
    Action.RESOLVE_MANIFEST: "image",
    Action.PULL: "image",
    Action.STOP: "stop",
    Action.INSPECT: "look",
    Action.CREATE_RESOURCE: "resource",
    Action.REMOVE_RESOURCE: "resource",
    Action.REMOVE: "remove",
    Action.START_AGENT: "agent",
    Action.CHECK_AGENT: "agent",
}  # every other one: docker
PINGED = (Action.STOP, Action.REMOVE)


class Performs(Protocol):
    """The part of the hands that a crew needs."""

    def perform(self, task: Task, effect: Effect) -> Outcome: ...

    def cancel(self, task_arn: str, container: str = "") -> None: ...


class Gate:
    """Lets the next one begin when one has ended or is no longer young."""

    def __init__(self, young: int, seconds: float) -> None:
        self._young, self._seconds = BoundedSemaphore(young), seconds

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Wait for a place; inside, it is held until the end or for as long as one is young."""
        self._young.acquire()
        held = [self._young]

        def let_go() -> None:
            if held:
                held.pop().release()

        grown = gevent.spawn_later(self._seconds, let_go)
        try:
            yield
        finally:
            grown.kill(block=False)
            let_go()


class Crew:
    """Performs effects for all workers."""

    def __init__(self, hands: Performs) -> None:
        self.hands = hands
        self._places = {sort: BoundedSemaphore(places) for sort, places in PLACES.items()}
        stops, starts = Gate(YOUNG_STOPS, YOUNG_STOP_SECONDS), Gate(YOUNG_STARTS, YOUNG_START_SECONDS)
        self._gates = {Action.STOP: stops, Action.CREATE: starts, Action.START: starts}

    def start(
        self,
        effect: Effect,
        task: Callable[[], Task],
        done: Callable[[Effect, Outcome], None],
        delay_seconds: float = 0.0,
    ) -> None:
        """Perform in the background; `task` gives the task as it is when the effect's turn comes."""

        def work() -> None:
            done(effect, self.perform(effect, task))

        if delay_seconds:
            gevent.spawn_later(delay_seconds, work)
        else:
            gevent.spawn(work)

    def perform(self, effect: Effect, task: Callable[[], Task]) -> Outcome:
        """Perform and wait for the outcome. Never raises."""
        with self._places[SORT.get(effect.action, "docker")], self._gate(effect.action):
            outcome = self._perform(effect, task())
            if effect.action in PINGED and outcome.error is not None and not outcome.gone:
                return self._with_ping(effect, outcome, task())
            return outcome

    def _gate(self, action: Action) -> AbstractContextManager[None]:
        gate = self._gates.get(action)
        return gate.passing() if gate else nullcontext()

    def _perform(self, effect: Effect, task: Task) -> Outcome:
        try:
            return self.hands.perform(task, effect)
        except Exception as error:
            log.critical("%s of %s failed unexpectedly", effect.action, effect.target, exc_info=True)
            log.error("the effect counts as failed", **fields(task=task.arn, action=effect.action))
            text = f"{type(error).__name__}: {error}"
            return Outcome(action=effect.action, target=effect.target, error=NamedError("UnknownError", text))

    def _with_ping(self, effect: Effect, outcome: Outcome, task: Task) -> Outcome:
        """Whether it failed because Docker is away is another matter than Docker's own refusal."""
        ping = self._perform(Effect(action=Action.PING, target=effect.target, reason=f"{effect.action} failed"), task)
        return replace(outcome, docker_answers=ping.error is None)
