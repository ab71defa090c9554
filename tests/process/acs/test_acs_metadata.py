"""The metadata service's second version and its refusals, against a real socket (spec 01 §5.5)."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from common import metadata as module
from common.metadata import Metadata, MetadataError
from tests.fakes.instance_metadata import Service


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service that gives tokens and values; no pauses between attempts."""
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(module, "WRAPPER_PAUSES", (0.001,) * 4)
    made = Service()
    yield made
    made.stop()


def client(service: Service, **environment: str) -> Metadata:
    """A client of this service."""
    return Metadata({"AWS_EC2_METADATA_SERVICE_ENDPOINT": service.url + "/", **environment})


def test_a_token_is_asked_for_once_and_sent_with_each_value(service):
    """PUT with a life of 300 s, then GET with the token; the endpoint may end in a slash."""
    metadata = client(service)
    assert (metadata.meta("instance-id"), metadata.get("user-data")) == ("value", "value")
    assert service.asked == [
        ("PUT", "/latest/api/token", "", "300"),
        ("GET", "/latest/meta-data/instance-id", "token-1", ""),
        ("GET", "/latest/user-data", "token-1", ""),
    ]


@pytest.mark.parametrize("status", [403, 404, 405])
def test_a_service_without_tokens_is_asked_without_until_it_wants_them(service, status):
    """The first version for the rest of the process; a 401 brings tokens back."""
    metadata = client(service)
    service.token_status = [status]
    metadata.meta("a")
    metadata.meta("b")
    assert service.methods() == ["PUT", "GET", "GET"]
    service.value_status = [401]
    metadata.meta("c")
    assert service.methods()[3:] == ["GET", "PUT", "GET"]
    assert service.asked[-1][2] == "token-5"


def test_the_first_version_can_be_forbidden(service):
    """AWS_EC2_METADATA_V1_DISABLED: no value goes over the wire without a token."""
    service.token_status = [404] * 9
    with pytest.raises(MetadataError, match="version 1 is switched off"):
        client(service, AWS_EC2_METADATA_V1_DISABLED="true").meta("a")
    assert set(service.methods()) == {"PUT"}


def test_other_refusals_of_a_token_are_told_apart(service):
    """400 is an error; anything else sends this one request without a token and asks again at the next."""
    service.token_status = [400]
    with pytest.raises(MetadataError, match="refused to give a token"):
        client(service).meta("a")
    service.asked.clear()
    service.token_status = [500]
    metadata = client(service)
    metadata.meta("a")
    metadata.meta("b")
    assert [(method, token) for method, _, token, _ in service.asked] == [
        ("PUT", ""), ("GET", ""), ("PUT", ""), ("GET", "token-3"),
    ]  # fmt: skip


@pytest.mark.parametrize(("status", "attempts"), [(500, 5), (502, 5), (503, 5), (504, 5), (404, 1), (400, 1), (429, 1)])
def test_which_answers_are_asked_for_again(service, status, attempts):
    """Five attempts in one operation; what is not there is not asked for twice."""
    metadata = client(service)
    service.value_status = [status] * 9
    with pytest.raises(MetadataError) as caught:
        metadata.meta("a")
    assert (caught.value.status, service.methods().count("GET")) == (status, attempts)


def test_a_value_that_is_wanted_badly_is_asked_for_five_times(service):
    """Instance id, zone and lifecycle state: the operations are repeated, whatever the error."""
    metadata = client(service)
    service.value_status = [404] * 4
    assert metadata.insist("instance-id") == "value"
    assert service.methods().count("GET") == 5


def test_the_mode_chooses_the_address():
    """IPv6 is never chosen by the agent itself, and a given endpoint beats the mode."""
    six = {"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv6"}
    assert Metadata({})._base == "http://169.254.169.254/latest/"
    assert Metadata(six)._base == "http://[fd00:ec2::254]/latest/"
    assert Metadata({**six, "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://h:1"})._base == "http://h:1/latest/"


def test_a_service_that_is_not_there_costs_a_bounded_time(monkeypatch):
    """A start outside of EC2 must not wait for minutes."""
    monkeypatch.setattr(module, "OPERATION_SECONDS", 0.3)
    begin = time.monotonic()
    with pytest.raises(MetadataError):
        Metadata({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9"}).meta("a")
    assert time.monotonic() - begin < 3.0
