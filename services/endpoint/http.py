"""HTTP/1.1 for small answers: reads a request, calls the WSGI application, writes the response in one piece.

Takes the place of pywsgi's handler under gevent's WSGIServer, for two reasons. Speed: pywsgi parses headers with the
mail parser, formats a log line and a date for each request and writes header and body apart; that costs more than the
application. And exactness: time-outs, limits and the answers to malformed requests are those of the reference's
library (spec 06 §1): 5 s for a request including its body, 5 s between requests, 5 s (or the server's
`write_seconds`) from the end of the header to the end of the response, after which the client sees the connection
close.
"""

from __future__ import annotations

import logging
import re
import socket
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

import gevent
from gevent.pywsgi import WSGIServer

from services.endpoint.paths import BAD_ESCAPE
from services.endpoint.wire import TOKEN, Body, Malformed, Slow, Wire

log = logging.getLogger(__name__)

SHORT = 512  # characters; only what is shorter is remembered, or a client could fill the memory with names
LINGER_SECONDS = 0.5  # after an error, so that the client reads the answer before the connection is reset

ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
VERSION = re.compile(r"HTTP/(\d)\.(\d)")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)")


class Request:
    """A parsed request head."""

    __slots__ = ("body", "close", "environ", "head_only", "version_1_0")

    def __init__(self, head: str, wire: Wire, peer: tuple[str, str]) -> None:
        if CONTROL.search(head):
            raise Malformed
        lines = head.split("\r\n")
        if len(lines) != head.count("\n") + 1:
            lines = re.split(r"\r?\n", head)
        line = lines[0]
        method, target, major, minor = (_request_line if len(line) <= SHORT else _request_line.__wrapped__)(line)
        environ: dict[str, Any] = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "REMOTE_ADDR": peer[0],
                                   "REMOTE_PORT": peer[1], "SERVER_PROTOCOL": f"HTTP/{major}.{minor}"}  # fmt: skip
        path, _, query = target.partition("?")
        environ["PATH_INFO"] = _decoded(path) if "%" in path else path
        environ["QUERY_STRING"] = query
        if "?" in target and not query:
            environ["endpoint.bare_query"] = True
        _add_headers(environ, lines)
        if "HTTP_HOST" not in environ and minor != "0":
            raise Malformed("400 Bad Request: missing required Host header")
        self.environ = environ
        self.head_only = method == "HEAD"
        self.version_1_0 = minor == "0"
        connection = environ.get("HTTP_CONNECTION", "").lower()
        self.close = "keep-alive" not in connection if self.version_1_0 else "close" in connection
        self.body = _body(environ, wire, self.version_1_0)
        environ["wsgi.input"] = self.body


@lru_cache(maxsize=1024)
def _request_line(line: str) -> tuple[str, str, str, str]:
    method, _, rest = line.partition(" ")
    target, _, version = rest.partition(" ")
    match = VERSION.fullmatch(version)
    if match is None or TOKEN.fullmatch(method) is None:
        raise Malformed
    major, minor = match.groups()
    if major != "1":
        raise Malformed("505 HTTP Version Not Supported: unsupported protocol version")
    if method != "CONNECT" and (absolute := ABSOLUTE.match(target)):
        target = "/" + target[absolute.end() :].partition("/")[2]
    if not target.startswith("/") and target != "*":
        raise Malformed
    return method, target, major, minor


def _decoded(path: str) -> str:
    if BAD_ESCAPE.search(path):
        raise Malformed
    return unquote_to_bytes(path.encode("latin-1")).decode("latin-1")


@lru_cache(maxsize=512)
def _environ_key(name: str) -> str:
    if TOKEN.fullmatch(name) is None:
        raise Malformed("400 Bad Request: invalid header name")
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


def _add_headers(environ: dict[str, Any], lines: list[str]) -> None:
    """The first value of a repeated header counts, as the reference's library has it."""
    last = ""
    for line in lines[1:]:
        if line[:1] in (" ", "\t"):
            if not last:
                raise Malformed
            environ[last] = f"{environ[last]} {line.strip()}"
            continue
        name, colon, value = line.partition(":")
        if not colon:
            raise Malformed
        key = (_environ_key if len(name) <= SHORT else _environ_key.__wrapped__)(name)
        value = value.strip(" \t")
        if key in environ:
            if key == "HTTP_HOST":
                raise Malformed("400 Bad Request: too many Host headers")
            if key == "CONTENT_LENGTH" and environ[key] != value:
                raise Malformed
            last = ""
            continue
        environ[key] = value
        last = key


