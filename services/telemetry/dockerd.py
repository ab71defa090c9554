"""What this process asks Docker, over plain HTTP: ping, inspect, stats.

Docker is only needed for the check of the container runtime and where a container's cgroup is not in the usual place.
The Docker SDK would cost 8 MB of memory for that.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import Any, NamedTuple

import gevent
import msgspec

from common import docker
from common.errors import Temporary
from common.unixhttp import Connection

PING_SECONDS = 2.0
INSPECT_SECONDS = 30.0
STATS_SECONDS = 18.0


class State(NamedTuple):
    """Of a container: the pid of its process (0 when it does not run), and when that was started."""

    pid: int
    started_at: str


class Daemon:
    """The Docker daemon at `host` (DOCKER_HOST by default)."""

    def __init__(self, host: str = "") -> None:
        self._address = host or docker.host()

    @property
    def socket_path(self) -> str:
        """Path of the Unix socket, or the network address."""
        return self._address.partition("://")[2]

    def ping(self) -> None:
        """Return when Docker answers within 2 s. Raises Temporary."""
        try:
            self._ask("HEAD", "/_ping", PING_SECONDS)
        except Temporary:
            self._ask("GET", "/_ping", PING_SECONDS)

    def state_of(self, docker_id: str) -> State:
        """Whether and since when the container runs. Raises Temporary."""
        answer = msgspec.json.decode(self._ask("GET", f"/containers/{docker_id}/json", INSPECT_SECONDS))
        state: dict[str, Any] = answer.get("State") or {}
        return State(int(state.get("Pid") or 0), str(state.get("StartedAt") or ""))

    def stats(self, docker_id: str) -> bytes:
        """One stats object as JSON. Raises Temporary."""
        return self._ask("GET", f"/containers/{docker_id}/stats?stream=0", STATS_SECONDS)

    def stream(self, docker_id: str) -> Iterator[bytes]:
        """A stats object as JSON every second or so, until Docker ends the stream.

        Raises Temporary, also when nothing came for 18 s. Close the generator to end the stream.
        """
        path = f"/containers/{docker_id}/stats?stream=1"
        connection = Connection(self._address, STATS_SECONDS)
        try:
            connection.request("GET", path)
            with connection.getresponse() as response:
                if response.status != 200:
                    raise _refused("GET", path, response.status, response.read(500))
                while line := response.readline():
                    if line.strip():
                        yield line
        except (OSError, http.client.HTTPException) as error:
            raise Temporary(f"the stream of {path} from Docker at {self.socket_path} broke off: {error}") from error
        finally:
            connection.close()

    def _ask(self, method: str, path: str, seconds: float) -> bytes:
        connection = Connection(self._address, seconds)
        try:
            with gevent.Timeout(seconds, TimeoutError(f"no answer within {seconds:.0f} s")):
                connection.request(method, path)
                response = connection.getresponse()
                body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Temporary(f"Docker at {self.socket_path} does not answer {method} {path}: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise _refused(method, path, response.status, body)
        return body


def _refused(method: str, path: str, status: int, body: bytes) -> Temporary:
    text = body[:500].decode("utf-8", "replace").strip()
    return Temporary(f"Docker answers {method} {path} with status {status}: {text}")
