"""HTTP to a program of this machine: Docker's socket or another's, by http.client and nothing more.

The libraries that could do it cost megabytes in processes that ask one question a minute.
"""

from __future__ import annotations

import http.client
import socket

import gevent

DOCKER_PORT = 2375  # of an address tcp://host without one


class Connection(http.client.HTTPConnection):
    """To an address such as unix:///var/run/docker.sock or tcp://127.0.0.1:2375. `seconds` bounds each read and write.

    `idle_since` is for those who keep connections.
    """

    def __init__(self, address: str, seconds: float) -> None:
        super().__init__("docker", timeout=seconds)
        self.address = address
        self.idle_since = 0.0

    def connect(self) -> None:
        """Open the socket. Raises OSError."""
        scheme, _, rest = self.address.partition("://")
        if scheme == "unix":
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(rest)
            return
        name, port = host_and_port(rest)
        self.sock = socket.create_connection((name, port), self.timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def host_and_port(network_address: str) -> tuple[str, int]:
    """`127.0.0.1:2375` or `[::1]:2375`, the port may be missing. Raises OSError for a port that is none."""
    name, colon, port = network_address.rstrip("/").rpartition(":")
    if not colon or port.endswith("]"):
        name, port = network_address.rstrip("/"), str(DOCKER_PORT)
    if not port.isdigit():
        raise OSError(f"{network_address} has no port that is a number")
    return name.strip("[]"), int(port)


def get(socket_path: str, target: str, seconds: float, longest: int) -> tuple[int, bytes]:
    """Status and body of a GET over a Unix socket, with one deadline for all of it.

    Raises OSError: a TimeoutError when `seconds` have passed, another for a body of more than `longest` bytes.
    """
    connection = Connection(f"unix://{socket_path}", seconds)
    try:
        with gevent.Timeout(seconds, TimeoutError(f"no answer within {seconds:g} s")):
            connection.request("GET", target, headers={"Host": "localhost"})
            response = connection.getresponse()
            body = response.read(longest + 1)
            if len(body) > longest:
                raise OSError(f"the answer has more than {longest} bytes")
            return response.status, body
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
