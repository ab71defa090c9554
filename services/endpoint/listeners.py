"""Listening sockets: opened with patience, and with a sentence for the operator when somebody else has the port."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable

from common.backoff import Backoff

log = logging.getLogger(__name__)

BACKLOG = 1024
RETRY = (1.0, 60.0, 2.0, 0.2)  # start, maximum, multiplier, jitter of the waits after a failed bind (spec 06 §1.2)


def listen(address: str, port: int, shared: bool = False) -> socket.socket:
    """A listening TCP socket on `address`; "" = every local address of both families. Raises OSError.

    `shared` sets SO_REUSEPORT, with which further workers can listen too; without it a second agent is noticed.
    """
    if address:
        return _bound(socket.AF_INET, (address, port), shared)
    try:
        return _bound(socket.AF_INET6, ("::", port), shared)
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
        return _bound(socket.AF_INET, ("0.0.0.0", port), shared)  # introspection serves every address


def _bound(family: int, address: tuple[str, int], shared: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Accepted sockets inherit it; without it each keep-alive answer waits for the delayed ACK, 40 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def listen_until_it_works(name: str, address: str, port: int, sleep: Callable[[float], bool], shared: bool = False,
                          tell: Callable[[str], object] = lambda _: None) -> socket.socket | None:  # fmt: skip
    """`listen`, again and again. `sleep(seconds)` returns True when the process stops; then the result is None.

    `tell` is called with the sentence about each failed attempt.
    """
    backoff = Backoff(*RETRY)
    while True:
        try:
            return listen(address, port, shared)
        except OSError as error:
            delay = backoff.delay()
            sentence = problem(name, address, port, error)
            tell(sentence)
            log.error("%s; the next attempt is in %.0f s", sentence, delay)
            if sleep(delay):
                return None


def problem(name: str, address: str, port: int, error: OSError) -> str:
    """Why the port cannot be opened, and who has it."""
    where = f"{address or '*'}:{port}"
    why = holder(port) if error.errno == errno.EADDRINUSE else error
    return f"the {name} cannot listen on {where}: {why}"


def holder(port: int) -> str:
    """Who has the port and what to do, as far as it can be found out."""
    import psutil

    try:
        found = [c for c in psutil.net_connections("tcp") if c.laddr[1:] == (port,)]
    except (psutil.Error, OSError):
        found = []
    listening = [c for c in found if c.status == psutil.CONN_LISTEN]
    if found and not listening:  # also one in TIME_WAIT, which has no process any more
        peer = found[0].raddr
        to = f" to {peer[0]}:{peer[1]}" if peer else ""
        return f"an outgoing connection{to} was given this port ({found[0].status}); it is free a minute after its end"
    pid = next((c.pid for c in listening if c.pid), None)
    if pid is None:
        return "another process has this port; stop it"
    try:
        return f"process {pid} ({psutil.Process(pid).name()}) has this port; stop it"
    except psutil.Error:
        return f"process {pid} has this port; stop it"
