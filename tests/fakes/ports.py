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
    highest = int(PICKED_BY_THE_KERNEL.read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(LOWEST, highest)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
