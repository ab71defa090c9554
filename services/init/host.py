"""Facts about the host that the rules depend on: loopback device, IPv6, Docker's default bridge."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import socket
import struct
import urllib.parse
from pathlib import Path

from common.unixhttp import Connection

_SIOCGIFFLAGS = 0x8913
_IFF_LOOPBACK = 0x8
_DEFAULT_SOCKET = "/var/run/docker.sock"
_ANSWER_LIMIT = 4 << 20  # bytes


def loopback_name() -> str:
    """The first link with the loopback flag, as the rules name it; "lo" when none says so (spec 09 §2 step 7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in sorted(socket.if_nameindex()):
            request = struct.pack("16sH14x", name.encode()[:15], 0)
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFFLAGS, request)
            except OSError:  # the link went away between the two calls
                continue
            if struct.unpack_from("H", answer, 16)[0] & _IFF_LOOPBACK:
                return name
    return "lo"


def has_ipv6(path: Path = Path("/proc/sys/net/ipv6")) -> bool:
    """Whether the kernel has IPv6; an error counts as no (spec 09 §5.2)."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def docker_socket(docker_host: str) -> str:
    """Path of Docker's socket for a value of DOCKER_HOST; all but unix:// means the default (spec 09 §2.1)."""
    return docker_host.removeprefix("unix://") if docker_host.startswith("unix://") else _DEFAULT_SOCKET


def socket_identity(path: str) -> tuple[int, int] | None:
    """Changes when dockerd was restarted and made its socket anew; None when there is no socket."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def docker_bridge(path: str, timeout: float = 1.0) -> str | None:
    """The interface of Docker's default bridge network; None when Docker has none (spec 09 §2 step 5).

    One plain GET: the Docker SDK would cost this small process more memory than all the rest of it.
    Raises OSError when Docker does not answer properly within `timeout` seconds per read.
    """
    query = urllib.parse.quote(json.dumps({"driver": ["bridge"]}))
    status, body = docker_request(path, "GET", f"/networks?filters={query}", timeout)
    if status != 200:
        raise OSError(f"Docker answered {status} to the listing of its networks")
    try:
        return default_bridge(json.loads(body))
    except ValueError as error:
        raise OSError(f"Docker gave no usable listing of its networks: {error}") from error


def docker_request(path: str, method: str, target: str, timeout: float) -> tuple[int, bytes]:
    """One request without a body: status and answer. Raises OSError when Docker does not answer properly."""
    connection = Connection(f"unix://{path}", timeout)
    try:
        connection.request(method, target)
        answer = connection.getresponse()
        return answer.status, answer.read(_ANSWER_LIMIT)
    except http.client.HTTPException as error:
        raise OSError(f"Docker gave no usable answer to {method} {target.partition('?')[0]}: {error}") from error
    finally:
        connection.close()


def default_bridge(networks: object) -> str | None:
    """The first network that calls itself the default bridge and names its interface."""
    for network in networks if isinstance(networks, list) else ():
        options = network.get("Options") if isinstance(network, dict) else None
        if not isinstance(options, dict):
            continue
        name = options.get("com.docker.network.bridge.name")
        if options.get("com.docker.network.bridge.default_bridge") == "true" and isinstance(name, str) and name:
            return name
    return None
