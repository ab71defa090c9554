"""Calls to the Docker Engine API: bytes in, bytes out, each with a deadline.

Not the docker SDK, for three reasons: it refuses API versions below 1.24, while the product speaks 1.21 unless told
otherwise (spec 03 §6.1); it renames and drops members of the create request (trap 10); and its calls cost four times
the CPU of these. One `Api` serves every version: the version is part of each path. Connections are kept and reused;
under gevent each call blocks its own greenlet only.

A call raises ApiError (the daemon said no), Unreachable (no daemon, or it hung up), TimedOut or Cancelled.
"""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from common.backoff import Backoff
from common.docker import host as docker_host
from common.unixhttp import Connection

log = logging.getLogger(__name__)

IDLE_SECONDS = 30.0  # an idle connection is not trusted for longer
CHUNK = 64 * 1024
AWAY_SECONDS = 30.0  # how long a patient call waits for a daemon that restarts
HANG_UPS = 2  # a daemon that ends uses to hang up once; one that always does shall be believed


class DockerCallError(Exception):
    """Base of what a call can raise; `str()` of it is the text that ECS sees."""


class ApiError(DockerCallError):
    """The daemon answered with an error. `message` is its own text."""

    def __init__(self, status: int, reason: str, message: str, url: str) -> None:
        self.status, self.reason, self.message, self.url = status, reason, message.strip(), url
        super().__init__(self.text)

    @property
    def text(self) -> str:
        """The sentence of the reference's client for this answer (spec 03 §6.4)."""
        if self.message:
            return f"Error response from daemon: {self.message}"
        return (
            f"request returned {self.reason} for API route and version {self.url}, "
            "check if the server supports the requested API version"
        )


class Unreachable(DockerCallError):
    """No daemon behind the socket (`refused`), or it closed the connection before it had answered."""

    def __init__(self, text: str, refused: bool = False) -> None:
        super().__init__(text)
        self.refused = refused


class TimedOut(DockerCallError):
    """The deadline of the call passed."""


class Cancelled(DockerCallError):
    """Somebody called `Canceller.cancel`."""


