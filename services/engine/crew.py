"""Greenlets that perform effects, a bounded number of each sort at a time.

The bounds keep a burst from drowning the Docker daemon; they are wide, because a call that hangs until its deadline
holds a place. Stops have their own, since each may last as long as the container's stop timeout. But they begin a few
at a time: containers that end at once, all together, contend inside Docker and the kernel and all of them end later. A
stop that lasts gives its place in this gate to the next one after YOUNG_SECONDS.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore
from msgspec.structs import replace

from common.errors import NamedError
from common.logs import fields
from common.model.task import Container, Task
from services.engine.core.effects import Action, Effect, Outcome
from services.engine.core.states import is_pointless

log = logging.getLogger(__name__)

PLACES: dict[str, int] = {"image": 64, "docker": 32, "stop": 512, "look": 8, "remove": 8, "resource": 32, "agent": 32}
YOUNG_STOPS, YOUNG_SECONDS = 8, 0.5
HOST_LOOK_SECONDS = 0.5
PLACE_LOOK_SECONDS = 2.0  # places may be held by calls that hang; a stop must not wait for what waits for one
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
PINGED = (Action.STOP, Action.REMOVE, Action.REMOVE_RESOURCE)


class Performs(Protocol):
    """The part of the hands that a crew needs."""

    def perform(self, task: Task, effect: Effect) -> Outcome: ...

    def cancel(self, task_arn: str, container: str = "") -> None: ...

    def ended(self, container: Container) -> None: ...


class Crew:
    """Performs effects for all workers."""

    def __init__(self, hands: Performs, may_start: Event | None = None) -> None:
        """No container is started before `may_start` is set; without it at any time."""
        self.hands, self._may_start = hands, may_start
        self._places = {sort: BoundedSemaphore(places) for sort, places in PLACES.items()}
        self._young_stops = BoundedSemaphore(YOUNG_STOPS)

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
        if effect.action is Action.START:
            self._wait_for_host(effect, task)
        place = self._places[SORT.get(effect.action, "docker")]
        while not place.acquire(timeout=PLACE_LOOK_SECONDS):
            if is_pointless(effect, task()):
                return Outcome(action=effect.action, target=effect.target, skipped=True)
        try:
            return self._perform_now(effect, task)
        finally:
            place.release()

    def _perform_now(self, effect: Effect, task: Callable[[], Task]) -> Outcome:
        with self._gate(effect.action):
            now = task()
            if is_pointless(effect, now):
                return Outcome(action=effect.action, target=effect.target, skipped=True)
            outcome = self._perform(effect, now)
            if effect.action in PINGED and outcome.error is not None and not outcome.gone:
                return self._with_ping(effect, outcome, task())
            return outcome

    def _wait_for_host(self, effect: Effect, task: Callable[[], Task]) -> None:
        """Until the host is prepared for containers, or nobody wants this one to start any more."""
        while self._may_start is not None and not self._may_start.wait(HOST_LOOK_SECONDS):
            if is_pointless(effect, task()):
                return

    @contextmanager
    def _gate(self, action: Action) -> Iterator[None]:
        """Let the next stop begin when this one has ended or is no longer young."""
        if action is not Action.STOP:
            yield
            return
        self._young_stops.acquire()
        held = [self._young_stops]

        def let_go() -> None:
            if held:
                held.pop().release()

        grown = gevent.spawn_later(YOUNG_SECONDS, let_go)
        try:
            yield
        finally:
            grown.kill(block=False)
            let_go()

    def _perform(self, effect: Effect, task: Task) -> Outcome:
        try:
            return self.hands.perform(task, effect)
        except Exception as error:
            log.critical(
                "%s %s: an unexpected fault; it counts as failed",
                effect.action, effect.target, exc_info=True, **fields(task=task.arn),
            )  # fmt: skip
            text = f"{type(error).__name__}: {error}"
            return Outcome(action=effect.action, target=effect.target, error=NamedError("UnknownError", text))

    def _with_ping(self, effect: Effect, outcome: Outcome, task: Task) -> Outcome:
        """Whether it failed because Docker is away is another matter than Docker's own refusal."""
        ping = self._perform(Effect(action=Action.PING, target=effect.target, reason=f"{effect.action} failed"), task)
        return replace(outcome, docker_answers=ping.error is None)