def _body(environ: dict[str, Any], wire: Wire, version_1_0: bool) -> Body:
    coding = environ.get("HTTP_TRANSFER_ENCODING")
    expects = environ.get("HTTP_EXPECT", "").lower() == "100-continue" and not version_1_0
    if coding is not None and not version_1_0:
        if coding.lower() != "chunked":
            raise Malformed("501 Not Implemented: Unsupported transfer encoding")
        return Body(wire, 0, True, expects)
    length = environ.get("CONTENT_LENGTH", "")
    if length and not (length.isascii() and length.isdigit() and len(length) < 19):
        raise Malformed
    return Body(wire, int(length or 0), False, expects)


class Connection:
    """One client connection, in the place of pywsgi's handler."""

    def __init__(self, sock: Any, address: tuple[Any, ...], server: Server) -> None:
        self.sock, self.server = sock, server
        self.peer = (str(address[0]), str(address[1])) if address else ("", "")
        self.wire = Wire(sock)
        self.idle = True

    def handle(self) -> None:
        """Serve requests until either side wants to close."""
        self.server.connections.add(self)
        try:
            while self._serve_one():
                gevent.sleep(0)  # a client that never pauses would keep the others waiting
        except Malformed as error:
            self._refuse(str(error))
        except (Slow, OSError) as error:
            log.debug("the connection from %s ends: %r", self.peer, error)
        finally:
            self.server.connections.discard(self)
            self.sock.close()

    def _serve_one(self) -> bool:
        self.idle = not self.wire.buffer
        head = self.wire.head()
        if head is None:
            return False
        self.idle = False
        started = time.monotonic()
        request = Request(head, self.wire, self.peer)
        status: str = ""
        headers: list[tuple[str, str]] = []

        def start_response(line: str, fields: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], Any]:
            nonlocal status, headers
            status, headers = line, fields
            return _no_write

        # RFC 9110 §9.3.7: a question to the server as a whole, which the reference's library answers by itself.
        general = request.environ["PATH_INFO"] == "*" and request.environ["REQUEST_METHOD"] == "OPTIONS"
        application = _general_options if general else self.server.application
        body = b"".join(application(request.environ, start_response))
        keep = not (request.close or self.server.closing or ("Connection", "close") in headers)
        if keep and request.body.data is None and (request.body.length or request.body.chunked):
            keep = request.body.discard()
        remaining = self.server.write_seconds - (time.monotonic() - started)
        if remaining <= 0:
            return False
        self.sock.settimeout(remaining)
        self.sock.sendall(_response(status, headers, body, request, keep))
        return keep

    def _refuse(self, text: str) -> None:
        status = text.split(":", 1)[0]
        self.server.on_refused(int(status.split(" ", 1)[0]))
        data = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n{text}"
        try:
            self.sock.settimeout(LINGER_SECONDS)
            self.sock.sendall(data.encode("latin-1"))
            self.sock.shutdown(socket.SHUT_WR)
            self.sock.recv(65536)
        except OSError as error:
            log.debug("the connection from %s ended before it read its error: %s", self.peer, error)


def _general_options(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [])
    return ()


def _no_write(_data: bytes) -> None:
    raise TypeError("the applications of this service return their body; they do not write it")


def _response(status: str, headers: Iterable[tuple[str, str]], body: bytes, request: Request, keep: bool) -> bytes:
    lines = [f"HTTP/1.{0 if request.version_1_0 else 1} {status}\r\n"]
    for name, value in headers:
        if name != "Connection":
            lines.append(f"{name}: {value}\r\n")
    if not keep:
        lines.append("Connection: close\r\n")
    elif request.version_1_0:
        lines.append("Connection: keep-alive\r\n")
    lines.append(f"Date: {_date(int(time.time()))}\r\nContent-Length: {len(body)}\r\n\r\n")
    head = "".join(lines).encode("latin-1")
    return head if request.head_only else head + body


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


class Server(WSGIServer):  # type: ignore[misc]
    """gevent's server with `Connection` for its handler. `write_seconds` bounds a response from the head on."""

    handler_class = Connection  # type: ignore[assignment]

    def __init__(self, listener: Any, application: Callable[..., Iterable[bytes]], write_seconds: float = 5.0) -> None:
        super().__init__(listener, application, log=None, error_log=None)
        self.write_seconds = write_seconds
        self.on_refused: Callable[[int], None] = lambda status: None  # told of each malformed request
        self.connections: set[Connection] = set()
        self.closing = False

    def drain(self, seconds: float) -> None:
        """Stop accepting, close connections that wait for a request, give the others `seconds` for their answer."""
        self.closing = True
        self.close()
        end = time.monotonic() + seconds
        while self.connections:
            late = time.monotonic() >= end
            for connection in list(self.connections):
                if connection.idle or late:
                    connection.sock.close()
            gevent.sleep(0.02)
            if late:
                break
        self.stop()
