"""Kernel settings: route_localnet on, router advertisements off on the Docker bridge, the endpoint's ports reserved.

Written straight to /proc/sys, so the `sysctl` program is not needed. What was there before is remembered by the
caller (state.py), because the value that the reference puts back, that of `default`, is not always the former one
(ECS agent behaviour, spec 09 §6.1).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from services.init.errors import SysctlError

ROOT = Path("/proc/sys")
ALL_ROUTE_LOCALNET = "net/ipv4/conf/all/route_localnet"
DEFAULT_ROUTE_LOCALNET = "net/ipv4/conf/default/route_localnet"
RESERVED_PORTS = "net/ipv4/ip_local_reserved_ports"  # for IPv6 too (kernel documentation, ip-sysctl)


def read(key: str) -> str | None:
    """The value of a key such as net/ipv4/conf/all/route_localnet; None when the key does not exist."""
    try:
        return (ROOT / key).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SysctlError(f"cannot read /proc/sys/{key}: {error.strerror}") from error


def write(key: str, value: str) -> None:
    """Set a key. Raises SysctlError, with what to do, when the kernel or the container refuses."""
    try:
        descriptor = os.open(ROOT / key, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode("ascii"))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SysctlError(
            f"cannot set /proc/sys/{key} to {value}: {error.strerror}; run on the host or with a writable /proc/sys"
        ) from error


def enable_route_localnet() -> bool:
    """Switch all.route_localnet on. True if it was off."""
    if read(ALL_ROUTE_LOCALNET) == "1":
        return False
    write(ALL_ROUTE_LOCALNET, "1")
    return True


def restore_route_localnet(before: str | None) -> None:
    """Put all.route_localnet back to `before`; without one, to the value of `default` as the reference does."""
    value = before if before is not None else read(DEFAULT_ROUTE_LOCALNET)
    if value is None or not value.lstrip("-").isdigit():
        raise SysctlError(f"/proc/sys/{DEFAULT_ROUTE_LOCALNET} has no number ({value!r}); route_localnet stays on")
    if read(ALL_ROUTE_LOCALNET) != value:
        write(ALL_ROUTE_LOCALNET, value)


def accept_ra_key(interface: str) -> str:
    """The key that lets an interface take IPv6 router advertisements."""
    return f"net/ipv6/conf/{interface}/accept_ra"


def disable_accept_ra(interface: str) -> str | None:
    """Ignore router advertisements on `interface`; the former value, or None if the interface or IPv6 is missing."""
    key = accept_ra_key(interface)
    before = read(key)
    if before is not None and before != "0":
        write(key, "0")
    return before


def not_reserved(ports: Iterable[int]) -> set[int]:
    """Those of `ports` that the kernel may give to outgoing connections; none where it has no such setting."""
    listed = read(RESERVED_PORTS)
    return set() if listed is None else set(ports) - _numbers(listed)


def reserve(ports: Iterable[int]) -> None:
    """Keep `ports` from becoming the local end of an outgoing connection, beside those reserved already."""
    write(RESERVED_PORTS, _ranges(_numbers(read(RESERVED_PORTS) or "").union(ports)))


def give_back(ports: Iterable[int]) -> None:
    """Reserve `ports` no longer; what others reserved stays."""
    reserved = _numbers(read(RESERVED_PORTS) or "")
    if not reserved.isdisjoint(ports):
        write(RESERVED_PORTS, _ranges(reserved.difference(ports)))


def _numbers(listed: str) -> set[int]:
    """The ports of a list such as `8080,9148-9150`."""
    found: set[int] = set()
    for part in filter(None, listed.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def _ranges(ports: set[int]) -> str:
    """The list of `ports` as the kernel writes it: a whole one may not be longer than a page of memory."""
    if not ports:
        return "\n"  # an empty write changes nothing
    ordered = sorted(ports)
    ends = [ordered[0], *(edge for pair in pairwise(ordered) if pair[1] - pair[0] > 1 for edge in pair), ordered[-1]]
    spans = zip(ends[::2], ends[1::2], strict=True)
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
