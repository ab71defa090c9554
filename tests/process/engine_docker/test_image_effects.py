"""Manifest and pull against a real registry on loopback, and against registries that misbehave."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from common import keys
from common.bus import Change
from common.model.agent import ImageReference
from common.model.status import TaskStatus
from common.model.task import RegistryAuth
from services.engine.core.effects import Action, Outcome
from services.engine.docker import pull
from tests.fakes import images
from tests.fakes.docker_proxy import DockerProxy, Rule
from tests.fakes.registry import Registry
from tests.process.engine_docker.conftest import Bench, docker, until, with_container

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, prefix: str) -> Iterator[str]:
    """host:port of a registry that ends with the module."""
    made = Registry(tmp_path_factory.mktemp("registry"))
    yield made.address
    made.close()


@pytest.fixture
def pushed(registry: str, prefix: str) -> Iterator[tuple[str, str]]:
    """(name, digest) of an image that only the registry has."""
    name = f"{registry}/{prefix}/app{secrets.token_hex(3)}:1"
    images.make(name, secrets.token_hex(4))
    text = docker("push", name)
    found = re.search(r"digest: (sha256:[0-9a-f]{64})", text)
    assert found, text
    images.remove(name)
    yield name, found[1]
    images.remove(name, f"{name.rpartition(':')[0]}@{found[1]}")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between attempts."""

    class NoPause(pull.Backoff):
        def delay(self) -> float:
            return 0.0

    monkeypatch.setattr(pull, "Backoff", NoPause)


def both(bench: Bench, image: str, **settings: object) -> tuple[Outcome, Outcome]:
    """Manifest, then pull with the digest that it found."""
    hands = bench.hands(**settings)
    task = bench.task(bench.container(image=image))
    first = bench.do(hands, Action.RESOLVE_MANIFEST, task)
    task = with_container(task, "main", image_digest=first.image_digest)
    return first, bench.do(hands, Action.PULL, task)


def test_a_pull_by_the_resolved_digest_leaves_the_name_of_the_task_definition(
    bench: Bench, pushed: tuple[str, str]
) -> None:
    """Conformance case 45: the registry's digest is pulled and tagged with the original reference."""
    name, digest = pushed
    hands = bench.hands(pull_behavior="default")
    began: list[tuple[str, float]] = []
    hands.on_pull_began = lambda arn, at: began.append((arn, at))
    task = bench.task(bench.container(image=name))
    manifest = bench.do(hands, Action.RESOLVE_MANIFEST, task)
    assert (manifest.error, manifest.image_digest) == (None, digest)
    task = with_container(task, "main", image_digest=digest)
    before = time.time()
    pulled = bench.do(hands, Action.PULL, task)
    assert pulled.error is None and pulled.image_digest == digest
    assert before <= pulled.registry_pull_began_at <= pulled.registry_pull_ended_at <= time.time()
    assert began == [(task.arn, pulled.registry_pull_began_at)]
    assert docker("image", "inspect", "-f", "{{.Id}}", name) == pulled.image_id
    started = bench.started(hands, task)
    assert docker("inspect", "-f", "{{.Config.Image}}", started.containers[0].docker_id) == name
    bench.do(hands, Action.STOP, started)
    bench.do(hands, Action.REMOVE, started)


def test_a_cached_image_is_not_pulled_when_preferred(bench: Bench, pushed: tuple[str, str]) -> None:
    """Conformance cases 77 and 78: no pull times; the digest only when the local image lists one."""
    name, digest = pushed
    docker("pull", name)
    manifest, pulled = both(bench, name, pull_behavior="prefer-cached")
    assert manifest.image_digest == digest
    assert pulled.registry_pull_began_at == 0.0 and pulled.error is None and pulled.image_id
    manifest, pulled = both(bench, bench.image, pull_behavior="prefer-cached")
    assert (manifest.error, manifest.image_digest) == (None, "")
    assert (pulled.error, pulled.image_digest, pulled.registry_pull_began_at) == (None, "", 0.0)


