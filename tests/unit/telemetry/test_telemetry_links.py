"""Which links of a namespace count, from the bytes that the kernel sends (rtnetlink(7), spec 07 §4.4)."""

import struct

import pytest

from services.telemetry.core.dockerstats import Interface
from services.telemetry.netns import ARPHRD_LOOPBACK, link_of

ETHERNET = 1


def attribute(kind, data):
    return struct.pack("=HH", len(data) + 4, kind) + data + b"\0" * (-len(data) % 4)


def message(name, link_type=ETHERNET, kind=""):
    stats = struct.pack("=8Q", 1, 2, 30, 40, 5, 6, 7, 8) + b"\0" * 128
    body = attribute(3, name.encode() + b"\0") + attribute(23, stats)
    if kind:
        body += attribute(18 | 0x8000, attribute(1, kind.encode() + b"\0"))
    return struct.pack("=BxHiII", 0, link_type, 2, 0, 0) + body


@pytest.mark.parametrize("kind", ["", "vlan"])
def test_physical_links_and_vlans_count(kind):
    """An ENI and a branch ENI; the kernel orders packets, bytes, errors, dropped."""
    assert list(link_of(message("eth1", kind=kind))) == [
        ("eth1", Interface(rx_bytes=30, rx_packets=1, rx_errors=5, rx_dropped=7,
                           tx_bytes=40, tx_packets=2, tx_errors=6, tx_dropped=8)),
    ]  # fmt: skip


@pytest.mark.parametrize("link_type, kind", [(ARPHRD_LOOPBACK, ""), (ETHERNET, "veth"), (ETHERNET, "dummy")])
def test_loopback_and_virtual_links_do_not_count(link_type, kind):
    """The veth leads to the task endpoints: its traffic is the agent's own."""
    assert list(link_of(message("x", link_type, kind))) == []
