"""Which ports are taken, and by whom."""

from __future__ import annotations

import socket
from collections.abc import Iterable

import psutil

from services.local.tool.settings import Problem


def check_free(wanted: Iterable[tuple[int, str, str]]) -> None:
    """Raise Problem unless every (port, protocol, purpose) can be bound; names the processes that hold the others."""
    taken = [(port, protocol, purpose) for port, protocol, purpose in wanted if not is_free(port, protocol)]
    if not taken:
        return
    lines = [
        f"  {port}/{protocol} ({purpose}) is held by {holder(port, protocol)}" for port, protocol, purpose in taken
    ]
    raise Problem(
        "These ports are needed and taken:\n"
        + "\n".join(lines)
        + "\nEnd those programs (or run `ecs-local down`), or choose other ports, and try again."
    )


def is_free(port: int, protocol: str = "tcp") -> bool:
    """Whether a program could bind the port on every address right now."""
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as probe:
        # TIME_WAIT leftovers of an earlier run do not hold a port; servers set this too.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1 if protocol == "tcp" else 0)
        try:
            probe.bind(("0.0.0.0", port))
            if protocol == "tcp":
                probe.listen(1)
        except OSError:
            return False
    return True


def holder(port: int, protocol: str = "tcp") -> str:
    """`name (pid 123)` of the program that has the port, as far as this user may see."""
    try:
        connections = psutil.net_connections(kind="udp" if protocol == "udp" else "tcp")
    except psutil.AccessDenied:
        connections = []
    for connection in connections:
        listening = protocol == "udp" or connection.status == psutil.CONN_LISTEN
        if connection.laddr and connection.laddr.port == port and listening and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.Error:
                return f"pid {connection.pid}"
    return "a program that this user may not see (try: sudo ss -ltnp)"
