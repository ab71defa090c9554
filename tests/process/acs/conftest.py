"""The process `acs` between a fake control plane and real Redis servers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.queue
import pytest

from common import keys
from common.bus import Bus, Change
from common.model.agent import DockerFacts
from common.model.messages import Command
from common.model.task import Task
from tests.fakes.control_plane import ControlPlane

ROOT = Path(__file__).parents[3]
FACTS = DockerFacts(
    revision=1,
    server_version="25.0.8",
    usable_api_versions=tuple(f"1.{n}" for n in range(24, 45)),
    default_api_version="1.24",
)


@pytest.fixture
def control_plane() -> Iterator[ControlPlane]:
    """A control plane that accepts everything until told otherwise."""
    plane = ControlPlane().start()
    yield plane
    plane.stop()


@pytest.fixture
def bus(redis_servers: Any, run_dir: Path) -> Bus:
    """The test's own connection to the Redis servers, with Docker facts published."""
    bus = Bus(str(run_dir))
    bus.durable.commit(Change().save(keys.FACTS, keys.FACTS_ID, FACTS))
    return bus


class Forked:
    """A process that the nursery forked, with the part of Popen's interface that tests use."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid, self._nursery = pid, nursery

    def poll(self) -> int | None:
        """The exit status, minus the number of a signal; None while it runs."""
        return self._nursery.ended.get(self.pid)

    def wait(self, seconds: float) -> int:
        """The exit status; fails when it does not end in time."""
        end = time.monotonic() + seconds
        while (status := self.poll()) is None:
            assert time.monotonic() < end, f"the process did not end within {seconds} s"
            time.sleep(0.005)
        return status

    def terminate(self) -> None:
        """SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)


class Nursery:
    """A process that has imported the service and forks it: half a second less per start."""

    def __init__(self) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        script = str(Path(__file__).with_name("run_acs.py"))
        self._process = subprocess.Popen(
            [sys.executable, script], env={**kept, "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        self.ended: dict[int, int] = {}
        self._begun: gevent.queue.Queue[int] = gevent.queue.Queue()
        self._reader = gevent.spawn(self._read)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            pid, *status = map(int, line.split())
            if status:
                self.ended[pid] = status[0]
            else:
                self._begun.put(pid)

    def fork(self, env: dict[str, str], log: Path) -> Forked:
        """Start the process with this environment; what it prints is appended to `log`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"env": env, "log": str(log)}).encode() + b"\n")
        self._process.stdin.flush()
        pid = self._begun.get(timeout=30)
        self.ended.pop(pid, None)
        return Forked(self, pid)

    def stop(self) -> None:
        """End it; its processes die with it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._reader.kill()


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """One for all tests."""
    made = Nursery()
    yield made
    made.stop()


class AcsProcess:
    """The process under test."""

    def __init__(
        self, nursery: Nursery, run_dir: Path, plane: ControlPlane, timings: dict[str, Any], extra: dict[str, str]
    ) -> None:
        self._nursery = nursery
        self.log = run_dir / "acs.log"
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self.env = {
            **kept,
            "AWS_DEFAULT_REGION": "us-west-2",
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "EXAMPLEKEY",
            "ECS_CLUSTER": "default",
            "ECS_BACKEND_HOST": plane.url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": plane.url,
            "ECS_DATADIR": str(run_dir),
            "ECS_RUN_DIR": str(run_dir),
            "ACS_TEST_TIMINGS": json.dumps({"keep_house": 0.1, **timings}),
            **extra,
        }
        self.process: Forked | None = None

    def start(self) -> AcsProcess:
        """Start it on what it left behind."""
        self.log.touch()
        self.process = self._nursery.fork(self.env, self.log)
        return self

    def stop(self) -> int:
        """SIGTERM; answers the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(12)

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def text(self) -> str:
        """What it logged."""
        return self.log.read_text()


@pytest.fixture
def start_acs(
    nursery: Nursery, run_dir: Path, control_plane: ControlPlane, bus: Bus
) -> Iterator[Callable[..., AcsProcess]]:
    """Starts the process; keyword arguments are timers, `env` more variables."""
    started: list[AcsProcess] = []

    def start(env: dict[str, str] | None = None, **timings: Any) -> AcsProcess:
        process = AcsProcess(nursery, run_dir, control_plane, timings, env or {}).start()
        started.append(process)
        return process

    yield start
    for process in started:
        if process.process is not None and process.process.poll() is None:
            process.kill()
        sys.stdout.write(process.text())  # pytest shows it with a failure


@pytest.fixture
def acs(start_acs: Callable[..., AcsProcess], control_plane: ControlPlane, eventually: Any) -> AcsProcess:
    """A running process that is connected to ACS."""
    process = start_acs()
    try:
        eventually(lambda: control_plane.live, 15)
    except AssertionError:
        raise AssertionError(process.text()) from None
    return process


class Engine:
    """The engine's side of the streams."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.consumer = bus.durable.consumer(keys.COMMANDS, "engine", Command)
        self.got: list[Any] = []
        self.consumer.read(0.01)  # makes the group
        self.consumer.read(0.01)  # looks for what an earlier consumer left

    def read(self) -> list[Any]:
        """All commands so far."""
        entries = self.consumer.read(0.05)
        self.got += [entry.message for entry in entries]
        self.consumer.acknowledge(*[entry.id for entry in entries])
        return self.got

    def save(self, document: Task) -> None:
        """Save a task as the engine does."""
        self.bus.durable.commit(Change().save(keys.TASK, document.arn, document))

    def emit(self, *events: Any) -> None:
        """Put events into the outbox."""
        change = Change()
        for event in events:
            change.append(keys.EVENTS, event)
        self.bus.durable.commit(change)


@pytest.fixture
def engine(bus: Bus) -> Engine:
    """A stand-in for the engine."""
    return Engine(bus)
