"""The WebSocket to ACS against real sockets: messages, endings, refusals, TLS, proxies."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest
from gevent.server import StreamServer

from common import channel as channel_module
from common import proxy as proxy_module
from common.channel import Channel, DialFailed, Ended, Refused, dial
from common.errors import Temporary
from services.acs.session import explain
from tests.fakes.control_plane import Connection, ControlPlane

PROXY_RULE = proxy_module.proxy_for


@pytest.fixture
def connected(control_plane: ControlPlane) -> Iterator[tuple[Channel, Connection]]:
    """Both ends of an open connection."""
    channel = dial(control_plane.url + "/acs/ws?x=1", {})
    while control_plane.live is None:
        gevent.sleep(0.001)
    gevent.sleep(0.01)
    yield channel, control_plane.live
    channel.cut("the test is over")


def test_messages_of_any_size_and_in_fragments_arrive_whole(connected):
    """A payload may be megabytes; pings in between are answered and are no messages."""
    channel, peer = connected
    big = "x" * 3_000_000
    writer = gevent.spawn(peer.text, big)
    assert channel.receive().decode() == big
    writer.join()
    peer.frame(1, b"one ", fin=False)
    peer.frame(9, b"p")
    peer.frame(0, b"two", fin=True)
    assert channel.receive() == b"one two"
    while not peer.received:
        gevent.sleep(0.001)
    assert peer.received == [("pong", b"p")]


def test_many_greenlets_may_send_at_once(connected, eventually):
    """Frames never mix on the wire."""
    channel, peer = connected
    text = '{"type":"AckRequest","message":{"messageId":"%d-' + "y" * 70_000 + '"}}'
    gevent.joinall([gevent.spawn(channel.send, text.replace("%d", str(n))) for n in range(20)])
    eventually(lambda: len(peer.received) == 20)
    assert len({m["messageId"] for _, m in peer.received}) == 20


@pytest.mark.parametrize(
    ("code", "text", "expected"), [(1000, "bye", 1000), (1013, "later", 1013), (None, "", 1005), (4000, "own", 4000)]
)
def test_a_close_frame_is_answered_and_told(connected, eventually, code, text, expected):
    """With the same code and without a text; an empty frame with an empty one."""
    channel, peer = connected
    peer.close(code, text)
    with pytest.raises(Ended) as caught:
        channel.receive()
    assert (caught.value.code, caught.value.text) == (expected, text)
    eventually(lambda: peer.close_frame is not None)
    assert peer.close_frame == (b"" if code is None else code.to_bytes(2, "big"))
    with pytest.raises(Temporary, match="being closed"):
        channel.send("x")
    channel.reply("x")  # the peer will ask again


def test_the_answer_to_a_close_frame_is_not_answered():
    """One close frame from each side ends a connection (RFC 6455 §5.5.1)."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    channel.close(1000, "")
    theirs.sendall(b"\x88\x02\x03\xe8")
    with pytest.raises(Ended, match="1000"):
        channel.receive()
    channel.cut("over")
    with theirs:
        sent = b"".join(iter(lambda: theirs.recv(100), b""))
    assert len(sent) == 2 + 4 + 2  # head, mask and code of one frame


@pytest.mark.parametrize(("end", "code"), [("fin", 1006), ("reset", 0)])
def test_a_silent_end_differs_from_a_broken_connection(connected, end, code):
    """The first is followed by an immediate reconnect, the second by a pause."""
    channel, peer = connected
    getattr(peer, end)()
    with pytest.raises(Ended) as caught:
        channel.receive()
    assert caught.value.code == code


def test_a_broken_protocol_ends_the_connection_as_an_error(connected, eventually):
    """An invalid close code is answered with 1002."""
    channel, peer = connected
    peer.close(1006)
    with pytest.raises(Ended) as caught:
        channel.receive()
    assert caught.value.code == 0
    eventually(lambda: peer.close_frame == (1002).to_bytes(2, "big"))


def test_a_close_reason_that_is_no_text_is_a_broken_protocol(connected, eventually):
    """Also with a code that would mean an orderly end (spec 02 §1.6)."""
    channel, peer = connected
    peer.frame(8, (1000).to_bytes(2, "big") + b"\xff\xfe")
    with pytest.raises(Ended) as caught:
        channel.receive()
    assert caught.value.code == 0
    eventually(lambda: peer.close_frame == (1002).to_bytes(2, "big"))


def test_cutting_wakes_the_reader_with_the_reason(connected):
    """The heartbeat timer runs in another greenlet."""
    channel, _ = connected
    gevent.spawn_later(0.05, channel.cut, "no message came")
    with pytest.raises(Ended, match="no message came") as caught:
        channel.receive()
    assert caught.value.code == 0


