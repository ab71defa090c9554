"""HTTP to programs of this machine, over real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import pytest

from common import unixhttp
from common.unixhttp import Connection, host_and_port


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("127.0.0.1:2376", ("127.0.0.1", 2376)),
        ("docker.test:1/", ("docker.test", 1)),
        ("docker.test", ("docker.test", 2375)),
        ("[::1]:2376", ("::1", 2376)),
        ("[::1]", ("::1", 2375)),
    ],
)
def test_a_network_address_may_lack_its_port(address, found):
    """Docker's own clients take 2375 then."""
    assert host_and_port(address) == found


def test_a_port_that_is_none_is_an_error_that_shows_the_address():
    """An OSError, as any daemon that cannot be reached."""
    with pytest.raises(OSError, match=r"docker\.test:http has no port that is a number"):
        Connection("tcp://docker.test:http", 1.0).connect()


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_both_sorts_of_addresses_are_talked_to(tmp_path: Path, kind: str):
    """One request, one answer."""
    if kind == "unix":
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        address = f"unix://{tmp_path}/s"
    else:
        listener = socket.create_server(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    heads: list[bytes] = []

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            heads.append(peer.recv(65536))
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    connection = Connection(address, 5.0)
    connection.request("GET", "/_ping")
    assert connection.getresponse().read() == b"OK"
    connection.close()
    server.join(5)
    listener.close()
    assert heads[0].startswith(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n")


def test_an_endless_answer_is_no_answer(tmp_path: Path):
    """It would take all the memory there is; the proxy may be anything that the task runs."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "s"))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                connection.sendall(bytes(65536))

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    with pytest.raises(OSError, match="more than 100000 bytes"):
        unixhttp.get(str(tmp_path / "s"), "/", 5.0, 100_000)
    server.join(5)
    listener.close()
    assert not server.is_alive()
