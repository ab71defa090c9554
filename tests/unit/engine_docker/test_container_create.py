"""A create whose name is taken: by the container itself, by another one, or by one that is only being made."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.model.task import Container
from services.engine.docker import containers as module
from services.engine.docker.api import Answer, ApiError
from services.engine.docker.containers import ContainerFailed, Containers
from services.engine.docker.draft import Draft
from services.engine.docker.settings import Settings
from tests.fakes.create_requests import ARN, draft, task_of

NAME = "ecs-web-7-app-1"
LABELS = {"com.amazonaws.ecs.task-arn": ARN, "com.amazonaws.ecs.container-name": "app"}


class Docker:
    """Answers creates and inspects with what is left of two scripts; the last word of each is repeated."""

    def __init__(self, creates: list[Any], inspects: list[Any]) -> None:
        self.scripts = {"POST": creates, "GET": inspects}
        self.creates = 0

    def patient_call(self, method: str, path: str, timeout: float, **more: Any) -> Answer:
        """An answer, or the error with this status."""
        self.creates += method == "POST"
        script = self.scripts[method]
        said = script.pop(0) if script[1:] else script[0]
        if isinstance(said, int):
            raise ApiError(said, "", f"Conflict {NAME}" if said == 409 else f"No such container: {NAME}", path)
        return said


def made(id_: str = "new") -> Answer:
    """A create that worked."""
    return Answer(201, f'{{"Id":"{id_}"}}'.encode())


def container(labels: dict[str, str]) -> Answer:
    """What inspect tells."""
    return Answer(200, json.dumps({"Id": "old", "Config": {"Labels": labels}, "State": {}}).encode())


def request() -> Draft:
    """The create request of `app`."""
    return draft(task_of(Container(name="app", image="i", docker_name=NAME)))


def create(docker: Any, seconds: float = 5.0) -> str:
    """Create the container."""
    return Containers(docker, Settings(create_seconds=seconds)).create(request())


def test_a_name_that_is_taken_by_a_container_in_the_making_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine was killed during a create that takes long: 409 for the name, 404 for the container."""
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    docker = Docker([409, 409, 409], [404, 404, container(LABELS)])
    assert (create(docker), docker.creates) == ("old", 3)
    docker = Docker([409, 409, made()], [404])  # the create that was under way has failed
    assert (create(docker), docker.creates) == ("new", 3)


def test_a_name_that_another_container_has_fails_at_once() -> None:
    """Somebody's own container of that name."""
    docker = Docker([409], [container({})])
    with pytest.raises(ContainerFailed) as caught:
        create(docker)
    assert caught.value.error.name == "CannotCreateContainerError" and docker.creates == 1


def test_a_name_that_stays_taken_by_nothing_fails_in_time() -> None:
    """Never longer than a create may take."""
    docker = Docker([409], [404])
    with pytest.raises(ContainerFailed) as caught:
        create(docker, 0.3)
    assert "Conflict" in caught.value.error.text and docker.creates > 1
