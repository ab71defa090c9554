"""What the process takes from the configuration where it depends on the machine: IPv6-only, endpoints, keys."""

from __future__ import annotations

from typing import Any

import pytest

from common.config import load
from common.own_keys import OwnCredentials
from common.wire.ecs import BindingRules
from services.acs.settings import from_config, routes_are_ipv6_only

HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
LAN = "eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
GATEWAY = "eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
LINK = "eth0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n"
ZERO = "0" * 32
GATEWAY6 = f"{ZERO} 00 {ZERO} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n"
REJECT6 = f"{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo\n"


@pytest.mark.parametrize(
    ("v4", "v6", "only"),
    [
        (HEAD + GATEWAY, GATEWAY6, False),
        (HEAD + LAN, GATEWAY6 + REJECT6, True),
        (HEAD + LINK, GATEWAY6, True),
        (HEAD, REJECT6, False),  # no default route at all is not IPv6-only
        (HEAD + GATEWAY, "", False),
        (None, GATEWAY6, True),
        (None, None, False),
    ],
)
def test_only_a_gateway_in_ipv6_alone_makes_a_machine_ipv6_only(tmp_path, v4, v6, only):
    """Spec 01 §3.6; files that are not there are families that are not there."""
    paths = tmp_path / "route", tmp_path / "ipv6_route"
    for path, text in zip(paths, (v4, v6), strict=True):
        if text is not None:
            path.write_text(text)
    assert routes_are_ipv6_only(*map(str, paths)) is only


def settings(ipv6_only: bool = False, **environment: str) -> Any:
    """Settings of this environment."""
    return from_config(load({"AWS_DEFAULT_REGION": "us-west-2", **environment}), ipv6_only)


@pytest.mark.parametrize(
    ("environment", "routes", "only"),
    [
        ({}, True, True),
        ({"ECS_INSTANCE_IP_COMPATIBILITY": "ipv4"}, True, False),
        ({"ECS_INSTANCE_IP_COMPATIBILITY": " IPv6 "}, False, True),
        ({"ECS_INSTANCE_IP_COMPATIBILITY": "both"}, True, True),
    ],
)
def test_an_ipv6_only_machine_uses_dual_stack_and_drops_ipv4_bindings(environment, routes, only):
    """Case 68, with the machine's own routes when the option says nothing."""
    found = settings(routes, **environment)
    assert (found.ipv6_only, found.use_dual_stack) == (only, only)
    assert found.bindings == BindingRules(exclude_ipv6=not only, exclude_ipv4=only)
    asked = settings(routes, **environment, ECS_EXCLUDE_IPV6_PORTBINDING="true")
    assert asked.bindings.exclude_ipv6


def test_the_sockets_path_is_what_is_never_proxied():
    """For NO_PROXY: the path of DOCKER_HOST."""
    assert settings().docker_socket == "/var/run/docker.sock"
    assert settings(DOCKER_HOST="unix:///run/d.sock").docker_socket == "/run/d.sock"


@pytest.mark.parametrize(
    ("environment", "keys"),
    [
        ({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, ("a", "b", "")),
        ({"AWS_ACCESS_KEY": "a", "AWS_SECRET_KEY": "b", "AWS_SESSION_TOKEN": "t"}, ("a", "b", "t")),
        ({"AWS_ACCESS_KEY_ID": "a", "AWS_ACCESS_KEY": "x", "AWS_SECRET_KEY": "b"}, ("a", "b", "")),
    ],
)
def test_keys_in_the_environment_are_found_under_both_names(monkeypatch, environment, keys):
    """Spec 01 §2.8: the newer name wins; nothing else is asked."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert tuple(OwnCredentials(False, "default", "/none").keys()) == keys
