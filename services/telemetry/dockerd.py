"""The three questions this process asks Docker, over plain HTTP: ping, inspect, stats.

Docker is only needed for the check of the container runtime and where a container's cgroup is not in the usual place.
The Docker SDK would cost 8 MB of memory for that.
"""

from __future__ import annotations

import http.client
import socket
from typing import Any
from urllib.parse import urlsplit

import gevent
import msgspec

from common import docker
from common.errors import Temporary

PING_SECONDS = 2.0
INSPECT_SECONDS = 30.0
STATS_SECONDS = 18.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Daemon:
    """The Docker daemon at `host` (DOCKER_HOST by default)."""

    def __init__(self, host: str = "") -> None:
        self._url = urlsplit(host or docker.host())

    @property
    def socket_path(self) -> str:
        """Path of the Unix socket, or the network address."""
        return self._url.path or self._url.netloc

    def ping(self) -> None:
        """Return when Docker answers within 2 s. Raises Temporary."""
        try:
            self._ask("HEAD", "/_ping", PING_SECONDS)
        except Temporary:
            self._ask("GET", "/_ping", PING_SECONDS)

    def process_of(self, docker_id: str) -> int:
        """The pid of the container's process, 0 when it does not run. Raises Temporary."""
        answer = msgspec.json.decode(self._ask("GET", f"/containers/{docker_id}/json", INSPECT_SECONDS))
        state: dict[str, Any] = answer.get("State") or {}
        return int(state.get("Pid") or 0)

    def stats(self, docker_id: str) -> bytes:
        """One stats object as JSON. Raises Temporary."""
        return self._ask("GET", f"/containers/{docker_id}/stats?stream=0", STATS_SECONDS)

    def _ask(self, method: str, path: str, seconds: float) -> bytes:
        connection = self._connection(seconds)
        try:
            with gevent.Timeout(seconds, TimeoutError(f"no answer within {seconds:.0f} s")):
                connection.request(method, path, headers={"Host": "docker"})
                response = connection.getresponse()
                body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Temporary(f"Docker at {self.socket_path} does not answer {method} {path}: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            text = body[:500].decode("utf-8", "replace").strip()
            raise Temporary(f"Docker answers {method} {path} with status {response.status}: {text}")
        return body

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        if self._url.scheme == "unix":
            return _UnixConnection(self._url.path, seconds)
        return http.client.HTTPConnection(self._url.hostname or "localhost", self._url.port or 2375, timeout=seconds)
