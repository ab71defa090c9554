"""The engine dies at every single step of a task's life, one step after the other: the outcome is always the same.

A step is a commit to the store or a call to Docker. Death comes right before it, or right after it, when the answer is
lost. It is simulated: everything of the engine in memory is thrown away and a new engine begins on the same store and
the same Docker. All lives run beside each other in greenlets.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gevent
import msgspec
import pytest
from msgspec.structs import replace

from common import keys
from common.bus import Change
from common.clock import SystemClock
from common.config import load
from common.memory import MemoryBus, MemoryStore
from common.model.agent import Sent
from common.model.messages import ContainerChanged, CredentialsReleased, Event, RunOrUpdateTask, TaskChanged
from common.model.status import TaskStatus
from common.model.task import Container, Resource, Task
from services.engine.core.effects import Action, Effect, Outcome
from services.engine.engine import Engine
from services.engine.restore import restore
from tests.fakes.hands import FakeDocker, FakeHands

ARN = "arn:aws:ecs:us-west-2:1:task/c/t1"
NEVER = 10**9
SECONDS = 30.0


class Killed(gevent.GreenletExit):
    """SIGKILL, as a greenlet meets it."""


@dataclass
class Fate:
    """When an engine dies: at its n-th step, before it or after it."""

    at: int = NEVER
    after: bool = False
    count: int = 0
    dead: bool = False
    step: str = ""

    def meet(self, name: str, do: Any) -> Any:
        """Take one step."""
        if self.dead:
            raise Killed
        self.count += 1
        if self.count != self.at:
            return do()
        if self.after:
            do()
        self.dead, self.step = True, name
        raise Killed


class MortalStore:
    """A store as one engine sees it."""

    def __init__(self, store: MemoryStore, fate: Fate) -> None:
        self.store, self.fate = store, fate

    def commit(self, change: Change, deadline_seconds: float | None = None) -> bool:
        """A step."""
        names = ", ".join(f"{c[0]} {c[1]}" for c in change.commands)
        return bool(self.fate.meet(f"commit of {names}", lambda: self.store.commit(change)))

    def __getattr__(self, name: str) -> Any:
        if self.fate.dead:
            raise Killed
        return getattr(self.store, name)


class MortalHands(FakeHands):
    """Hands that belong to one engine."""

    def __init__(self, docker: FakeDocker, fate: Fate) -> None:
        super().__init__(docker)
        self.fate = fate
        self.resources[ARN] = (Resource(kind="volume", name="v"),)

    def perform(self, task: Task, effect: Effect) -> Outcome:
        """A step."""
        outcome: Outcome = self.fate.meet(
            f"{effect.action} of {effect.target}", lambda: super(MortalHands, self).perform(task, effect)
        )
        return outcome


class Life:
    """A task's life on one host, through the death of one engine."""

    def __init__(self, fate: Fate) -> None:
        self.fate, self.bus, self.docker = fate, MemoryBus(), FakeDocker()
        self.engine = self._engine(fate)
        self.deaths = 0

    def _engine(self, fate: Fate) -> Engine | None:
        bus: Any = MemoryBus()
        bus.durable, bus.volatile = MortalStore(self.bus.durable, fate), MortalStore(self.bus.volatile, fate)
        hands = MortalHands(self.docker, fate)
        config = load({"ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION": "1s"})
        engine = Engine(config, bus, hands, hands.facts(), SystemClock(), lambda: False)
        engine.shop.settings = replace(engine.shop.settings, cleanup_wait_seconds=0.0)
        try:
            engine.facts = engine.records.publish_facts(engine.facts)
            restore(engine)
            engine.start()
        except Killed:
            return engine
        return engine

    def bury(self) -> None:
        """Throw away what the dead engine had in memory."""
        for listener in list(self.docker.listeners):
            self.docker.listeners.remove(listener)
        if self.engine is not None:
            gevent.killall([g for w in self.engine.workers.values() if (g := w._greenlet)], block=False)
            gevent.killall(self.engine._greenlets, block=False)

    def until(self, condition: Any) -> None:
        """Wait; the engine that dies is followed by another."""
        end = time.monotonic() + SECONDS
        while not condition():
            if self.fate.dead and not self.deaths:
                self.deaths += 1
                self.bury()
                self.engine = self._engine(Fate())
            assert time.monotonic() < end, f"it does not go on: {self.known().name}"
            gevent.sleep(0.01)

    def known(self) -> TaskStatus:
        """As it is saved."""
        task = self.bus.durable.get(keys.TASK, ARN)
        return task.known if task else TaskStatus.NONE

    def live(self) -> dict[str, Any]:
        """Run, stop, be cleaned up; what came of it."""
        app = Container(name="app", image="busybox", essential=True)
        task = Task(
            arn=ARN, family="web", version="7", containers=(app,), desired=TaskStatus.RUNNING,
            credentials_id="role", execution_credentials_id="execution",
        )  # fmt: skip
        durable = self.bus.durable
        durable.commit(Change().append(keys.COMMANDS, RunOrUpdateTask(task=task)))
        self.until(lambda: self.known() == TaskStatus.RUNNING)
        durable.commit(Change().append(keys.COMMANDS, RunOrUpdateTask(task=replace(task, desired=TaskStatus.STOPPED))))
        self.until(lambda: self.known() == TaskStatus.STOPPED)
        before = self.released()
        durable.commit(Change().save(keys.SENT, ARN, Sent(revision=1, task=TaskStatus.STOPPED)))
        self.until(lambda: durable.get(keys.TASK, ARN) is None and not durable.streams.get(keys.COMMANDS))
        self.bury()
        return self.outcome(before)

    def events(self) -> list[Event]:
        """The outbox."""
        decode = msgspec.msgpack.Decoder(Event).decode
        return [decode(fields["m"]) for fields in self.bus.durable.streams.get(keys.EVENTS, {}).values()]

    def released(self) -> list[str]:
        """Credentials that the engine has let go."""
        return [id_ for e in self.events() if isinstance(e, CredentialsReleased) for id_ in e.credentials_ids]

    def outcome(self, released_before_cleanup: list[str]) -> dict[str, Any]:
        """Everything by which one life can differ from another."""
        events = self.events()
        return {
            "created": self.docker.creations,
            "left": list(self.docker.containers),
            "task": [e.status.name for e in events if isinstance(e, TaskChanged)],
            "container": [(e.status.name, e.exit_code) for e in events if isinstance(e, ContainerChanged)],
            "released before cleanup": released_before_cleanup,
            "released": self.released(),
            "effects": {a: self.docker.called(a) >= 1 for a in (Action.CREATE_RESOURCE, Action.REMOVE_RESOURCE)},
        }


