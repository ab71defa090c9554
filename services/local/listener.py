"""The listening socket, apart from what serves on it.

The program opens it before it imports the server: the tree starts everything at once, and an agent that comes early
then waits in the queue for a second instead of being refused and coming back later.
"""

from __future__ import annotations

import socket

import gevent.socket

from common.errors import Permanent

BACKLOG = 128


def listen(port: int) -> gevent.socket.socket:
    """Listen on 127.0.0.1:`port`; 0 takes any free port. Raises Permanent saying what to do when the port is taken."""
    listener = gevent.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted sockets inherit it. Without it every keep-alive request waits 40 ms for a delayed ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Permanent(
            f"cannot listen on 127.0.0.1:{port}: {error.strerror}. Another program has the port; end it or "
            "set ECS_LOCAL_PORT to a free one."
        ) from error
    return listener
