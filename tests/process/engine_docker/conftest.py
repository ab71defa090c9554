"""Real Docker for the tests of the engine's hands: one prefix per session marks all that they make."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.memory import MemoryBus
from common.model.status import TaskStatus
from common.model.task import Container, Task
from services.engine.core.effects import Action, Effect, Outcome
from services.engine.docker import names
from services.engine.docker.hands import Hands
from services.engine.docker.settings import Settings
from tests.fakes import images
from tests.fakes.docker_proxy import DockerProxy

pytestmark = pytest.mark.docker


class Bench:
    """Tasks, containers and volumes with this session's mark, and the hands that make them."""

    def __init__(self, prefix: str, image: str, tmp: Path) -> None:
        self.prefix, self.image, self.tmp = prefix, image, tmp
        self.bus = MemoryBus()
        self.made: list[Hands] = []

    def hands(self, address: str = "", **settings: Any) -> Hands:
        """Hands with their own settings; limits are off unless asked for."""
        chosen = {"limits": False, "pull_behavior": "prefer-cached", "region": "us-west-2", "cluster": "default"}
        hands = Hands(None, self.bus, settings=Settings(**{**chosen, **settings}), address=address)
        hands.facts()
        self.made.append(hands)
        return hands

    def container(self, name: str = "main", **fields: Any) -> Container:
        """A container with the session's image; it sleeps and ends on SIGTERM at once."""
        chosen: dict[str, Any] = {
            "image": self.image,
            "essential": True,
            "command": ("sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait $!"),
            "endpoint_id": str(uuid.uuid4()),
            "stop_timeout_seconds": 5,
        }
        return Container(name=name, **{**chosen, **fields})

    def task(self, *containers: Container, **fields: Any) -> Task:
        """A task of these containers, each with a Docker name."""
        id_ = secrets.token_hex(16)
        task = Task(
            arn=f"arn:aws:ecs:us-west-2:123456789012:task/{self.prefix}/{id_}",
            family=self.prefix,
            version="1",
            desired=TaskStatus.RUNNING,
            **fields,
        )
        named = tuple(_replaced(c, docker_name=names.container(task, c.name)) for c in containers)
        return _replaced(task, containers=named)

    def do(self, hands: Hands, action: Action, task: Task, name: str = "main") -> Outcome:
        """Perform one effect."""
        return hands.perform(task, Effect(action=action, target=name))

    def created(self, hands: Hands, task: Task, name: str = "main") -> Task:
        """Create the container; the task as the engine would then keep it."""
        outcome = self.do(hands, Action.CREATE, task, name)
        assert outcome.error is None, outcome.error
        assert outcome.observation is not None
        return with_container(task, name, docker_id=outcome.observation.docker_id)

    def started(self, hands: Hands, task: Task, name: str = "main") -> Task:
        """Create and start the container."""
        task = self.created(hands, task, name)
        outcome = self.do(hands, Action.START, task, name)
        assert outcome.error is None, outcome.error
        return task


def _replaced(struct: Any, **changes: Any) -> Any:
    from msgspec.structs import replace

    return replace(struct, **changes)


def with_container(task: Task, name: str, **changes: Any) -> Task:
    """The task with a container changed."""
    containers = tuple(_replaced(c, **changes) if c.name == name else c for c in task.containers)
    changed: Task = _replaced(task, containers=containers)
    return changed


def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait until `condition` gives something true; that is returned."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def docker(*arguments: str) -> str:
    """Run the docker command."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip()


def remove_containers(prefix: str) -> None:
    """Remove every container of this session."""
    found = docker("ps", "-aq", "--no-trunc", "--filter", f"label={names.FAMILY}={prefix}").split()
    if found:
        docker("rm", "-f", "-v", *found)


@pytest.fixture(scope="session")
def prefix() -> Iterator[str]:
    """A random word in every name of this session; what carries it is removed at the end."""
    if shutil.which("docker") is None or not docker("version", "--format", "{{.Server.Version}}"):
        pytest.skip("no Docker Engine")
    word = f"hands{secrets.token_hex(4)}"
    yield word
    remove_containers(word)
    volumes = [v for v in docker("volume", "ls", "-q").split() if word in v]
    if volumes:
        docker("volume", "rm", "-f", *volumes)


@pytest.fixture(scope="session")
def image(prefix: str) -> Iterator[str]:
    """A busybox image of this session."""
    name = f"{prefix}/busybox:1"
    images.make(name, prefix)
    yield name
    remove_containers(prefix)  # an image in use would stay, without a name
    images.remove(name)


@pytest.fixture
def bench(prefix: str, image: str, tmp_path: Path) -> Bench:
    """Everything a test needs to make containers."""
    return Bench(prefix, image, tmp_path)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[DockerProxy]:
    """Docker behind a proxy with faults."""
    with DockerProxy(str(tmp_path)) as running:
        yield running