def test_silence_has_a_limit(control_plane, monkeypatch):
    """The read deadline, when not even a ping comes."""
    monkeypatch.setattr(channel_module, "READ_SECONDS", 0.1)
    channel = dial(control_plane.url + "/acs/ws", {})
    with pytest.raises(Ended, match="nothing was received"):
        channel.receive()


def test_a_refusal_is_read_from_the_body(control_plane):
    """As an ACS exception, or quoted."""
    control_plane.refusals.append((400, '{"InvalidInstanceException":"who are you"}'))
    with pytest.raises(Refused) as caught:
        dial(control_plane.url + "/acs/ws", {})
    assert caught.value.status == 400 and explain(caught.value) == "InvalidInstanceException: who are you"
    control_plane.refusals.append((503, "<html>busy</html>"))
    with pytest.raises(Refused, match=r"response: <html>busy</html>: websocket: bad handshake \(503 .+\)$") as caught:
        dial(control_plane.url + "/acs/ws", {})
    assert explain(caught.value) == str(caught.value)
    with pytest.raises(Refused, match=r"404|400|200"):
        dial(control_plane.url + "/nothing", {})


def serve(handler: Any, **options: Any) -> StreamServer:
    """A raw server."""
    server = StreamServer(("127.0.0.1", 0), handler, **options)
    server.start()
    return server


def test_a_chunked_refusal_is_understood():
    """A load balancer may answer that way."""

    def answer(sock: socket.socket, _: Any) -> None:
        sock.recv(4096)
        body = b'{"InactiveInstanceException":"gone"}'
        sock.sendall(b"HTTP/1.1 400 X\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))

    server = serve(answer)
    with pytest.raises(Refused) as caught:
        dial(f"http://127.0.0.1:{server.server_port}/ws", {})
    assert explain(caught.value) == "InactiveInstanceException: gone"
    server.stop()


def test_the_whole_handshake_has_one_deadline(monkeypatch):
    """A server that sends a byte now and then must not hold the session up."""
    monkeypatch.setattr(channel_module, "DIAL_SECONDS", 0.3)

    def drip(sock: socket.socket, _: Any) -> None:
        for _ in range(100):
            sock.sendall(b"H")
            gevent.sleep(0.05)

    server = serve(drip)
    begin = time.monotonic()
    with pytest.raises(DialFailed):
        dial(f"http://127.0.0.1:{server.server_port}/ws", {})
    assert time.monotonic() - begin < 4.0
    server.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost that nobody signed, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return cert, key


def tunnel(seen: list[bytes]) -> Any:
    """A proxy that knows CONNECT."""

    def handle(sock: socket.socket, _: Any) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(4096)
        seen.append(head)
        port = int(head.split(b" ")[1].rpartition(b":")[2])
        other = socket.create_connection(("127.0.0.1", port))
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        def copy(source: socket.socket, sink: socket.socket) -> None:
            while data := source.recv(65536):
                sink.sendall(data)

        gevent.joinall([gevent.spawn(copy, sock, other), gevent.spawn(copy, other, sock)], count=1)

    return handle


def test_tls_is_verified_unless_switched_off_and_a_proxy_is_tunnelled_through(control_plane, certificate, monkeypatch):
    """The name is checked without the port; HTTPS falls back to HTTP_PROXY, with Basic authentication."""
    cert, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    plane_port = int(control_plane.url.rpartition(":")[2])

    def forward(sock: Any, _: Any) -> None:
        other = socket.create_connection(("127.0.0.1", plane_port))
        jobs = [(sock, other), (other, sock)]
        gevent.joinall(
            [gevent.spawn(lambda a, b: [b.sendall(d) for d in iter(lambda: a.recv(65536), b"")], *j) for j in jobs],
            count=1,
        )

    server = serve(forward, ssl_context=context)
    url = f"https://localhost:{server.server_port}/acs/ws"
    with pytest.raises(
        DialFailed, match=r"the certificate of localhost is not trusted: self-signed certificate\. .*AWS_CA_BUNDLE"
    ):
        dial(url, {})
    dial(url, {}, False).cut("")
    dial(url, {}, str(cert)).cut("")
    seen: list[bytes] = []
    proxy = serve(tunnel(seen))
    monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{proxy.server_port}")
    # The rule never proxies loopback; it is asked about another host.
    monkeypatch.setattr(proxy_module, "proxy_for", lambda scheme, _, port: PROXY_RULE(scheme, "elsewhere.test", port))
    dial(url, {}, str(cert)).cut("")
    assert seen[0].startswith(b"CONNECT localhost:%d HTTP/1.1\r\n" % server.server_port)
    assert b"Proxy-Authorization: Basic bWU6c2VjcmV0" in seen[0]
    server.stop()
    proxy.stop()
