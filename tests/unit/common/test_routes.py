"""What the routing tables say: the device of the default route, and IPv6 alone (spec 01 §3.6)."""

from __future__ import annotations

import pytest

from common.config import load
from common.routes import default_device, ipv6_only

HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
LAN = "eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
GATEWAY = "eth4\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
LINK = "eth0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n"
ZERO = "0" * 32
GATEWAY6 = f"{ZERO} 00 {ZERO} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth6\n"
REJECT6 = f"{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo\n"


@pytest.mark.parametrize(
    ("v4", "v6", "only", "device"),
    [
        (HEAD + GATEWAY, GATEWAY6, False, "eth4"),
        (HEAD + LAN, GATEWAY6 + REJECT6, True, "eth6"),
        (HEAD + LINK, GATEWAY6, True, "eth6"),
        (HEAD, REJECT6, False, ""),  # no default route at all is not IPv6-only
        (HEAD + GATEWAY, "", False, "eth4"),
        ("", GATEWAY6, True, "eth6"),
        ("", "", False, ""),
    ],
)
def test_only_a_gateway_in_ipv6_alone_makes_a_machine_ipv6_only(v4, v6, only, device):
    """A table that is not there is a family that is not there; the device is that of the first default route."""
    assert ipv6_only(v4, v6) is only
    assert default_device(v4, v6) == device


@pytest.mark.parametrize(
    ("environment", "v6", "family"),
    [
        ({}, GATEWAY6, "ipv6"),
        ({}, "", "ipv4"),
        ({"ECS_INSTANCE_IP_COMPATIBILITY": "ipv4"}, GATEWAY6, "ipv4"),
        ({"ECS_INSTANCE_IP_COMPATIBILITY": " IPv6 "}, "", "ipv6"),
        ({"ECS_INSTANCE_IP_COMPATIBILITY": "both"}, GATEWAY6, "ipv6"),
    ],
)
def test_every_process_hears_from_the_configuration_whether_there_is_ipv6_alone(environment, v6, family):
    """Case 68: the option decides, else the routes; bindings to IPv6 follow unless somebody says otherwise."""
    tables = {"/proc/net/route": HEAD, "/proc/net/ipv6_route": v6}
    config = load(environment, read=tables.get, exists=lambda path: False)
    assert config["ECS_INSTANCE_IP_COMPATIBILITY"] == family
    assert config["ECS_EXCLUDE_IPV6_PORTBINDING"] is (family == "ipv4")
    asked = load({**environment, "ECS_EXCLUDE_IPV6_PORTBINDING": "true"}, read=tables.get, exists=lambda path: False)
    assert asked["ECS_EXCLUDE_IPV6_PORTBINDING"] is True


def test_routes_that_cannot_be_read_are_warned_about():
    """The instance counts as one with IPv4, as in the reference."""

    def read(path: str) -> str | None:
        if path == "/proc/net/ipv6_route":
            raise PermissionError(13, "Permission denied")
        return None

    config = load({}, read=read, exists=lambda path: False)
    assert config["ECS_INSTANCE_IP_COMPATIBILITY"] == "ipv4"
    assert any("Permission denied" in finding.reason for finding in config.findings)