def test_an_image_tagged_locally_has_no_digest_of_its_own_repository(bench: Bench, pushed: tuple[str, str]) -> None:
    """The local RepoDigests are of another repository: a failure with its own text (spec 03 §6.3)."""
    name, _ = pushed
    other = f"{bench.prefix}/renamed:1"
    docker("pull", name)
    docker("tag", name, other)
    manifest, _ = both(bench, other, pull_behavior="prefer-cached")
    images.remove(other)
    assert str(manifest.error) == f"CannotPullImageManifestError: failed to find a repo digest matching '{other}'"


def test_once_asks_the_registry_only_for_names_that_no_task_pulled(bench: Bench, pushed: tuple[str, str]) -> None:
    """The engine's own image documents decide, by the exact name."""
    name, digest = pushed
    _, pulled = both(bench, name, pull_behavior="once")
    assert pulled.registry_pull_began_at
    document = ImageReference(image_id=pulled.image_id, names=(name,), pull_succeeded=True, revision=1)
    bench.bus.durable.commit(Change().save(keys.IMAGE, pulled.image_id, document))
    manifest, again = both(bench, name, pull_behavior="once")
    assert (manifest.image_digest, again.registry_pull_began_at, again.image_id) == (digest, 0.0, pulled.image_id)


def test_an_image_that_the_registry_lacks_fails_both_steps(bench: Bench, registry: str, quick: None) -> None:
    """Docker's texts, prefixed only where they come from Docker's API."""
    name = f"{registry}/{bench.prefix}/nothing:1"
    manifest, pulled = both(bench, name, pull_behavior="default")
    assert manifest.error is not None and pulled.error is not None
    assert manifest.error.name == "CannotPullImageManifestError"
    assert manifest.error.text.startswith("Error response from daemon: ")
    assert pulled.error.name == "CannotPullContainerError"
    assert pulled.error.text.startswith("Error response from daemon: manifest for ")
    assert pulled.registry_pull_began_at and not pulled.image_id


def test_a_registry_that_refuses_connections_is_asked_nine_and_five_times(
    bench: Bench, proxy: DockerProxy, quick: None
) -> None:
    """The numbers of attempts of spec 03 §6.2; with the upfront setting an essential image ends the task."""
    name = "127.0.0.1:1/app:1"
    hands = bench.hands(proxy.address, pull_behavior="default", pull_upfront=True)
    task = bench.task(bench.container(image=name))
    assert "connection refused" in str(bench.do(hands, Action.RESOLVE_MANIFEST, task).error)
    pulled = bench.do(hands, Action.PULL, task)
    assert (proxy.count("GET", "/distribution/"), proxy.count("POST", "/images/create")) == (9, 5)
    assert pulled.stop_task and pulled.reason.startswith("CannotPullContainerError: ")


def test_a_silent_pull_is_given_up(bench: Bench, proxy: DockerProxy, quick: None) -> None:
    """Nothing at all is a time-out of its own; silence after progress is inactivity (spec 03 §6.2, §6.4)."""
    hands = bench.hands(proxy.address, pull_behavior="default", pull_first_byte_seconds=0.2, pull_idle_seconds=0.2)
    task = bench.task(bench.container(image=f"{bench.prefix}/none@sha256:{'0' * 64}"))
    proxy.add(Rule("POST", "/images/create", hang=True))
    outcome = bench.do(hands, Action.PULL, task)
    assert str(outcome.error) == (
        "DockerTimeoutError: Could not transition to pullBegin; timed out after waiting 200ms"
    )
    assert proxy.count("POST", "/images/create") == 5
    proxy.clear()
    proxy.add(Rule("POST", "/images/create", hang=True, body=b'{"status":"Pulling"}\r\n'))
    outcome = bench.do(hands, Action.PULL, task)
    assert str(outcome.error) == ("CannotPullContainerError: inactivity time exceeded timeout while pulling image")


