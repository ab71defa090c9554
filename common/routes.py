"""What the routing tables of this machine say: the device of the default route, and whether there is IPv6 alone.

A default route counts when it has a gateway, as in the reference (ECS agent behaviour, spec 01 §3.6). The functions
take the text of /proc/net/route and /proc/net/ipv6_route (proc(5)); a table that is not there is an empty text.
"""

from __future__ import annotations

IPV4_TABLE, IPV6_TABLE = "/proc/net/route", "/proc/net/ipv6_route"
NO_ADDRESS, NO_ADDRESS_6 = "0" * 8, "0" * 32


def default_device(ipv4: str, ipv6: str) -> str:
    """The interface of the first default route, IPv4 before IPv6; "" when there is none."""
    return _ipv4_device(ipv4) or _ipv6_device(ipv6)


def ipv6_only(ipv4: str, ipv6: str) -> bool:
    """True with a default route in IPv6 and none in IPv4. A machine without any is not IPv6-only."""
    return bool(_ipv6_device(ipv6)) and not _ipv4_device(ipv4)


def _ipv4_device(table: str) -> str:
    for row in (line.split() for line in table.splitlines()[1:]):
        if len(row) > 7 and row[1] == row[7] == NO_ADDRESS and row[2] != NO_ADDRESS:
            return row[0]
    return ""


def _ipv6_device(table: str) -> str:
    for row in (line.split() for line in table.splitlines()):
        if len(row) > 9 and row[0] == NO_ADDRESS_6 and row[1] == "00" and row[4] != NO_ADDRESS_6:
            return row[9]
    return ""
