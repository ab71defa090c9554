"""The engine's hands and the kinds together: credentials from the bus, registry credentials to the pull, a restart."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

import pytest
from gevent.pywsgi import WSGIServer
from msgspec.structs import replace

from common import keys
from common.bus import Change
from common.memory import MemoryBus
from common.model.agent import Credentials, DockerFacts
from common.model.status import ResourceStatus, TaskStatus
from common.model.task import Container, RegistryAuth, Secret, Task
from services.engine.core.effects import Action, Effect, Outcome
from services.engine.core.reconcile import restored
from services.engine.core.turn import Surroundings
from services.engine.docker import hands as hands_module
from services.engine.docker.hands import Hands
from services.engine.docker.settings import Settings
from tests.fakes.aws import FakeAws
from tests.process.engine_resources.conftest import ARN, EXECUTION_ROLE

FACTS = DockerFacts(server_version="20.10.24", default_api_version="1.21", usable_api_versions=("1.21",))


@pytest.fixture
def bus() -> MemoryBus:
    """A bus whose volatile half holds the execution role of the task."""
    bus = MemoryBus()
    role = Credentials(
        credentials_id=EXECUTION_ROLE, task_arn=ARN, role_type="TaskExecution", access_key_id="AKIDBUS",
        secret_access_key="k", revision=1,
    )  # fmt: skip
    bus.volatile.commit(Change().save(keys.CREDENTIALS, EXECUTION_ROLE, role))
    return bus


class Daemon:
    """As much of Docker as a pull and a create need."""

    def __init__(self) -> None:
        self.auths: list[dict[str, str]] = []  # of pulls
        self.environments: list[list[str]] = []  # of creates
        self._server = WSGIServer(("127.0.0.1", 0), self._serve, log=None)
        self._server.start()
        self.address = f"tcp://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """Close the port."""
        self._server.stop(timeout=1)

    def _serve(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        body, path = environ["wsgi.input"].read(), environ["PATH_INFO"]
        answer: dict[str, Any] = {"Id": "sha256:1", "RepoDigests": [], "Config": {}}
        if path.endswith("/images/create"):
            self.auths.append(json.loads(base64.urlsafe_b64decode(environ["HTTP_X_REGISTRY_AUTH"])))
            answer = {"status": "done"}
        elif path.endswith("/containers/create"):
            self.environments.append(json.loads(body)["Env"])
            answer = {"Id": "c1"}
        content = json.dumps(answer).encode() + b"\n"
        start("200 OK", [("Content-Length", str(len(content)))])
        return [content]


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A Docker of this test's own."""
    daemon = Daemon()
    yield daemon
    daemon.stop()


@pytest.fixture
def make_hands(bus: MemoryBus, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Hands]:
    """Hands for that Docker, each with a memory of its own."""
    monkeypatch.setattr(hands_module.docker_facts, "read", lambda api, settings: FACTS)
    settings = Settings(region="us-west-2", cluster="default", data_dir=str(tmp_path))
    return lambda: Hands(None, bus, settings=settings, address=daemon.address)


def prepared(hands: Hands, container: Container) -> Task:
    task = Task(
        arn=ARN, family="web", version="7", containers=(container,), execution_credentials_id=EXECUTION_ROLE,
        desired=TaskStatus.RUNNING, known=TaskStatus.MANIFEST_PULLED,
    )  # fmt: skip
    return replace(task, resources=hands.resources_for(task))


def perform(hands: Hands, task: Task, action: Action, target: str) -> Outcome:
    return hands.perform(task, Effect(action=action, target=target))


def test_a_pull_uses_the_registry_credentials_of_its_task(
    make_hands: Callable[[], Hands], daemon: Daemon, cloud: FakeAws
) -> None:
    """Conformance case R19; without them the pull ends before Docker is asked."""
    cloud.secrets = {"creds": {"SecretString": '{"Username":"u","PASSWORD":"p"}'}}
    hands = make_hands()
    auth = RegistryAuth(type="asm", credentials_parameter="creds", region="us-west-2")
    task = prepared(hands, Container(name="app", image="registry.example/app:1", registry_auth=auth))
    missing = perform(hands, task, Action.PULL, "app").error
    assert str(missing) == "CannotPullContainerAuthError: engine docker private registry credentials: not found"
    assert perform(hands, task, Action.CREATE_RESOURCE, "asm-auth").error is None
    assert [call.access_key for call in cloud.calls] == ["AKIDBUS"]
    assert perform(hands, task, Action.PULL, "app").error is None
    assert daemon.auths == [{"username": "u", "password": "p"}]


def test_an_image_that_ecr_gives_no_token_for_may_still_be_cached(
    make_hands: Callable[[], Hands], daemon: Daemon, cloud: FakeAws
) -> None:
    """By default the container runs with it, so the image is recorded as used; without a role nothing is looked up."""
    cloud.refuse["GetAuthorizationToken"] = (400, "AccessDeniedException", "not authorized")
    auth = RegistryAuth(type="ecr", region="us-west-2", registry_id="1", use_execution_role=True)
    task = prepared(make_hands(), Container(name="app", image="registry.example/app:1", registry_auth=auth))
    outcome = perform(make_hands(), task, Action.PULL, "app")
    text = (
        "CannotPullECRContainerError: operation error ECR: GetAuthorizationToken, https response error StatusCode: 400"
    )
    assert str(outcome.error).startswith(text) and str(outcome.error).endswith("AccessDeniedException: not authorized")
    assert (outcome.image_id, daemon.auths, len(cloud.calls)) == ("sha256:1", [], 1)
    without = perform(make_hands(), replace(task, execution_credentials_id="gone"), Action.PULL, "app")
    assert str(without.error) == "CannotPullECRContainerError: engine ecr credentials: not found"
    assert without.image_id == ""


def test_secrets_are_fetched_again_after_a_restart_and_only_when_they_are_needed(
    make_hands: Callable[[], Hands], daemon: Daemon, cloud: FakeAws
) -> None:
    """Conformance cases R21 and R22: the document says CREATED, the new engine's memory is empty."""
    cloud.parameters = {"/a": "x"}
    secret = Secret(name="A", value_from="/a", provider="ssm", region="us-west-2", type="ENVIRONMENT_VARIABLE")
    task = prepared(make_hands(), Container(name="app", image="i", docker_name="ecs-web-7-app-1", secrets=(secret,)))
    [resource] = task.resources
    there = replace(resource, known=ResourceStatus.CREATED, desired=ResourceStatus.CREATED)
    task = replace(task, resources=(there,), admitted=True, prepared=True)
    around = Surroundings(now=1.0, credentials=frozenset({EXECUTION_ROLE}))
    hands = make_hands()
    refused = perform(hands, task, Action.CREATE, "app").error
    assert str(refused) == "DockerClientConfigError: task secret data: unable to fetch SSM Secrets resource"
    effects = restored(task, {}, around).effects
    assert [e.target for e in effects if e.action == Action.CREATE_RESOURCE] == ["ssmsecret"]
    assert perform(hands, task, Action.CREATE_RESOURCE, "ssmsecret").error is None
    perform(hands, task, Action.CREATE, "app")
    assert [("A=x" in environment) for environment in daemon.environments] == [True]
    running = restored(replace(task, known=TaskStatus.RUNNING), {}, around).effects
    assert [e for e in running if e.action == Action.CREATE_RESOURCE] == []
