"""An engine inside the test's own process, on a real Redis and a Docker made of dictionaries.

`EngineUnderTest.crash` ends all greenlets of the engine as SIGKILL would: nothing is saved, nothing is said. A new one
on the same Redis and the same Docker is what the supervisor starts next.
"""

import contextlib
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import msgspec
import pytest
from msgspec.structs import replace

from common import keys
from common.bus import Bus, Change
from common.clock import SystemClock
from common.config import load
from common.memory import MemoryBus
from common.model.messages import ContainerChanged, Event, RunOrUpdateTask, TaskChanged
from common.model.status import TaskStatus
from common.model.task import Container, Task
from services.engine.docker.hands import Hands
from services.engine.docker.settings import Settings
from services.engine.engine import Engine
from services.engine.resources.registry import Registry
from services.engine.restore import restore
from tests.fakes import images
from tests.fakes.aws import FakeAws
from tests.fakes.docker_proxy import DockerProxy
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

    def start(self, may_start: Callable[[], object] = lambda: True) -> None:
        """As serve() does."""
        restore(self.engine)
        self.engine.start(may_start)

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

    def engine(
        self, prepare: Callable[[FakeHands], object] | None = None, may_start: Callable[[], object] = lambda: True
    ) -> EngineUnderTest:
        """Start an engine; `prepare` may tell its hands how to behave, `may_start` when it may start containers."""
        engine = EngineUnderTest(self.run_dir, self.docker, self.settings)
        if prepare is not None:
            prepare(engine.hands)
        engine.start(may_start)
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


class DockerHost:
    """An engine in this process on a real Docker daemon; its store is in memory and outlives it."""

    def __init__(self, image: str, upstream: str, directory: Path) -> None:
        self.image = image
        self.family = f"faults{os.getpid()}x{secrets.token_hex(4)}"
        self.bus = MemoryBus()
        self.proxy = DockerProxy(str(directory), upstream=upstream.removeprefix("unix://"))
        self.upstream = upstream
        self.stopping = gevent.event.Event()
        self.engine: Engine | None = None
        self.options: dict[str, str] = {}  # of the configuration, beside what the settings of the hands say
        self.make_registry: Callable[[], Registry] = Registry  # the kinds of resources, without a memory at each start

    def start(self, direct: bool = False, **settings: Any) -> Engine:
        """Start an engine that sees Docker through the proxy, or not."""
        chosen = {"limits": False, "pull_behavior": "prefer-cached", "region": "us-west-2", "cluster": "default"}
        bus: Any = self.bus
        address = self.upstream if direct else self.proxy.address
        registry = self.make_registry()
        hands = Hands(None, bus, settings=Settings(**{**chosen, **settings}), address=address, registry=registry)
        behavior = str(settings.get("pull_behavior", "prefer-cached"))
        config = load({"ECS_IMAGE_PULL_BEHAVIOR": behavior, **self.options})
        self.engine = Engine(config, bus, hands, hands.facts(), SystemClock(), self.stopping.is_set)
        hands.on_pull_began = self.engine.pull_began
        restore(self.engine)
        self.engine.start()
        return self.engine

    def stop(self) -> None:
        """End it; the containers run on."""
        self.stopping.set()
        if self.engine is not None:
            self.engine.hands.api.away_seconds = 0.0  # type: ignore[attr-defined]
            self.engine.stop(2.0)

    def restart(self) -> Engine:
        """As the supervisor does."""
        self.stop()
        self.stopping = gevent.event.Event()
        return self.start()

    def task(self, name: str, command: str = "trap 'exit 0' TERM; sleep 3600 & wait $!", **more: Any) -> Task:
        """A task of one container without a network."""
        app = Container(
            name="app",
            image=more.pop("image", self.image),
            essential=True,
            command=("sh", "-c", command),
            stop_timeout_seconds=3,
        )
        arn = f"arn:aws:ecs:us-west-2:1:task/{self.family}/{name}"
        chosen = {"desired": TaskStatus.RUNNING, "network_mode": "none", **more}
        return Task(arn=arn, family=self.family, version="1", containers=(app,), **chosen)

    def run(self, *tasks: Task, desired: TaskStatus = TaskStatus.RUNNING) -> None:
        """A payload."""
        for task in tasks:
            message = RunOrUpdateTask(task=replace(task, desired=desired))
            self.bus.durable.commit(Change().append(keys.COMMANDS, message))

    def known(self, *tasks: Task) -> list[str]:
        """The saved statuses."""
        saved = [self.bus.durable.get(keys.TASK, t.arn) for t in tasks]
        return [t.known.name if t else "NONE" for t in saved]

    def container(self, task: Task) -> Container:
        """As it is saved."""
        saved = self.bus.durable.get(keys.TASK, task.arn)
        assert saved is not None
        return saved.containers[0]

    def container_restarts(self, task: Task) -> int:
        """How often its policy has restarted the first container."""
        saved = self.bus.durable.get(keys.TASK, task.arn)
        return saved.containers[0].restart_count if saved else 0

    def reports(self, task: Task) -> list[str]:
        """The task events."""
        return [e.status.name for e in self.events() if isinstance(e, TaskChanged) and e.arn == task.arn]

    def last(self, task: Task) -> tuple[str, int | None, str]:
        """Status, exit code and reason of the container's last event."""
        event = [e for e in self.events() if isinstance(e, ContainerChanged) and e.arn == task.arn][-1]
        return event.status.name, event.exit_code, event.reason

    def events(self) -> list[Event]:
        """The whole outbox."""
        decode = msgspec.msgpack.Decoder(Event).decode
        return [decode(fields["m"]) for fields in self.bus.durable.streams.get(keys.EVENTS, {}).values()]

    def docker(self, *words: str) -> str:
        """The docker command, not through the proxy."""
        command = ["docker", "-H", self.upstream, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout.strip()

    def ids(self) -> list[str]:
        """Docker ids of all containers of this test."""
        label = f"label=com.amazonaws.ecs.task-definition-family={self.family}"
        return self.docker("ps", "-aq", "--no-trunc", "--filter", label).split()

    def running(self, task: Task) -> bool:
        """Whether Docker says that the container's process runs."""
        id_ = self.container(task).docker_id
        return bool(id_) and self.docker("inspect", "-f", "{{.State.Running}}", id_) == "true"


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAws]:
    """AWS as the engine sees it; nothing is in it."""
    with FakeAws().serving(monkeypatch) as fake:
        yield fake


@pytest.fixture(scope="session")
def real_image() -> Iterator[str]:
    """A busybox image of this session."""
    name = f"faults{secrets.token_hex(4)}/busybox:1"
    images.make(name)
    yield name
    images.remove(name)


@pytest.fixture
def make_docker_host(run_dir: Path) -> Iterator[Callable[[str, str], DockerHost]]:
    """Makes a DockerHost (image, address of the daemon); the engine is not started yet. One per test."""
    with contextlib.ExitStack() as at_end:

        def make(image: str, upstream: str) -> DockerHost:
            host = DockerHost(image, upstream, run_dir)
            at_end.callback(lambda: host.ids() and host.docker("rm", "-f", "-v", *host.ids()))
            at_end.enter_context(host.proxy)
            at_end.callback(host.stop)
            return host

        yield make


@pytest.fixture
def docker_host(make_docker_host: Callable[[str, str], DockerHost], real_image: str) -> DockerHost:
    """A DockerHost on the machine's own daemon."""
    return make_docker_host(real_image, "unix:///var/run/docker.sock")
