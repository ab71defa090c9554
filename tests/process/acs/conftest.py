"""The process `acs` between a fake control plane and real Redis servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


class AcsProcess:
    """The process under test."""

    def __init__(self, run_dir: Path, plane: ControlPlane, timings: dict[str, Any], extra: dict[str, str]) -> None:
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
            "PYTHONPATH": str(ROOT),
            "ACS_TEST_TIMINGS": json.dumps(timings),
            **extra,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> AcsProcess:
        """Start it on what it left behind."""
        script = str(Path(__file__).with_name("run_acs.py"))
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen([sys.executable, script], env=self.env, stdout=out, stderr=out)
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
def start_acs(run_dir: Path, control_plane: ControlPlane, bus: Bus) -> Iterator[Callable[..., AcsProcess]]:
    """Starts the process; keyword arguments are timers, `env` more variables."""
    started: list[AcsProcess] = []

    def start(env: dict[str, str] | None = None, **timings: Any) -> AcsProcess:
        process = AcsProcess(run_dir, control_plane, timings, env or {}).start()
        started.append(process)
        return process

    yield start
    for process in started:
        if process.process is not None and process.process.poll() is None:
            process.kill()


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
