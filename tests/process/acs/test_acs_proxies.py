"""ECS API calls through the proxies that the environment may name (spec 01 §8.4)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.server import StreamServer

from common.sigv4 import Keys
from services.acs.ecs import ApiError, EcsClient
from services.acs.settings import Settings
from tests.fakes.control_plane import ControlPlane


class Own:
    """Credentials that never change."""

    def keys(self) -> Keys:
        return Keys("AKIDEXAMPLE", "EXAMPLEKEY")


@pytest.fixture
def elsewhere(control_plane: ControlPlane) -> EcsClient:
    """A client of a host that no name server knows: only a proxy gets there."""
    url = f"http://elsewhere.test:{control_plane.url.rpartition(':')[2]}"
    return EcsClient(Settings(region="us-west-2", backend_host=url), Own())  # type: ignore[arg-type]


@pytest.fixture
def proxy() -> Iterator[Callable[[Any], int]]:
    """Starts a proxy with this handler of (socket, seen); answers its port."""
    servers = []

    def start(handler: Any) -> int:
        server = StreamServer(("127.0.0.1", 0), lambda sock, _: handler(sock))
        server.start()
        servers.append(server)
        return int(server.server_port)

    yield start
    for server in servers:
        server.stop(timeout=0.2)


def join(one: socket.socket, other: socket.socket) -> None:
    """Copy in both directions until one side ends."""

    def copy(source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(65536):
            sink.sendall(data)

    gevent.joinall([gevent.spawn(copy, one, other), gevent.spawn(copy, other, one)], count=1)


def test_a_socks_proxy_resolves_the_name_and_carries_the_call(elsewhere, control_plane, proxy, monkeypatch):
    """RFC 1928 without authentication; the name goes to the proxy, not to the resolver of this machine."""
    asked: list[bytes] = []

    def socks(sock: socket.socket) -> None:
        sock.recv(3)
        sock.sendall(b"\x05\x00")
        head = sock.recv(5)
        name, port = sock.recv(head[4]), int.from_bytes(sock.recv(2), "big")
        asked.append(name)
        other = socket.create_connection(("127.0.0.1", port))
        sock.sendall(b"\x05\x00\x00\x01" + bytes(6))
        join(sock, other)

    monkeypatch.setenv("HTTP_PROXY", f"socks5://127.0.0.1:{proxy(socks)}")
    for _ in range(2):
        assert elsewhere.attempt("DiscoverPollEndpoint", {})["endpoint"]
    assert asked == [b"elsewhere.test"]  # one connection, used twice
    assert control_plane.calls[0].headers["host"].startswith("elsewhere.test:")


def test_an_http_proxy_gets_the_absolute_url_and_the_login(elsewhere, control_plane, proxy, monkeypatch):
    """RFC 9112 §3.2.2; the log never sees the password."""
    seen: list[bytes] = []
    port = int(control_plane.url.rpartition(":")[2])

    def forward(sock: socket.socket) -> None:
        data = sock.recv(65536)
        seen.append(data)
        other = socket.create_connection(("127.0.0.1", port))
        other.sendall(data)
        join(sock, other)

    monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{proxy(forward)}")
    assert elsewhere.attempt("DiscoverPollEndpoint", {})["endpoint"]
    assert seen[0].startswith(b"POST http://elsewhere.test:%d/ HTTP/1.1\r\n" % port)
    assert b"\r\nproxy-authorization: Basic bWU6c2VjcmV0\r\n".lower() in seen[0].lower()


def test_a_proxy_that_is_not_there_is_named_as_the_cause(elsewhere, monkeypatch):
    """Not the endpoint is down, the way to it is."""
    for url in ("http://127.0.0.1:9", "socks5://127.0.0.1:9"):
        monkeypatch.setenv("HTTP_PROXY", url)
        with pytest.raises(ApiError, match=r"cannot be reached: .*([Cc]onnection refused|proxy)") as caught:
            elsewhere.attempt("DiscoverPollEndpoint", {})
        assert caught.value.retried
