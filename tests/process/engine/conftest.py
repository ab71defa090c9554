"""An engine inside the test's own process, on a real Redis and a Docker made of dictionaries.

`EngineUnderTest.crash` ends all greenlets of the engine as SIGKILL would: nothing is saved, nothing is said. A new one
on the same Redis and the same Docker is what the supervisor starts next.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest

from common import keys
from common.bus import Bus, Change
from common.clock import SystemClock
from common.config import load
from common.model.messages import Event, RunOrUpdateTask
from common.model.status import TaskStatus
from common.model.task import Container, Task
from services.engine.engine import Engine
from services.engine.restore import restore
from tests.fakes.hands import FakeDocker, FakeHands


class EngineUnderTest:
    """One life of the engine."""

    def __init__(self, run_dir: Path, docker: FakeDocker, settings: dict[str, str]) -> None:
        self.stopping = gevent.event.Event()
        self.bus = Bus(str(run_dir), self.stopping.is_set)
        self.hands = FakeHands(docker)
        config = load({**os.environ, **settings})
        facts = self.hands.facts()
        self.engine = Engine(config, self.bus, self.hands, facts, SystemClock(), self.stopping.is_set)

    def start(self) -> None:
        """As serve() does."""
        restore(self.engine)
        self.engine.start()

    def crash(self) -> None:
        """As SIGKILL does."""
        for worker in self.engine.workers.values():
            if worker._greenlet is not None:
                worker._greenlet.kill(block=False)
            worker.shop.records.save = _dead  # type: ignore[method-assign]
        for greenlet in self.engine._greenlets:
            greenlet.kill(block=False)
        gevent.sleep(0.01)

    def stop(self) -> None:
        """As SIGTERM does."""
        self.stopping.set()
        self.engine.stop(2.0)


def _dead(*_: Any) -> Any:
    raise gevent.GreenletExit


class Host:
    """Redis, Docker, and the engines that live on them one after the other."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.docker = run_dir, FakeDocker()
        self.bus = Bus(str(run_dir))
        self.settings: dict[str, str] = {}
        self.engines: list[EngineUnderTest] = []

    def engine(self, prepare: Callable[[FakeHands], object] | None = None) -> EngineUnderTest:
        """Start an engine; `prepare` may tell its hands how to behave."""
        engine = EngineUnderTest(self.run_dir, self.docker, self.settings)
        if prepare is not None:
            prepare(engine.hands)
        engine.start()
        self.engines.append(engine)
        return engine

    def command(self, message: Any) -> None:
        """What acs does."""
        self.bus.durable.commit(Change().append(keys.COMMANDS, message))

    def run(self, task: Task) -> None:
        """A payload with the task."""
        self.command(RunOrUpdateTask(task=task))

    def task(self, arn: str) -> Task | None:
        """The saved task."""
        return self.bus.durable.get(keys.TASK, arn)

    def known(self, arn: str) -> TaskStatus:
        """The saved task's status."""
        task = self.task(arn)
        return task.known if task else TaskStatus.NONE

    def events(self) -> list[Event]:
        """The whole outbox."""
        import msgspec

        decoder = msgspec.msgpack.Decoder(Event)
        raw: Any = self.bus.durable.call(lambda client: client.xrange(keys.EVENTS))
        return [decoder.decode(fields[b"m"]) for _, fields in raw]

    def commands_left(self) -> int:
        """Commands that nobody has acknowledged."""
        return int(self.bus.durable.call(lambda client: client.xlen(keys.COMMANDS)))  # type: ignore[arg-type]


@pytest.fixture
def host(run_dir: Path, redis_servers: object) -> Iterator[Host]:
    """A host with Redis and a fake Docker; its engines are stopped afterwards."""
    host = Host(run_dir)
    yield host
    for engine in host.engines:
        engine.stop()


@pytest.fixture
def task() -> Callable[..., Task]:
    """Makes tasks of one essential container, or of those that are given."""

    def make(name: str = "t1", *containers: Container, **more: Any) -> Task:
        default = (Container(name="app", image="busybox", essential=True),)
        more = {"desired": TaskStatus.RUNNING, **more}
        arn = f"arn:aws:ecs:us-west-2:1:task/c/{name}"
        return Task(arn=arn, family="web", version="7", containers=containers or default, **more)

    return make