EXPECTED = {
    "created": [(ARN, "app")],
    "left": [],
    "task": ["RUNNING", "STOPPED"],
    "container": [("RUNNING", None), ("STOPPED", 143)],
    "released before cleanup": ["role"],
    "released": ["role", "execution", "role"],
    "effects": {Action.CREATE_RESOURCE: True, Action.REMOVE_RESOURCE: True},
}


@pytest.fixture(scope="module")
def steps() -> int:
    """How many steps an undisturbed life has."""
    fate = Fate()
    assert Life(fate).live() == EXPECTED
    return fate.count


@pytest.mark.parametrize("after", [False, True], ids=["before the step", "after it, the answer is lost"])
def test_an_engine_that_dies_at_any_step_changes_nothing_in_the_end(steps: int, after: bool) -> None:
    """One container, RUNNING and STOPPED announced once each, nothing left behind, every command acknowledged."""
    assert steps >= 15, "the life has fewer steps than it takes; is everything counted?"
    fates = [Fate(at=n, after=after) for n in range(1, steps + 1)]
    greenlets = [gevent.spawn(Life(fate).live) for fate in fates]
    gevent.joinall(greenlets, timeout=2 * SECONDS)
    wrong = {
        f"step {fate.at} ({fate.step or 'it did not die'})": greenlet.value if greenlet.successful() else greenlet
        for fate, greenlet in zip(fates, greenlets, strict=True)
        if not greenlet.successful() or greenlet.value != EXPECTED
    }
    assert not wrong
    assert sum(fate.dead for fate in fates) >= steps - 2, "hardly an engine died"
