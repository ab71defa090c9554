"""Hand-made documents and a client that calls the WSGI applications without sockets."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from common.memory import MemoryStore
from common.model.agent import Credentials, Instance
from common.model.status import ContainerStatus, TaskStatus
from common.model.task import Container, Network, Task
from services.endpoint.audit import Audit
from services.endpoint.faultroutes import FaultRoutes
from services.endpoint.follow import Source
from services.endpoint.introspection import Introspection
from services.endpoint.taskserver import TaskServer, application
from services.endpoint.throttle import Buckets
from services.endpoint.view import View

ARN = "arn:aws:ecs:us-west-2:111122223333:task/c/0a1b"
INSTANCE_ARN = "arn:aws:ecs:us-west-2:111122223333:container-instance/c/77"
ENDPOINT_ID = "11111111-2222-4333-8444-555555555555"
DOCKER_ID = "ab" * 32
PEER = ("172.17.0.3", "41822")
CONFIG = {
    "AWS_DEFAULT_REGION": "us-west-2",
    "ECS_BACKEND_HOST": "",
    "ECS_DETAILED_OS_FAMILY": "",
    "ECS_DISABLE_METRICS": False,
    "ECS_INSTANCE_IP_COMPATIBILITY": "",
    "ECS_ALTERNATE_CREDENTIAL_PROFILE": "default",
    "ECS_EXTERNAL": False,
}


@dataclass
class Answer:
    """What the application answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)

    def all(self, name: str) -> list[str]:
        return [v for k, v in self.headers if k.lower() == name.lower()]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    app: Callable[..., Any],
    target: str,
    method: str = "GET",
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    peer: tuple[str, str] = PEER,
) -> Answer:
    """One request, as the HTTP layer hands it over."""
    path, mark, query = target.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "REMOTE_ADDR": peer[0],
        "REMOTE_PORT": peer[1],
        "wsgi.input": io.BytesIO(body),
    }
    if mark and not query:
        environ["endpoint.bare_query"] = True
    for name, value in (headers or {}).items():
        environ["HTTP_" + name.upper().replace("-", "_")] = value
    seen: list[Any] = []
    chunks = app(environ, lambda status, fields: seen.extend((status, fields)))
    return Answer(int(seen[0].split(" ")[0]), seen[1], b"".join(chunks))


@dataclass
class World:
    """The endpoint's parts around a view that the test fills."""

    tmp: Path
    view: View = field(default_factory=View)
    now: float = 1000.0
    commands: list[list[str]] = field(default_factory=list)
    replies: Callable[[list[str]], tuple[int, str]] = lambda command: (1, "")
    steady: float = 40.0
    burst: float = 60.0
    config: dict[str, Any] = field(default_factory=dict)
    source: Source = field(init=False)
    audit: Audit = field(init=False)
    lines: list[str] = field(default_factory=list)
    tasks: TaskServer = field(init=False)
    introspection: Introspection = field(init=False)
    faults: FaultRoutes = field(init=False)

    def __post_init__(self) -> None:
        self.source = Source(self.view, MemoryStore(), MemoryStore(), lambda: self.now)
        self.source.durable.loaded.set()
        self.audit = Audit([self.lines.append], now=lambda: 1780308000.0)
        self.faults = FaultRoutes(Buckets(0.2, 1.0), self.tmp, self._run, lambda: None, lambda: self.now)
        self.tasks = application(
            self.source,
            self.audit,
            Buckets(self.steady, self.burst),
            self.faults,
            CONFIG | self.config,
            lambda: self.now,
        )
        self.introspection = Introspection(self.source, folders=[self.tmp])
        self.view.set_instance(Instance(arn=INSTANCE_ARN, cluster="c", region="us-west-2"))

    def _run(self, command: list[str], _timeout: float) -> tuple[int, str]:
        self.commands.append(command)
        return self.replies(command)

    def get(self, target: str, **more: Any) -> Answer:
        return ask(self.tasks, target, **more)

    def look(self, target: str, **more: Any) -> Answer:
        return ask(self.introspection, target, **more)

    def audited(self) -> str:
        self.audit._write(self.audit._lines)
        self.audit._lines = []
        return "".join(self.lines)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An endpoint for cluster c with no tasks."""
    return World(tmp_path)


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[..., World]:
    """An endpoint with other limits or options."""
    return lambda **more: World(tmp_path, **more)


@pytest.fixture
def container() -> Callable[..., Container]:
    """A running bridge container; any field can be given."""

    def make(**more: Any) -> Container:
        given: dict[str, Any] = {
            "name": "app",
            "image": "nginx:1",
            "image_id": "sha256:ab12",
            "docker_id": DOCKER_ID,
            "docker_name": "ecs-web-3-app-90af8f",
            "endpoint_id": ENDPOINT_ID,
            "known": ContainerStatus.RUNNING,
            "desired": ContainerStatus.RUNNING,
            "network_mode": "bridge",
            "networks": (Network(name="bridge", ip_address="172.17.0.3"),),
        }
        return Container(**(given | more))

    return make


@pytest.fixture
def task(container: Callable[..., Container]) -> Callable[..., Task]:
    """A running task with one container; any field can be given."""

    def make(**more: Any) -> Task:
        given: dict[str, Any] = {
            "arn": ARN,
            "revision": 1,
            "family": "web",
            "version": "3",
            "known": TaskStatus.RUNNING,
            "desired": TaskStatus.RUNNING,
            "containers": more.pop("containers", None) or (container(),),
        }
        return Task(**(given | more))

    return make


@pytest.fixture
def credentials() -> Callable[..., Credentials]:
    """Credentials of the task's role under the id x."""

    def make(**more: Any) -> Credentials:
        given: dict[str, Any] = {
            "credentials_id": "x",
            "task_arn": ARN,
            "role_type": "TaskApplication",
            "role_arn": "arn:aws:iam::1:role/r",
            "access_key_id": "AKID",
            "secret_access_key": "SECRET",
            "session_token": "to<ken",
            "expiration": "2026-06-01T16:00:00Z",
            "revision": 1,
        }
        return Credentials(**(given | more))

    return make
