"""A task that comes while an image is being removed, and what one removal asks of Docker (spec 08 §5, §7).

Docker is played: at the last call before a removal a task arrives, as it may on any machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from docker.errors import APIError, ImageNotFound
from requests import Response

from common import keys
from common.bus import Change
from common.clock import VirtualClock
from common.memory import MemoryBus
from common.model.agent import ImageReference
from common.model.messages import Command
from common.model.status import TaskStatus
from common.model.task import Container, Task
from services.images import daemon
from services.images.core.plan import Limits
from services.images.cycle import Cycle

LIMITS = Limits(3600.0, 3600.0, 5, 5, 10800.0, frozenset())


class Docker:
    """Images by name; notes every removal. `before_removal` is called with the last question before one."""

    def __init__(self, images: dict[str, str]) -> None:
        self.all, self.removed = images, list[tuple[str, dict[str, Any]]]()
        self.answers: dict[str, int] = {}
        self.seconds: list[float] = []  # the time-out of each call
        self.before_removal: Callable[[], None] = lambda: None

    def __call__(self, seconds: float) -> Docker:
        self.seconds.append(seconds)
        return self

    def images(self) -> list[dict[str, str]]:
        return [{"Id": id_} for id_ in sorted(set(self.all.values()))]

    def containers(self, **_: Any) -> list[dict[str, str]]:
        return []

    def inspect_image(self, name: str) -> dict[str, Any]:
        id_ = self.all.get(name, name if name in self.all.values() else "")
        if not id_:
            raise ImageNotFound("No such image", _response(404))
        tags = [tag for tag, other in self.all.items() if other == id_ and not tag.startswith("-")]
        return {"Id": id_, "RepoTags": tags, "Size": 5, "Created": "2020-01-01T00:00:00Z"}

    def history(self, name: str) -> list[dict[str, int]]:
        self.before_removal()
        return []

    def remove_container(self, id_: str, **_: Any) -> None:
        """It goes."""

    def remove_image(self, name: str, **options: Any) -> list[dict[str, str]]:
        self.removed.append((name, options))
        if name in self.answers:
            raise APIError("refused", _response(self.answers[name]))
        self.all = {tag: id_ for tag, id_ in self.all.items() if name not in (tag, id_)}
        return []


def _response(status: int) -> Response:
    response = Response()
    response.status_code = status
    return response


class Place:
    """The documents and a cycle on them."""

    def __init__(self, images: dict[str, str], *tracked: ImageReference) -> None:
        self.docker, self.bus = Docker(images), MemoryBus()
        for reference in tracked:
            self.bus.durable.commit(Change().save(keys.IMAGE, reference.image_id, reference))

    def run(self, untracked: bool = False) -> int:
        """One cycle; how many images went."""
        docker: Any = self.docker
        return Cycle(self.bus, LIMITS, VirtualClock(), docker, untracked).run().images

    def task(self, image: str) -> Callable[[], None]:
        """A task arrives that needs this image."""
        task = Task(arn="t", revision=1, containers=(Container(name="c", image=image),), known=TaskStatus.NONE)
        return lambda: self.bus.durable.commit(Change().save(keys.TASK, "t", task)) and None

    def told(self) -> list[tuple[str, str]]:
        """What the engine was told."""
        decode = msgspec.msgpack.Decoder(Command).decode
        entries = self.bus.durable.streams.get(keys.COMMANDS, {}).values()
        return [(message.image_id, message.name) for message in (decode(entry["m"]) for entry in entries)]


def old(id_: str, *names: str) -> ImageReference:
    """An image that nobody uses."""
    return ImageReference(revision=1, image_id=id_, names=names, pulled_at=1.0, last_used_at=1.0)


@pytest.mark.parametrize("named", ["web:1", "docker.io/library/web@sha256:00"])
def test_a_task_that_comes_between_choice_and_removal_keeps_its_image(named: str):
    """The documents are read once more when nothing else is left to do."""
    place = Place({"web:1": "sha256:a"}, old("sha256:a", "web:1"))
    place.docker.before_removal = place.task(named)
    assert place.run() == 0 and place.docker.removed == [] and place.told() == []


def test_a_reference_that_comes_between_choice_and_removal_keeps_the_image():
    """The task has its image already: the engine wrote who uses it."""
    place = Place({"web:1": "sha256:a"}, old("sha256:a", "web:1"))
    used = msgspec.structs.replace(old("sha256:a", "web:1"), revision=2, containers=("t/c",))
    place.docker.before_removal = lambda: place.bus.durable.commit(Change().save(keys.IMAGE, "sha256:a", used)) and None
    assert place.run() == 0 and place.docker.removed == []


def test_an_untracked_image_is_looked_at_again_before_each_tag():
    """Of three tags the first is gone when a task comes for another image of the repository; the others stay."""
    place = Place({"r/a:1": "sha256:a", "r/a:2": "sha256:a", "r/b:1": "sha256:a"})
    asked = []

    def second() -> None:
        asked.append(1)
        if len(asked) == 2:
            place.task("r/b:9")()

    place.docker.before_removal = second
    assert place.run(untracked=True) == 1 and [name for name, _ in place.docker.removed] == ["r/a:1"]


def test_names_go_in_their_order_without_force_and_without_parents():
    """Cases 12 and 13, and trap 1."""
    place = Place({"a": "sha256:a", "b": "sha256:a", "-x": "sha256:n"}, old("sha256:a", "a", "b"), old("sha256:n"))
    assert place.run() == 2
    safe = {"force": False, "noprune": True}
    assert place.docker.removed == [("a", safe), ("b", safe), ("sha256:n", safe)]
    assert place.told() == [("sha256:a", "a"), ("sha256:a", "b"), ("sha256:n", "")]


def test_a_refused_name_stays_and_the_others_go():
    """Cases 15, 16 and 18: 404 counts as gone, 409 keeps the name, the names after it are still tried."""
    place = Place({"a": "sha256:a", "b": "sha256:a"}, old("sha256:a", "a", "b", "gone"))
    place.docker.answers = {"a": 409, "gone": 404}
    assert place.run() == 1
    assert [name for name, _ in place.docker.removed] == ["a", "b", "gone"]
    assert ("sha256:a", "b") in place.told() and ("sha256:a", "a") not in place.told()


@pytest.mark.parametrize("there", [{"moved": "sha256:new"}, {}])
def test_an_image_without_a_name_goes_by_its_id(there: dict[str, str]):
    """One of its names has moved, the other is gone, or both are: it would stay for ever without a record."""
    place = Place({**there, "-": "sha256:a"}, old("sha256:a", "moved", "gone"))
    assert place.run() == 1
    assert [name for name, _ in place.docker.removed] == ["sha256:a"] and place.told() == [("sha256:a", "")]
    assert place.docker.all == there


def test_an_image_of_which_docker_says_nothing_stays(monkeypatch: pytest.MonkeyPatch):
    """The name that was not answered for may be its own."""
    place = Place({"-": "sha256:a", "moved": "sha256:new"}, old("sha256:a", "moved", "silent"))
    inspect = place.docker.inspect_image

    def silent(name: str) -> dict[str, Any]:
        if name == "silent":
            raise OSError("timed out")
        return inspect(name)

    monkeypatch.setattr(place.docker, "inspect_image", silent)
    assert place.run() == 0 and place.docker.removed == [] and place.told() == [("sha256:a", "moved")]


def test_a_cycle_that_is_used_up_leaves_untracked_images_alone():
    """Case 29, better: five removals leave a budget of none; the next cycle has five for the others."""
    names = [f"t{n}" for n in range(5)]
    place = Place({**{name: f"T{name}" for name in names}, "u": "U"}, *(old(f"T{name}", name) for name in names))
    assert place.run(untracked=True) == 5
    assert set(place.docker.all) == {"u"}
    for name in names:
        place.bus.durable.commit(Change().delete(keys.IMAGE, f"T{name}"))
    assert place.run(untracked=True) == 1 and not place.docker.all


def test_untracked_containers_go_in_the_order_of_dockers_list(monkeypatch: pytest.MonkeyPatch):
    """Successes count, up to the number of a cycle; a refusal costs nothing (cases 37, 42)."""
    place = Place({})
    ids = [f"c{n}" for n in (7, 3, 9, 1, 8, 2, 6, 4)]
    tried: list[tuple[str, dict[str, Any]]] = []

    def remove(id_: str, **options: Any) -> None:
        tried.append((id_, options))
        if id_ == "c7":
            raise APIError("refused", _response(409))

    docker: Any = place.docker
    monkeypatch.setattr(docker, "containers", lambda **_: [{"Id": id_} for id_ in ids])
    state = {"Status": "exited", "FinishedAt": "2020-01-01T00:00:00.123456789Z"}
    monkeypatch.setattr(docker, "inspect_container", lambda id_: {"State": state}, raising=False)
    monkeypatch.setattr(docker, "remove_container", remove, raising=False)
    gone = Cycle(place.bus, LIMITS, VirtualClock(), docker, True).run()
    assert tried == [(id_, {"v": True}) for id_ in ids[:6]] and gone.containers == 5


def test_every_call_has_the_time_that_it_may_need():
    """Trap 4: Docker goes on with a large removal although nobody waits for it any more."""
    place = Place({"a": "A"}, old("A", "a"))
    place.run(untracked=True)
    assert set(place.docker.seconds) == {30, 180, 600}
    daemon.Daemon(place.docker).remove_container("c")  # type: ignore[arg-type]
    assert place.docker.seconds[-1] == 300
