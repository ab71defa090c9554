"""The host's addresses in metadata files, asked of a metadata service on a real socket (spec 06 §19.2, 01 §5.5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from common import metadata
from common.model.agent import Instance
from common.tree.user_data import BLACKHOLE
from services.engine.docker import identity as module
from services.engine.docker.identity import Identity
from services.engine.docker.settings import Settings
from tests.fakes.instance_metadata import Service

BOTH = {"HostPrivateIPv4Address": "value", "HostPublicIPv4Address": "value"}
STEPS = ["PUT", "GET", "GET"]  # a token, the private address, the public one


class NoDocuments:
    """A store that holds nothing."""

    def get(self, kind: Any, id_: str, deadline_seconds: float | None = None) -> Instance | None:
        """No document."""
        return None


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service that gives tokens and values, and is where the engine looks for it; no pauses between attempts."""
    monkeypatch.setattr(metadata, "PAUSE_SECONDS", 0.01)
    made = Service()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", made.url)
    yield made
    made.stop()


def identity(**settings: Any) -> Identity:
    """The identity of an engine with these settings."""
    return Identity(Settings(**settings), NoDocuments(), NoDocuments())


def test_the_addresses_are_asked_for_once(service: Service) -> None:
    """One token, one question per address; then they are known."""
    known = identity()
    assert [known.addresses(), known.addresses()] == [BOTH, BOTH]
    assert service.methods() == STEPS


def test_an_address_that_the_service_does_not_have_is_left_out_for_good(service: Service) -> None:
    """404 is an answer: a machine without a public address is not asked about it again."""
    service.value_status = [200, 404]
    known = identity()
    assert [known.addresses(), known.addresses()] == [{"HostPrivateIPv4Address": "value"}] * 2
    assert service.methods() == STEPS


def test_a_passing_failure_costs_no_address(service: Service) -> None:
    """A service that is busy is asked again at once (spec 01 §5.5)."""
    service.value_status = [503]
    assert identity().addresses() == BOTH


def test_a_service_that_stays_busy_is_asked_again_later(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was told is kept meanwhile; nothing else is asked within the minute."""
    service.value_status = [200] + [503] * 5
    known = identity()
    assert [known.addresses(), known.addresses()] == [{"HostPrivateIPv4Address": "value"}] * 2
    monkeypatch.setattr(module, "IMDS_RETRY_SECONDS", 0.0)
    assert known.addresses() == BOTH


def test_a_service_without_tokens_is_asked_without_one(service: Service) -> None:
    """Version 1 of the service gives no token."""
    service.token_status = [404]
    assert identity().addresses() == BOTH


def test_whoever_switched_metadata_off_gets_no_addresses(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """External instances, and `ecs-agent -blackhole-ec2-metadata`: nobody is asked."""
    assert identity(external=True).addresses() == {}
    monkeypatch.setenv(BLACKHOLE, "true")
    assert identity().addresses() == {}
    assert service.methods() == []


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "http://[not an address", "nonsense://"])
def test_an_endpoint_that_nobody_can_ask_costs_a_warning_only(monkeypatch, endpoint: str) -> None:
    """Whatever is wrong with it, a container is made without the addresses."""
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint)
    assert identity().addresses() == {}
