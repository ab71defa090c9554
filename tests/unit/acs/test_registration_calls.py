"""What follows each answer to RegisterContainerInstance (spec 01 §5.6, §6.6)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from common import keys
from common.bus import Change
from common.errors import Temporary, Terminal
from common.memory import MemoryStore
from common.model.agent import Instance
from services.acs import registration as registration_module
from services.acs.ecs import ApiError
from services.acs.identity import Place
from services.acs.instance import InstanceRecord
from services.acs.registration import Offer, Registrar
from services.acs.settings import Settings


class Api:
    """Answers calls from a script: an error to raise, or None for success."""

    def __init__(self, *script: ApiError | None, keep: bool = True) -> None:
        self.script, self.keep = list(script), keep
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def call(self, operation: str, body: Any) -> dict[str, Any]:
        self.calls.append((operation, dict(body)))
        problem = self.script.pop(0) if self.script else None
        if problem is not None:
            raise problem
        return {"containerInstance": {
            "containerInstanceArn": "arn:new", "status": "ACTIVE",
            "attributes": body.get("attributes", []) if self.keep else [],
        }}  # fmt: skip


OFFER = Offer([{"name": "a", "value": "1"}, {"name": "b"}], [], {})


def register(
    api: Api, instance: Instance | None = None, settings: Settings | None = None,
    wait: Callable[[float], bool] = lambda seconds: True,
) -> tuple[Instance, MemoryStore]:  # fmt: skip
    """Register; waits are over at once."""
    store = MemoryStore()
    record = InstanceRecord(store, instance or Instance(cluster="default"))  # type: ignore[arg-type]
    registrar = Registrar(
        api, record, settings or Settings(cluster="default"), lambda: ("doc", "sig"), wait, lambda reason: None
    )
    return registrar.register(Place("i-1", "az1", "vpc-1", "subnet-1"), OFFER), store


def failure(code: str, text: str = "") -> ApiError:
    """An error of the service."""
    return ApiError("RegisterContainerInstance", code, text)


def test_a_registration_is_saved():
    """With everything that other processes want to know."""
    registered, store = register(Api())
    assert store.get(keys.INSTANCE, keys.INSTANCE_ID) == registered
    assert (registered.arn, registered.vpc_id, registered.availability_zone_id) == ("arn:new", "vpc-1", "az1")


def test_a_restored_instance_keeps_its_arn():
    """Whatever the answer says."""
    api = Api()
    registered, _ = register(api, Instance(arn="arn:old", cluster="default"))
    assert registered.arn == api.calls[0][1]["containerInstanceArn"] == "arn:old"


@pytest.mark.parametrize("code", ["ThrottlingException", "ServerException", "LimitExceededException"])
def test_an_overloaded_service_is_asked_again_with_the_same_token(code):
    """3 s, 6 s ... plus up to a fifth."""
    api, pauses = Api(failure(code), failure(code)), []

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        return True

    register(api, wait=wait)
    assert len({body["clientToken"] for _, body in api.calls}) == 1
    assert 3 <= pauses[0] < 3.6
    assert 6 <= pauses[1] < 7.2


def test_an_overloaded_service_for_an_hour_is_an_error(monkeypatch):
    """The reference goes on as if it were registered; here the next registration follows, with a token of its own."""
    monkeypatch.setattr(registration_module, "WINDOW_SECONDS", 0.0)
    api = Api(failure("ThrottlingException"))
    registered, _ = register(api)
    assert registered.arn == "arn:new"
    assert len({body["clientToken"] for _, body in api.calls}) == 2


@pytest.mark.parametrize("code", ["ClientException", "InvalidParameterException"])
def test_a_refused_registration_ends_the_service(code):
    """A restart would get the same answer."""
    with pytest.raises(Terminal):
        register(Api(failure(code)))


def test_a_changed_instance_type_ends_the_service_of_a_known_instance_only():
    """A new one has nothing that could have changed."""
    text = "Container instance type changes are not supported."
    with pytest.raises(Terminal, match="type of this instance"):
        register(Api(failure("Other", text)), Instance(arn="arn:old", cluster="default"))
    assert register(Api(failure("Other", text)))[0].arn == "arn:new"


@pytest.mark.parametrize("code", ["AccessDeniedException", "ClusterNotFoundException", ""])
def test_any_other_error_is_waited_out_with_a_new_token(code):
    """As the reference's supervisor would start it again."""
    api = Api(failure(code))
    register(api)
    assert len({body["clientToken"] for _, body in api.calls}) == 2


