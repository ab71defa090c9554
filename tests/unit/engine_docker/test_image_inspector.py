"""The short memory of image inspects, with a Docker that answers when it is told to."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent.event import Event

from services.engine.docker.images import ImageInspector


class Docker:
    """An image that changes; an inspect tells what it was when the call began."""

    def __init__(self) -> None:
        self.id, self.calls = "old", 0
        self.asked, self.answer = Event(), Event()
        self.answer.set()

    def patient_call(self, method: str, path: str, seconds: float) -> Any:
        """The only call that is made."""
        self.calls += 1
        seen = self.id
        self.asked.set()
        assert self.answer.wait(5)
        return Answer(seen)


class Answer:
    """What Docker said."""

    def __init__(self, id_: str) -> None:
        self._id = id_

    def json(self) -> dict[str, Any]:
        """The description."""
        return {"Id": self._id}


@pytest.fixture
def docker() -> Docker:
    """A Docker that answers at once."""
    return Docker()


def test_an_image_is_asked_about_once(docker: Docker) -> None:
    """A burst of tasks with one image."""
    images = ImageInspector(docker)  # type: ignore[arg-type]
    asking = [gevent.spawn(images.inspect, "x:1") for _ in range(5)]
    gevent.joinall(asking, timeout=5)
    assert [found.value for found in asking] == [{"Id": "old"}] * 5
    assert docker.calls == 1


def test_an_answer_from_before_a_pull_is_not_remembered(docker: Docker) -> None:
    """It would give the task that pulled the id of the image that it has just replaced."""
    images = ImageInspector(docker)  # type: ignore[arg-type]
    docker.answer.clear()
    early = gevent.spawn(images.inspect, "x:1")
    assert docker.asked.wait(5)
    docker.id = "new"  # the pull ends while the first inspect is under way
    images.forget("x:1")
    late = gevent.spawn(images.inspect, "x:1")
    docker.answer.set()
    gevent.joinall([early, late], timeout=5)
    assert (early.value, late.value) == ({"Id": "old"}, {"Id": "new"})
    assert images.inspect("x:1") == {"Id": "new"}
    assert docker.calls == 2