class Answer:
    """A complete answer."""

    __slots__ = ("body", "status")

    def __init__(self, status: int, body: bytes) -> None:
        self.status, self.body = status, body

    def json(self) -> Any:
        """The body as JSON. Raises DockerCallError when it is something else."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise DockerCallError(f"the answer of the Docker daemon is not JSON: {error}") from error


class Canceller:
    """Ends a call from another greenlet: the connection is shut down, the caller gets Cancelled."""

    def __init__(self) -> None:
        self._wish = threading.Event()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    @property
    def cancelled(self) -> bool:
        """Was `cancel` called?"""
        return self._wish.is_set()

    def sleep(self, seconds: float) -> None:
        """Wait between two attempts. Raises Cancelled at once when the call was cancelled."""
        if self._wish.wait(max(0.0, seconds)):
            raise Cancelled("context canceled")

    def attach(self, sock: socket.socket | None) -> None:
        """The call that may be ended now uses this socket. Raises Cancelled when it was too late."""
        with self._lock:
            self._socket = sock
            if self.cancelled and sock is not None:
                raise Cancelled("context canceled")

    def cancel(self) -> None:
        """End the call that is attached, and every later one."""
        with self._lock:
            self._wish.set()
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError as error:
                    log.debug("the connection to Docker was closed already: %s", error)


class Stream:
    """An answer that goes on: JSON documents, one per line. Close it when done."""

    def __init__(self, connection: Connection, response: http.client.HTTPResponse, canceller: Canceller) -> None:
        self._connection, self._response, self._canceller = connection, response, canceller

    def lines(self, first_timeout: float | None, idle_timeout: float | None, end: float | None = None) -> Iterator[Any]:
        """Each document in turn. The first read may take `first_timeout` seconds, each other `idle_timeout`.

        `end` is a monotonic time that no read may pass. Raises TimedOut, Cancelled, Unreachable (cut in the middle of
        the stream) and ValueError for a line that is not JSON.
        """
        buffer, allowance = b"", first_timeout
        while True:
            chunk = self._read(_within(allowance, end))
            allowance = idle_timeout
            if not chunk:
                break
            *complete, buffer = (buffer + chunk).split(b"\n")
            for line in complete:
                if line.strip():
                    yield json.loads(line)
        if buffer.strip():
            yield json.loads(buffer)

    def _read(self, seconds: float | None) -> bytes:
        try:
            if self._connection.sock is not None:
                self._connection.sock.settimeout(seconds)
            chunk = self._response.read1(CHUNK)
        except TimeoutError as error:
            raise TimedOut("the Docker daemon sent nothing in time") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if self._canceller.cancelled:
                raise Cancelled("context canceled") from error
            raise Unreachable("unexpected EOF") from error
        if not chunk and self._canceller.cancelled:
            raise Cancelled("context canceled")
        return chunk

    def close(self) -> None:
        """Give the connection up."""
        self._response.close()
        self._connection.close()


def _within(seconds: float | None, end: float | None) -> float | None:
    if end is None:
        return seconds
    left = max(0.001, end - time.monotonic())
    return left if seconds is None else min(seconds, left)


class Api:
    """A Docker daemon. `version` is the API version of calls that name none."""

    def __init__(
        self, version: str = "1.21", address: str = "", kept_connections: int = 32, away_seconds: float = AWAY_SECONDS
    ) -> None:
        self.version, self.away_seconds = version, away_seconds
        self.address = address or docker_host()
        self._idle: deque[Connection] = deque(maxlen=kept_connections)

    def call(
        self,
        method: str,
        path: str,
        timeout: float,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        version: str = "",
        headers: Mapping[str, str] | None = None,
        canceller: Canceller | None = None,
    ) -> Answer:
        """One request and its whole answer within `timeout` seconds. 304 is an answer, not an error.

        `body` is sent as JSON; bytes (or a view of some) go as they are, with the Content-Type that `headers` name.
        """
        end, canceller = time.monotonic() + timeout, canceller or Canceller()
        connection, response = self._send(method, path, query, body, version, headers, canceller, end)
        try:
            content = self._whole(connection, response, end)
        except BaseException as error:
            connection.close()
            raise self._translated(error, method, path, version, canceller) from error
        canceller.attach(None)  # the connection is another call's from here on
        self._keep(connection, response)
        if response.status >= 400:
            raise self._refusal(response, content, path, version)
        return Answer(response.status, content)

    def patient_call(self, method: str, path: str, timeout: float, **more: Any) -> Answer:
        """A call, repeated while the daemon is away: only what may be done twice. Raises as `call`.

        With live-restore containers run on while their daemon restarts; a task must not fail for that. Where the
        daemon hung up and then stayed away, it is the hang-up that is raised: what was asked for may have been done.
        """
        backoff, hang_ups = Backoff(0.1, 2.0, 2.0), 0
        hung_up: Unreachable | None = None
        began = time.monotonic()
        while True:
            try:
                return self.call(method, path, timeout, **more)
            except Unreachable as error:
                delay = backoff.delay()
                hang_ups += not error.refused
                hung_up = hung_up or (None if error.refused else error)
                if hang_ups > HANG_UPS or time.monotonic() + delay > began + self.away_seconds:
                    raise hung_up or error from None
                log.info("%s %s waits for Docker: %s", method, path, error)
            time.sleep(delay)

    def stream(
        self,
        method: str,
        path: str,
        timeout: float,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        version: str = "",
        canceller: Canceller | None = None,
    ) -> Stream:
        """A request whose answer goes on; its headers must come within `timeout` seconds."""
        canceller = canceller or Canceller()
        end = time.monotonic() + timeout
        connection, response = self._send(method, path, query, None, version, headers, canceller, end)
        if response.status >= 400:
            try:
                content = self._whole(connection, response, end)
            except BaseException as error:
                raise self._translated(error, method, path, version, canceller) from error
            finally:
                connection.close()
            raise self._refusal(response, content, path, version)
        return Stream(connection, response, canceller)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def url(self, path: str, version: str = "") -> str:
        """The URL as the reference's client prints it in errors."""
        scheme, _, rest = self.address.partition("://")
        name = quote(rest, safe="") if scheme == "unix" else rest.rstrip("/")
        return f"http://{name}{self._path(path, version)}"

    # -- inside ------------------------------------------------------------------------------

    def _path(self, path: str, version: str) -> str:
        return path if version == "none" else f"/v{version or self.version}{path}"

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Any,
        version: str,
        headers: Mapping[str, str] | None,
        canceller: Canceller,
        end: float,
    ) -> tuple[Connection, http.client.HTTPResponse]:
        target = self._path(path, version) + (f"?{urlencode(query)}" if query else "")
        sent = dict(headers or {})
        data: bytes | memoryview | None = None
        if isinstance(body, bytes | memoryview):
            data = body
        elif body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        connection, fresh = self._connection(end)
        while True:
            try:
                return connection, self._exchange(connection, method, target, data, sent, canceller, end)
            except BaseException as error:
                connection.close()
                # A kept connection may have been closed by a daemon that restarted; a fresh one tells the truth.
                # Repeating is safe: create is found by its name, start and stop answer 304, the rest is idempotent.
                stale = isinstance(error, (ConnectionError, http.client.RemoteDisconnected))
                if fresh or not stale or canceller.cancelled:
                    raise self._translated(error, method, path, version, canceller) from error
                connection, fresh = Connection(self.address, _within(None, end) or 1.0), True

    def _exchange(
        self,
        connection: Connection,
        method: str,
        target: str,
        data: bytes | memoryview | None,
        headers: Mapping[str, str],
        canceller: Canceller,
        end: float,
    ) -> http.client.HTTPResponse:
        connection.timeout = _within(None, end)
        if connection.sock is None:
            connection.connect()
        connection.sock.settimeout(_within(None, end))
        canceller.attach(connection.sock)
        connection.request(method, target, body=data, headers=dict(headers))
        connection.sock.settimeout(_within(None, end))
        return connection.getresponse()

    def _connection(self, end: float) -> tuple[Connection, bool]:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if time.monotonic() - connection.idle_since < IDLE_SECONDS:
                return connection, False
            connection.close()
        return Connection(self.address, _within(None, end) or 1.0), True

    def _whole(self, connection: Connection, response: http.client.HTTPResponse, end: float) -> bytes:
        parts = []
        while not response.isclosed():
            if connection.sock is not None:
                connection.sock.settimeout(_within(None, end))
            part = response.read1(CHUNK)
            if not part:
                break
            parts.append(part)
        return b"".join(parts)

    def _keep(self, connection: Connection, response: http.client.HTTPResponse) -> None:
        if response.will_close or connection.sock is None or len(self._idle) == self._idle.maxlen:
            connection.close()
            return
        response.close()
        connection.idle_since = time.monotonic()
        self._idle.append(connection)

    def _translated(
        self, error: BaseException, method: str, path: str, version: str, canceller: Canceller | None
    ) -> BaseException:
        if isinstance(error, DockerCallError):
            return error
        if canceller is not None and canceller.cancelled and isinstance(error, (OSError, http.client.HTTPException)):
            return Cancelled("context canceled")
        if isinstance(error, TimeoutError):
            return TimedOut("context deadline exceeded")
        if isinstance(error, (FileNotFoundError, ConnectionRefusedError, PermissionError, socket.gaierror)):
            text = f"Cannot connect to the Docker daemon at {self.address}. Is the docker daemon running?"
            return Unreachable(text, refused=True)
        if isinstance(error, (OSError, http.client.HTTPException)):
            return Unreachable(f'error during connect: {method.title()} "{self.url(path, version)}": EOF')
        return error

    def _refusal(self, response: http.client.HTTPResponse, content: bytes, path: str, version: str) -> ApiError:
        text = content.decode(errors="replace")
        if "json" in (response.headers.get("Content-Type") or ""):
            try:
                decoded = json.loads(content)
                text = str(decoded.get("message", text)) if isinstance(decoded, dict) else text
            except ValueError:
                log.debug("Docker's error answer says JSON and is none: %.200s", text)
        reason = http.client.responses.get(response.status, "")
        return ApiError(response.status, reason, text, self.url(path, version))