def test_a_lost_attribute_ends_the_service_but_keeps_the_arn():
    """The instance exists at ECS; its ARN must not be lost. A name without a value cannot fail."""
    with pytest.raises(Terminal, match="Attribute validation failed: ECS did not keep a"):
        register(Api(keep=False))


def test_of_an_attribute_that_is_named_twice_the_last_value_counts():
    """ECS keeps one value per name, in the request as in the answer; the reference compares maps."""
    twice = Offer([{"name": "a", "value": "1"}, {"name": "a", "value": "2"}], [], {})
    registrar = Registrar(
        Api(), InstanceRecord(MemoryStore(), Instance(cluster="default")), Settings(cluster="default"),  # type: ignore[arg-type]
        lambda: ("", ""), lambda seconds: True, lambda reason: None,
    )  # fmt: skip
    assert registrar.register(Place(), twice).arn == "arn:new"


UNABLE = "Unable to register as a container instance with ECS"
AGAIN = "Received non-terminal error from RegisterContainerInstance call, retrying with exponential backoff"
OVER = "Received terminal error from RegisterContainerInstance call, exiting"


@pytest.mark.parametrize(
    ("script", "lines"),
    [
        ([failure("ThrottlingException")], [UNABLE, AGAIN]),
        ([failure("AccessDeniedException")], [UNABLE, AGAIN]),
        ([failure("ThrottlingException"), failure("ClientException")], [UNABLE, AGAIN, UNABLE, OVER]),
    ],
)
def test_every_failed_attempt_says_what_operators_look_for(caplog, script, lines):
    """Spec 01 §5.13: the error, then whether another attempt follows; what memory is offered before each attempt."""
    caplog.set_level("INFO")
    with suppress(Terminal):
        register(Api(*script))
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert said == lines
    attempts = len(script) + (lines[-1] != OVER)
    assert [record.getMessage() for record in caplog.records].count("Remaining memory") == attempts


def test_without_a_cluster_the_default_one_is_made():
    """Only when it is missing; one token for all attempts."""
    api = Api(failure("ClientException", "Cluster not found."))
    registered, _ = register(api, settings=Settings())
    assert [operation for operation, _ in api.calls] == [
        "RegisterContainerInstance", "CreateCluster", "RegisterContainerInstance",
    ]  # fmt: skip
    assert api.calls[1][1] == {"clusterName": "default"}
    assert api.calls[0][1]["clientToken"] == api.calls[2][1]["clientToken"]
    assert registered.cluster == "default"


def test_without_a_cluster_any_first_failure_has_a_second_attempt():
    """As the reference does it (conformance case 44)."""
    api = Api(failure("InvalidParameterException"))
    register(api, settings=Settings())
    assert [operation for operation, _ in api.calls] == ["RegisterContainerInstance"] * 2


def test_a_stop_ends_the_wait():
    """SIGTERM is not held up by a registration that does not succeed."""
    with pytest.raises(Temporary):
        register(Api(*[failure("AccessDeniedException")] * 3), wait=lambda seconds: False)


def test_a_document_of_the_same_revision_changes_nothing():
    """publish_again may be repeated."""
    store = MemoryStore()
    record = InstanceRecord(store, Instance())  # type: ignore[arg-type]
    record.change(arn="a")
    record.publish_again()
    assert store.get(keys.INSTANCE, keys.INSTANCE_ID).revision == 1  # type: ignore[union-attr]
    assert store.commit(Change().save(keys.INSTANCE, keys.INSTANCE_ID, record.current)) is False
