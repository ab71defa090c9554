"""Where the ECS API and its sessions are: one set of rules for every process that asks (spec 01 §7.1, §8)."""

from __future__ import annotations

from typing import Any

import pytest

from common import discovery
from common.clock import VirtualClock
from common.config import load
from common.discovery import ACS, KEPT_SECONDS, TCS, Discovery, configured_api, regional, worth_another
from common.errors import Temporary


class Api:
    """DiscoverPollEndpoint from a script."""

    def __init__(self, *answers: Any, member: str = ACS) -> None:
        self.answers, self.member = list(answers), member
        self.bodies: list[Any] = []

    def call(self, operation: str, body: Any) -> dict[str, Any]:
        assert operation == "DiscoverPollEndpoint"
        self.bodies.append(body)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {self.member: answer} if answer else {}


def finder(api: Api, clock: VirtualClock | None = None, **more: Any) -> Discovery:
    """Asks `api` for an instance `i` of the cluster `c`."""
    return Discovery(api.member, api.call, more.pop("who", lambda: ("c", "i")), clock or VirtualClock(), **more)


def test_the_endpoint_is_kept_for_twelve_hours_and_an_old_one_is_better_than_none():
    """The expired answer is used, but not kept: the next look-up asks again."""
    clock, api = VirtualClock(), Api("https://a", Temporary("down"), "https://b")
    found = finder(api, clock)
    assert [found.endpoint() for _ in range(3)] == ["https://a"] * 3
    clock.advance(KEPT_SECONDS + 1)
    assert found.endpoint() == "https://a"
    assert found.endpoint() == "https://b"
    assert api.bodies == [{"cluster": "c", "containerInstance": "i", "zoneId": ""}] * 3


@pytest.mark.parametrize(
    ("member", "text"), [(ACS, "no endpoint returned; nil"), (TCS, "no telemetry endpoint returned; nil")]
)
def test_an_answer_without_an_endpoint_is_not_kept(member, text):
    """The reference would repeat its error for twelve hours."""
    found = finder(Api("", "https://a", member=member))
    with pytest.raises(Temporary, match=text):
        found.endpoint()
    assert found.endpoint() == "https://a"


def test_an_endpoint_that_cannot_be_connected_to_is_asked_for_anew():
    """After five failures in a row; a success in between counts from zero."""
    found = finder(Api("https://a", "https://b"))
    found.endpoint()
    for success in (False, False, False, False, True, False, False, False, False):
        found.connected(success)
    assert found.endpoint() == "https://a"
    found.connected(False)
    assert found.endpoint() == "https://b"


def test_the_endpoint_of_an_earlier_process_is_used_when_the_api_fails():
    """It is asked for all the same, and each new one is kept once."""
    kept: list[str] = []
    api = Api(Temporary("down"), "https://b", "https://b")
    clock = VirtualClock()
    found = finder(api, clock, known="https://a", keep=kept.append)
    assert [found.endpoint() for _ in range(2)] == ["https://a", "https://b"]
    clock.advance(KEPT_SECONDS + 1)
    assert found.endpoint() == "https://b"
    assert kept == ["https://b"]
    assert len(api.bodies) == 3


def test_a_configured_endpoint_is_taken_as_it_is():
    """No call at all."""
    assert finder(Api(), fixed="https://fixed").endpoint() == "https://fixed"


def test_another_instance_has_an_endpoint_of_its_own():
    """The memory is per container instance (spec 01 §7.1)."""
    instances = ["i", "i", "j"]
    found = finder(Api("https://a", Temporary("down")), who=lambda: ("c", instances.pop(0)))
    assert [found.endpoint(), found.endpoint()] == ["https://a"] * 2
    with pytest.raises(Temporary, match="down"):
        found.endpoint()


@pytest.mark.parametrize(
    ("region", "fips", "dual_stack", "url"),
    [
        ("us-east-1", False, False, "https://ecs.us-east-1.amazonaws.com"),
        ("us-gov-west-1", True, False, "https://ecs-fips.us-gov-west-1.amazonaws.com"),
        ("us-west-2", True, True, "https://ecs-fips.us-west-2.api.aws"),
        ("cn-north-1", False, False, "https://ecs.cn-north-1.amazonaws.com.cn"),
        ("cn-north-1", False, True, "https://ecs.cn-north-1.api.amazonwebservices.com.cn"),
    ],
)
def test_the_region_s_own_endpoint(region, fips, dual_stack, url):
    """When none is configured (spec 01 §8.2)."""
    assert regional("ecs", region, fips, dual_stack) == url


def test_every_region_that_botocore_knows_has_the_suffix_that_botocore_gives_it():
    """The table of partitions is written down here, since reading botocore's takes longer than the call."""
    loaders, regions = pytest.importorskip("botocore.loaders"), pytest.importorskip("botocore.regions")
    data = loaders.Loader().load_data("endpoints")
    resolver = regions.EndpointResolver(data)
    for partition in data["partitions"]:
        suffixes = [
            resolver.get_partition_dns_suffix(partition["partition"], endpoint_variant_tags=tags)
            for tags in (None, ["dualstack"])
        ]
        for region in partition["regions"]:
            assert regional("ecs", region) == f"https://ecs.{region}.{suffixes[0]}"
            if suffixes[1]:
                assert regional("ecs", region, dual_stack=True) == f"https://ecs.{region}.{suffixes[1]}"


@pytest.mark.parametrize("bad", ["", "nowhere"])
def test_a_region_that_is_none_is_named(bad):
    """The reader learns which variable to look at."""
    with pytest.raises(Temporary, match="AWS_DEFAULT_REGION"):
        regional("ecs", bad)


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, ""),
        ({"ECS_BACKEND_HOST": "ecs.example:444"}, "https://ecs.example:444"),
        ({"ECS_BACKEND_HOST": "http://h", "AWS_ENDPOINT_URL_ECS": "http://e"}, "http://h"),
        ({"AWS_ENDPOINT_URL_ECS": "http://e", "AWS_ENDPOINT_URL": "http://all"}, "http://e"),
        ({"ECS_BACKEND_HOST": "h", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, ""),
        ({"ECS_LOCAL_CONTROL_PLANE": "true", "ECS_LOCAL_PORT": "5"}, "http://127.0.0.1:5"),
    ],
)
def test_which_configured_endpoint_counts(environment, url):
    """In the order of spec 01 §8.2, for every process alike."""
    assert configured_api(load(environment)) == url


def test_what_is_worth_another_attempt():
    """By status or by code; 429 alone is not (spec 01 §8.3)."""
    assert worth_another(503, "") and worth_another(400, "ThrottlingException")
    assert not worth_another(429, "") and not worth_another(400, "ServerException")
    assert all(0 <= discovery.retry_delay(n) < min(20, 2**n) for n in range(1, 8))
