"""Create requests without a Docker: a host, tasks, and what the engine would ask for."""

from __future__ import annotations

from typing import Any

import pytest

from common.model.agent import DockerFacts
from common.model.task import Container, Task
from services.engine.docker import request
from services.engine.docker.draft import Draft, Refused, World
from services.engine.docker.ports import PortPicker
from services.engine.docker.settings import Settings
from services.engine.resources.registry import Registry

ARN = "arn:aws:ecs:us-west-2:123456789012:task/default/0123456789abcdef0123456789abcdef"
FACTS = DockerFacts(
    server_version="20.10.24+dfsg1",
    default_api_version="1.21",
    usable_api_versions=tuple(f"1.{n}" for n in range(17, 42)),
)


def world(facts: DockerFacts = FACTS, **fields: Any) -> World:
    """This host, with twenty-odd API versions and a hundred free ports."""
    settings = fields.pop("settings", Settings())
    chosen = {"region": "us-west-2", "cluster": "default"}
    picker = fields.pop("picker", None) or PortPicker((40001, 40100), lambda port, protocol: True)
    return World(settings=settings, facts=facts, picker=picker, **{**chosen, **fields})


def task_of(*containers: Container, **fields: Any) -> Task:
    """A task of revision 7 of `web`."""
    return Task(arn=ARN, family="web", version="7", containers=containers, **fields)


def build(task: Task, name: str = "app", on: World | None = None) -> dict[str, Any]:
    """The JSON of the create request of a container."""
    return draft(task, name, on).body


def draft(task: Task, name: str = "app", on: World | None = None, metadata: dict[str, str] | None = None) -> Draft:
    """The request as the engine keeps it."""
    container = task.container(name)
    assert container is not None
    return request.build(task, container, on or world(), Registry(), metadata or {})


def environment(body: dict[str, Any]) -> dict[str, str]:
    """The variables in a request."""
    return dict(entry.split("=", 1) for entry in body["Env"])


def refusal(task: Task, name: str = "app", on: World | None = None) -> str:
    """Why a request cannot be built, as `<name>: <text>`."""
    with pytest.raises(Refused) as caught:
        draft(task, name, on)
    return str(caught.value.error)