def test_an_error_in_the_progress_stream_is_the_reason(bench: Bench, proxy: DockerProxy, quick: None) -> None:
    """It comes without the daemon's prefix, gets advice where the cause is known, and loses signed URLs."""
    hands = bench.hands(proxy.address, pull_behavior="default")
    image = f"{bench.prefix}/denied:1"
    task = bench.task(bench.container(image=image))
    body = b'{"status":"Pulling"}\r\n{"error":"denied: requested access to the resource is denied"}\r\n'
    proxy.add(Rule("POST", "/images/create", times=5, body=body))
    outcome = bench.do(hands, Action.PULL, task)
    assert str(outcome.error) == (
        "CannotPullContainerError: The task can\u2019t pull the image. Check whether the image exists. "
        "denied: requested access to the resource is denied"
    )
    url = "https://prod-us-west-2-starport-layer-bucket.s3.amazonaws.com/x?X-Amz-Signature=secret"
    proxy.add(Rule("POST", "/images/create", body=f'{{"error":"error pulling: \\"{url}\\": EOF"}}'.encode()))
    outcome = bench.do(hands, Action.PULL, task)
    assert outcome.error is not None
    assert outcome.error.text == f"error pulling: REDACTED ECR URL related to {image} EOF"


def test_a_stopped_task_does_not_pull_on(bench: Bench, proxy: DockerProxy) -> None:
    """`cancel` ends the pull in flight; a task that is to stop does not begin one."""
    hands = bench.hands(proxy.address, pull_behavior="default")
    task = bench.task(bench.container(image=f"{bench.prefix}/slow:1"))
    proxy.add(Rule("POST", "/images/create", hang=True))
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(bench.do(hands, Action.PULL, task)))
    thread.start()
    until(lambda: proxy.count("POST", "/images/create"))
    hands.cancel(task.arn, "main")
    thread.join(3)
    assert outcomes and outcomes[0].error is not None
    assert str(outcomes[0].error) == "CannotPullContainerError: context canceled"
    stopping = replace(task, desired=TaskStatus.STOPPED)
    outcome = bench.do(hands, Action.PULL, stopping)
    assert str(outcome.error) == (
        f"TaskStoppedBeforePullBeginError: Task stopped before image pull could begin for task: {task.arn}"
    )


def test_missing_registry_credentials_have_names_of_their_own(bench: Bench) -> None:
    """Neither is tried again, and Docker is never asked (spec 03 §6.4)."""
    hands = bench.hands(pull_behavior="default")
    ecr = RegistryAuth(type="ecr", region="us-west-2", registry_id="1", use_execution_role=True)
    asm = RegistryAuth(type="asm", credentials_parameter="p")
    for wanted, text in (
        (ecr, "CannotPullECRContainerError: engine ecr credentials: not found"),
        (asm, "CannotPullContainerAuthError: engine docker private registry credentials: not found"),
    ):
        task = bench.task(bench.container(registry_auth=wanted), execution_credentials_id="gone")
        for action in (Action.RESOLVE_MANIFEST, Action.PULL):
            assert str(bench.do(hands, action, task).error) == text


def test_configured_registry_credentials_reach_docker(bench: Bench, proxy: DockerProxy, quick: None) -> None:
    """ECS_ENGINE_AUTH_DATA, in the header that Docker reads."""
    import base64
    import json

    data = json.dumps({"https://127.0.0.1:1": {"username": "u", "password": "p"}})
    hands = bench.hands(proxy.address, pull_behavior="default", registry_auth_type="docker", registry_auth_data=data)
    bench.do(hands, Action.PULL, bench.task(bench.container(image="127.0.0.1:1/app")))
    request = next(r for r in proxy.requests if r.path == "/images/create")
    sent = json.loads(base64.urlsafe_b64decode(request.headers["x-registry-auth"]))
    assert sent == {"username": "u", "password": "p"}
    assert request.query == "fromImage=127.0.0.1%3A1%2Fapp&tag=latest"
