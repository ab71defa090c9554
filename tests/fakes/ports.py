"""Ports for programs that must be told one before they listen.

A port that the kernel picked and that was closed again can be picked at once for anybody else on the machine, and with
tests in several rows it sometimes was. So these lie below the range that the kernel picks from.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

PICKED_BY_THE_KERNEL = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 10000
_given: set[int] = set()


def free_port() -> int:
    """A TCP port that nobody listens on, that the kernel gives to nobody, and that was not returned before."""
    return free_ports(1)[0]


def free_ports(count: int) -> tuple[int, int]:
    """The first and the last of `count` such ports in a row."""
    highest = int(PICKED_BY_THE_KERNEL.read_text().split()[0]) - count
    while True:
        first = random.SystemRandom().randrange(LOWEST, highest)
        ports = range(first, first + count)
        if _given.isdisjoint(ports) and all(map(_is_free, ports)):
            _given.update(ports)
            return first, first + count - 1


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True
