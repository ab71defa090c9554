"""A registry, images that only this test has, and a Docker client that sees nothing else."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from common import docker
from common.model.agent import ImageReference
from tests.fakes import images
from tests.process.images.registry import SlowRegistry


def shell(*words: str) -> str:
    """The docker command's output; raises CalledProcessError."""
    done = subprocess.run(["docker", *words], capture_output=True, check=True, timeout=60, text=True)
    return done.stdout.strip()


class OnlyMine:
    """A Docker client that lists only what the test made: untracked cleanup must not touch what belongs to others."""

    def __init__(self, client: Any, place: Place) -> None:
        self._client, self._place = client, place

    def images(self, **more: Any) -> list[dict[str, Any]]:
        return [i for i in self._client.images(**more) if i["Id"] in self._place.ids]

    def containers(self, **more: Any) -> list[dict[str, Any]]:
        return [c for c in self._client.containers(**more) if c["Id"] in self._place.containers]

    def remove_image(self, reference: str, **more: Any) -> Any:
        if self._place.broken_image and reference == self._place.broken_image:
            raise OSError("the test's fault")
        return self._client.remove_image(reference, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class Place:
    """Images and containers of one test."""

    def __init__(self, registry: SlowRegistry) -> None:
        self.registry = registry
        self.prefix = f"{registry.address}/img{secrets.token_hex(4)}"
        self.names: list[str] = []
        self.ids: set[str] = set()
        self.containers: set[str] = set()
        self.broken_image = ""
        self._clients: dict[float, Any] = {}

    def client(self, seconds: float) -> Any:
        """For Cycle."""
        if seconds not in self._clients:
            self._clients[seconds] = OnlyMine(docker.client(docker.lowest_usable_version(), seconds), self)
        return self._clients[seconds]

    def push(self, name: str, marker: str = "") -> str:
        """Make an image that only the registry has; returns its name in full."""
        full = f"{self.prefix}/{name}"
        direct = full.replace(self.registry.address, f"127.0.0.1:{self.registry.port}")
        images.make(direct, marker or secrets.token_hex(8))
        shell("push", "-q", direct)
        images.remove(direct)
        self.names.append(full)
        return full

    def pull(self, name: str) -> str:
        """Pull by full name as a person would; returns the id."""
        shell("pull", "-q", name)
        return self.seen(name)

    def pull_in_background(self, name: str) -> None:
        """Begin the same pull as somebody else."""
        gevent.spawn(subprocess.run, ["docker", "pull", "-q", name], capture_output=True, check=False, timeout=60)

    def seen(self, name: str) -> str:
        """The id behind a name; removed afterwards."""
        id_ = shell("image", "inspect", "-f", "{{.Id}}", name)
        self.names.append(name)
        self.ids.add(id_)
        return id_

    def here(self, name: str) -> str:
        """Push and pull: an image with a registry behind it. Returns the full name."""
        full = self.push(name)
        self.pull(full)
        return full

    def id(self, name: str) -> str:
        """The id of an image that is there, or an empty text."""
        try:
            return shell("image", "inspect", "-f", "{{.Id}}", name)
        except subprocess.CalledProcessError:
            return ""

    def container(self, image: str, *command: str, run: bool = False, label: str = "") -> str:
        """A container, created only or run; removed afterwards."""
        words = [f"--label={label}"] if label else []
        id_ = shell("run" if run else "create", *(["-d"] if run else []), "--network=none", *words, image, *command)
        self.containers.add(id_)
        return id_

    def there(self, container: str) -> bool:
        """Whether the container is still there."""
        return bool(shell("ps", "-aq", "--no-trunc", "--filter", f"id={container}"))

    def close(self) -> None:
        """Remove all that is left."""
        if self.containers:
            subprocess.run(["docker", "rm", "-f", "-v", *self.containers], capture_output=True, check=False, timeout=60)
        images.remove(*self.names)
        images.remove(*self.ids)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlowRegistry]:
    """The registry of this module."""
    made = SlowRegistry(tmp_path_factory.mktemp("registry"))
    yield made
    made.close()


@pytest.fixture
def place(registry: SlowRegistry) -> Iterator[Place]:
    """What this test has."""
    made = Place(registry)
    yield made
    registry.release()
    made.close()


@pytest.fixture
def tracked(place: Place) -> Callable[..., ImageReference]:
    """An image reference as the engine writes it: pulled two hours ago, unused since."""

    def make(*names: str, used_at: float = 0.0, **more: Any) -> ImageReference:
        values = {"pulled_at": time.time() - 7200, "last_used_at": used_at, "pull_succeeded": True, **more}
        return ImageReference(
            revision=1, image_id=values.pop("image_id", "") or place.id(names[0]), names=names, **values
        )

    return make
