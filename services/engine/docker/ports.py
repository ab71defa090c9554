"""Host ports that the agent chooses: one free port, or a contiguous range of them (spec 03 §6.6.5).

One picker per process. It walks upwards from the port it gave last, asks the kernel whether a port can be bound, and
skips the ports that live containers hold, because a port that Docker publishes without its proxy looks free to the
kernel (W19). When the end of the range is reached it starts over and searches all of it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable

LOCAL_PORT_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"
FALLBACK_RANGE = (49153, 65535)

Held = frozenset[tuple[int, str]]


class NoPorts(Exception):
    """Not enough free host ports; the text is the cause on the wire."""


def kernel_range(path: str = LOCAL_PORT_RANGE) -> tuple[int, int]:
    """The kernel's range of ephemeral ports, or the reference's fallback."""
    try:
        with open(path, encoding="ascii") as file:
            low, high = file.read().split()[:2]
        return int(low), int(high)
    except (OSError, ValueError):
        return FALLBACK_RANGE


def is_free(port: int, protocol: str) -> bool:
    """Can a listening TCP socket (or a bound UDP one) on all addresses be opened? Closed again at once."""
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    try:
        probe = socket.socket(socket.AF_INET6, kind)
    except OSError:
        probe = socket.socket(socket.AF_INET, kind)
    with probe:
        try:
            if probe.family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
            if kind == socket.SOCK_STREAM:
                probe.listen(1)
        except OSError:
            return False
    return True


class PortPicker:
    """Chooses free host ports. Thread-safe; `held` remembers which container holds which ports."""

    def __init__(
        self, range_: tuple[int, int] | None = None, free: Callable[[int, str], bool] = is_free, cursor: int = 0
    ) -> None:
        self._range, self._free, self.cursor = range_, free, cursor
        self._lock = threading.Lock()
        self._held: dict[str, Held] = {}

    def hold(self, holder: str, ports: Iterable[tuple[int, str]]) -> None:
        """`holder` (a Docker id or name) uses these host ports until released."""
        kept = frozenset(ports)
        with self._lock:
            if kept:
                self._held[holder] = kept
            else:
                self._held.pop(holder, None)

    def release(self, *holders: str) -> None:
        """These containers hold no ports any more."""
        with self._lock:
            for holder in holders:
                self._held.pop(holder, None)

    def pick(
        self,
        count: int,
        protocol: str,
        holder: str = "",
        taken: Iterable[tuple[int, str]] = (),
        of_range: bool = False,
    ) -> int:
        """The first of `count` contiguous free ports, held for `holder` from now on. Raises NoPorts.

        `taken` are further ports that the request in hand uses; `of_range` decides the words of the error only.
        """
        with self._lock:
            busy = {p for p in (*taken, *(p for held in self._held.values() for p in held)) if p[1] == protocol}
            blocked = {number for number, _ in busy}
            low, high = self._range or kernel_range()
            start = self.cursor + 1 if low <= self.cursor < high else low
            first = self._search(start, high, count, protocol, blocked)
            if first is None and start > low:
                first = self._search(low, high, count, protocol, blocked)
            if first is None:
                what = f"{count} contiguous host ports are" if of_range or count > 1 else "a host port is"
                raise NoPorts(f"{what} unavailable")
            self.cursor = first + count - 1
            if holder:
                mine = frozenset((first + offset, protocol) for offset in range(count))
                self._held[holder] = self._held.get(holder, frozenset()) | mine
            return first

    def _search(self, low: int, high: int, count: int, protocol: str, blocked: set[int]) -> int | None:
        run = 0
        for port in range(max(1, low), high + 1):
            run = run + 1 if port not in blocked and self._free(port, protocol) else 0
            if run == count:
                return port - count + 1
        return None
