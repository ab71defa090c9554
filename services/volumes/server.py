"""HTTP on a UNIX socket, a thread per connection: commands block, and Docker opens few connections.

Docker finds the plugin by the socket's name. The file is made anew at each start; there is no socket unit, since a
service that starts before Docker needs none (spec 09 §14.1, spec 10 §14).
"""

from __future__ import annotations

import logging
import os
import socket
import socketserver
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from services.volumes.plugin import Plugin
from services.volumes.protocol import answer

SOCKET = Path("/run/docker/plugins/amazon-ecs-volume-plugin.sock")
_MODE = 0o660
_BODY_LIMIT = 4 << 20  # bytes; a request has a few hundred


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        body = self._body()
        if body is None:
            self.close_connection = True
            return
        path = self.path.partition("?")[0]
        self.server.log.debug("%s %s", self.command, path)
        status, kind, text = answer(self.server.plugin, path, body)
        self.send_response_only(status)
        self.send_header("Content-Type", kind)
        self.send_header("Date", self.date_time_string())
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _body(self) -> bytes | None:
        """The body, whatever its framing; None when it cannot be read."""
        if "chunked" in (self.headers.get("Transfer-Encoding") or "").lower():
            return self._chunks()
        length = self.headers.get("Content-Length") or "0"
        if not length.isdigit() or int(length) > _BODY_LIMIT:
            return None
        return self.rfile.read(int(length))

    def _chunks(self) -> bytes | None:
        data = b""
        while len(data) <= _BODY_LIMIT:
            try:
                size = int(self.rfile.readline(64).partition(b";")[0], 16)
            except ValueError:
                return None
            if size < 0 or size > _BODY_LIMIT:
                return None
            data += self.rfile.read(size)
            self.rfile.readline(64)
            if size == 0:
                return data
        return None

    def address_string(self) -> str:
        """There is no address on a UNIX socket."""
        return "docker"

    def log_message(self, format: str, *args: object) -> None:
        """What the base class would print: malformed requests."""
        self.server.log.debug(format, *args)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The plugin on its socket."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, plugin: Plugin, listener: socket.socket, log: logging.Logger) -> None:
        super().__init__("", Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.plugin = plugin
        self.log = log

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away, or a fault of ours: neither may end the plugin."""
        self.log.error("a request failed", exc_info=True)


def listen(path: Path = SOCKET) -> socket.socket:
    """A new listening socket of mode 0660 at `path`. Raises OSError."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~_MODE)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    if os.geteuid() == 0:
        os.chown(path, 0, 0)
    listener.listen(64)
    return listener
