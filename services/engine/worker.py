"""One task's worker: a greenlet with one inbox, the only place where the task's document changes.

It takes what has arrived, asks the core, saves the task together with its events and acknowledgements, and only then
lets the crew perform what the core asked for. Results come back through the inbox. Between messages it sleeps; timers
are the wake-up times that the core names, the poll of long-running containers, and the cleanup.

A change that nobody but the metadata endpoint cares about is saved a moment later, together with what follows: a task
whose image is cached costs four writes. Names before create and ids before start are always saved first.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import gevent
import gevent.event
import gevent.queue
from msgspec import Struct

from common.backoff import Backoff
from common.clock import Clock
from common.errors import Temporary
from common.logs import fields
from common.model.messages import Event
from common.model.status import ContainerStatus, TaskStatus
from common.model.task import Resource, Task
from services.engine.admission import Admission
from services.engine.core import cleanup
from services.engine.core.begin import begin
from services.engine.core.changes import abandoned_pulls, ended_containers
from services.engine.core.decide import Desire, Finished, Look, Message, decide
from services.engine.core.dependencies import needs_execution_credentials
from services.engine.core.effects import Action, Effect, Outcome
from services.engine.core.progress import needs_admission
from services.engine.core.reconcile import republish, restored, to_inspect
from services.engine.core.turn import Decision, Settings, Surroundings, must_save
from services.engine.crew import Crew
from services.engine.images import Images
from services.engine.records import Records

log = logging.getLogger(__name__)

SETTLE_SECONDS = 0.05  # how long a change may stay unsaved
POLL_SECONDS, POLL_JITTER_SECONDS = 300.0, 30.0
STOP_PAUSE_SECONDS, LONGEST_STOP_PAUSE_SECONDS = 2.0, 60.0  # between rounds of stops that fail
SWEEP_PAUSE_SECONDS = 30.0  # a cleanup waits for a Docker that is away
TAKE_UP_ATTEMPTS = 6  # to inspect a container of which a Docker that answers does not tell; 10 s or so


class Poll(Struct, frozen=True):
    """Events may have been missed: inspect the containers."""


class Republish(Struct, frozen=True):
    """The store has lost its data: write the task and announce its state again."""


class Stop(Struct, frozen=True):
    """The engine ends: save and end too. Nothing happens to the containers."""


Letter = Message | Poll | Republish | Stop


@dataclass
class Shop:
    """What all workers share."""

    crew: Crew
    records: Records
    images: Images
    admission: Admission
    clock: Clock
    settings: Settings
    limits_enabled: bool
    resources_for: Callable[[Task], Iterable[Resource]]  # may ask Docker; raises SetupError
    index: Callable[[Task], None]  # told of the containers' Docker ids
    forget: Callable[[Task], None]  # told that the task is gone
    stopping: Callable[[], bool]
    boot: str = ""  # of the machine


def _runs(outcome: Outcome) -> bool:
    return outcome.observation is not None and outcome.observation.running


class Worker:
    """Carries one task from its arrival to its cleanup."""

    def __init__(self, task: Task, shop: Shop, is_new: bool, acks: Iterable[str] = ()) -> None:
        self.task, self.shop, self.is_new = task, shop, is_new
        self.ended = False
        self._inbox: gevent.queue.SimpleQueue = gevent.queue.SimpleQueue()
        self._hurry = gevent.event.Event()  # somebody waits for the end of the task, or of the worker
        self._acks = list(acks)
        self._performing = 0
        self._save_at = 0.0  # 0 = nothing is unsaved
        self._wake_at = 0.0
        self._poll_at = 0.0
        self._said: frozenset[str] = frozenset()
        self._credentials: set[str] = set()
        self._failed_stops: dict[str, Backoff] = {}  # by container
        self._cleanup_wait = shop.settings.cleanup_wait_seconds + random.uniform(
            0.0, shop.settings.cleanup_jitter_seconds
        )
        self._cleanup_at, self._checks, self._first_check = 0.0, 0, 0.0
        self._greenlet: gevent.Greenlet | None = None

    # -- from outside --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work."""
        self._greenlet = gevent.spawn(self._run)

    def put(self, letter: Letter, ack: str = "") -> None:
        """Hand the worker a message; `ack` is the command to acknowledge once its consequences are saved."""
        self._inbox.put((letter, ack))
        if isinstance(letter, Stop) or (isinstance(letter, Desire) and letter.status == TaskStatus.STOPPED):
            self._hurry.set()

    def join(self, seconds: float) -> bool:
        """Wait for the end; False when it has not come in time."""
        if self._greenlet is not None:
            self._greenlet.join(seconds)
        return self._greenlet is None or self._greenlet.dead

    def kill(self) -> list[str]:
        """End at once without saving; returns the commands that nobody has acknowledged."""
        if self._greenlet is not None:
            self._greenlet.kill()
        self.ended = True
        left, self._acks = self._acks, []
        while not self._inbox.empty():
            left += [ack for _, ack in [self._inbox.get_nowait()] if ack]
        return left

    def alive(self) -> bool:
        """Whether the worker still takes messages."""
        return self._greenlet is not None and not self._greenlet.dead

    # -- the loop ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._take_up()
            while not self.ended:
                self._round()
        except Temporary as error:
            log.info("the worker ends without saving: %s", error, **fields(task=self.task.arn))
        finally:
            self.ended = True

    def _take_up(self) -> None:
        try:
            self._begin() if self.is_new else self._restore()
        except Temporary:
            raise
        except Exception:
            log.critical(
                "the task could not be taken up as it should; it goes on with what is known of it",
                exc_info=True, **fields(task=self.task.arn),
            )  # fmt: skip
            self.put(Look())

    def _begin(self) -> None:
        decision = begin(self.task, self.shop.resources_for, self.shop.limits_enabled, self._around())
        if decision.events:
            self._apply(decision)  # rejected
        else:
            self.task = decision.task  # saved by the first round, together with what it leads to
        self._enter()

    def _restore(self) -> None:
        answers = {}
        for effect in to_inspect(self.task):
            answer = self._inspected(effect)
            if answer is None:
                self.ended = True
                return
            answers[effect.target] = answer
        self._apply(restored(self.task, answers, self._around()))
        self._enter()

    def _enter(self) -> None:
        if needs_admission(self.task):
            self.shop.admission.enter(self.task)
        self.put(Look())

    def _inspected(self, effect: Effect) -> Outcome | None:
        """What Docker tells; None when the engine ends first.

        A Docker that is away is waited for, unless the task shall stop: a STOP must always get through. One that
        answers but does not tell of this container must not keep the others waiting: its error is the answer then.
        """
        backoff = Backoff(0.5, 10.0, 1.5)
        for attempt in itertools.count(1):
            outcome = self.shop.crew.perform(effect, lambda: self.task)
            if outcome.error is None or outcome.gone:
                return outcome
            log.warning("Docker does not tell about %s: %s", effect.target, outcome.error, **fields(task=self.task.arn))
            if self.shop.stopping():
                return None
            if self._hurry.is_set() or (attempt >= TAKE_UP_ATTEMPTS and self._docker_answers(effect.target)):
                log.error("the task goes on without knowing about %s", effect.target, **fields(task=self.task.arn))
                return outcome
            self._hurry.wait(backoff.delay())
        return None

    def _docker_answers(self, target: str) -> bool:
        ping = Effect(action=Action.PING, target=target, reason="an inspect failed again and again")
        return self.shop.crew.perform(ping, lambda: self.task).error is None

    def _round(self) -> None:
        letters, acks = self._collect()
        if any(isinstance(letter, Stop) for letter in letters):
            self._end()  # commands that came with it are not acknowledged, and so come again
            return
        self._acks += acks
        try:
            self._handle(letters)
            self._timers()
        except Temporary:
            raise
        except Exception:
            log.critical(
                "a decision about the task failed; it goes on without these messages: %s",
                [type(m).__name__ for m in letters], exc_info=True, **fields(task=self.task.arn),
            )  # fmt: skip
            gevent.sleep(1.0)

    def _collect(self) -> tuple[list[Letter], list[str]]:
        """What has arrived; waits for the first message or the next timer."""
        letters: list[Letter] = []
        acks: list[str] = []
        try:
            letter, ack = self._inbox.get(timeout=self._timeout())
            while True:
                letters.append(letter)
                acks += [ack] if ack else []
                letter, ack = self._inbox.get_nowait()
        except gevent.queue.Empty:
            return letters, acks

    def _timeout(self) -> float | None:
        cleanup_at = 0.0 if self._performing else self._cleanup_at  # not before the calls under way have ended
        times = [t for t in (self._save_at, self._wake_at, self._poll_at, cleanup_at) if t]
        return max(0.0, min(times) - self.shop.clock.now()) if times else None

    def _end(self) -> None:
        if self._save_at or self._acks:
            self._save(())
        self.ended = True

    # -- decisions -----------------------------------------------------------------------------

    def _handle(self, letters: list[Letter]) -> None:
        messages: list[Message] = []
        for letter in letters:
            if isinstance(letter, Poll):
                self._poll()
            elif isinstance(letter, Republish):
                self._apply(republish(self.task, self._around()))
            elif not isinstance(letter, Stop):
                self._performing -= isinstance(letter, Finished)
                messages.append(letter)
        due = bool(self._wake_at) and self.shop.clock.now() >= self._wake_at
        if messages or due or self._acks:
            self._wake_at = 0.0
            self._apply(decide(self.task, messages or [Look()], self._around()))

    def _around(self) -> Surroundings:
        return Surroundings(
            now=self.shop.clock.now(), boot=self.shop.boot, settings=self.shop.settings,
            credentials=frozenset(self._known_credentials()),
        )  # fmt: skip

    def _known_credentials(self) -> set[str]:
        """Ids of execution role credentials that are there, asked for only if the task waits for them."""
        id_ = self.task.execution_credentials_id
        needed = any(needs_execution_credentials(c) for c in self.task.containers) or any(
            r.needs_execution_credentials for r in self.task.resources
        )
        if needed and id_ and id_ not in self._credentials and self.shop.records.has_credentials(id_):
            self._credentials.add(id_)
        return self._credentials

    def _apply(self, decision: Decision) -> None:
        before, self.task = self.task, decision.task
        self._log(decision.reasons)
        self._wake_at = decision.wake_at
        if self.task.known == TaskStatus.STOPPED and before.known != TaskStatus.STOPPED:
            self.shop.admission.release(self.task.arn)
        for name in abandoned_pulls(before, self.task):
            self.shop.crew.hands.cancel(self.task.arn, name)
        for container in ended_containers(before, self.task):
            self.shop.crew.hands.ended(container)
        if self._acks or must_save(before, decision):
            self._save(decision.events)
        elif self.task is not before and self.task != before and not self._save_at:
            self._save_at = self.shop.clock.now() + SETTLE_SECONDS
        self.shop.index(self.task)
        for effect in decision.effects:
            self._perform(effect)

    def _save(self, events: Iterable[Event]) -> None:
        acks = list(self._acks)
        self.task = self.shop.records.save(self.task, events, acks)
        self._acks, self._save_at = self._acks[len(acks) :], 0.0

    def _log(self, reasons: Iterable[str]) -> None:
        """Each sentence once, as long as it stays true."""
        now = frozenset(reasons)
        for sentence in dict.fromkeys(reasons):
            if sentence not in self._said:
                log.info("%s", sentence, **fields(task=self.task.arn))
        self._said = now or self._said

    # -- effects -------------------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        self._performing += 1
        log.debug("%s %s: %s", effect.action, effect.target, effect.reason, **fields(task=self.task.arn))
        failed = self._failed_stops.get(effect.target) if effect.action is Action.STOP else None
        self.shop.crew.start(effect, lambda: self.task, self._done, failed.delay() if failed else 0.0)

    def _done(self, effect: Effect, outcome: Outcome) -> None:
        if effect.action is Action.PULL:
            self.shop.images.used(self.task, effect.target, outcome)
        elif effect.action is Action.STOP and (outcome.error is not None or _runs(outcome)):
            pauses = Backoff(STOP_PAUSE_SECONDS, LONGEST_STOP_PAUSE_SECONDS, 2.0)
            self._failed_stops.setdefault(effect.target, pauses)
        self.put(Finished(effect, outcome))

    def _poll(self) -> None:
        for container in self.task.containers:
            idle = container.applied == ContainerStatus.NONE
            if container.docker_id and container.known != ContainerStatus.STOPPED and idle:
                self._perform(Effect(action=Action.INSPECT, target=container.name, reason="nothing was heard lately"))

    # -- timers --------------------------------------------------------------------------------

    def _timers(self) -> None:
        now = self.shop.clock.now()
        if self._save_at and now >= self._save_at:
            self._save(())
        if self.task.known == TaskStatus.STOPPED:
            self._poll_at = 0.0
            self._clean(now)
        elif not self._poll_at:
            self._poll_at = now + POLL_SECONDS + random.uniform(0.0, POLL_JITTER_SECONDS)
        elif now >= self._poll_at:
            self._poll_at = now + POLL_SECONDS + random.uniform(0.0, POLL_JITTER_SECONDS)
            self._poll()

    def _clean(self, now: float) -> None:
        due = cleanup.due_at(self.task, self._cleanup_wait)
        if self._performing or (self._cleanup_at and now < self._cleanup_at):
            return
        sent = self.shop.records.sent(self.task.arn) if now >= due else None
        self._first_check = self._first_check or max(now, due)
        step = cleanup.next_step(self.task, sent, now, due, self._checks, self._first_check)
        if isinstance(step, cleanup.Wait):
            self._checks += now >= due
            self._cleanup_at = now + step.seconds
        elif isinstance(step, cleanup.GiveUp):
            log.error("the task is not cleaned up: %s", step.reason, **fields(task=self.task.arn))
            self.ended = True
        else:
            self._sweep(step)

    def _sweep(self, step: cleanup.Sweep) -> None:
        for effect in step.effects:
            outcome = self.shop.crew.perform(effect, lambda: self.task)
            if outcome.error is None or outcome.gone:
                continue
            log.warning("%s %s failed: %s", effect.action, effect.target, outcome.error, **fields(task=self.task.arn))
            if not outcome.docker_answers:
                self._cleanup_at = self.shop.clock.now() + SWEEP_PAUSE_SECONDS
                return  # all of it again: what is gone by then is no error
        self.shop.images.released(self.task)
        self.shop.records.delete(self.task, cleanup.last_words(self.task), self._acks)
        self.ended = True
        self.shop.forget(self.task)
        _, late = self._collect() if not self._inbox.empty() else ([], [])
        self.shop.records.acknowledge(*late)
        log.info("the task is cleaned up", **fields(task=self.task.arn))
