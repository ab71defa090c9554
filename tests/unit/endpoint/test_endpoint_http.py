"""The HTTP layer over real sockets: keep-alive, bodies, limits, time-outs, malformed requests (spec 06 §1)."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.endpoint import service, wire
from services.endpoint.http import Server
from services.endpoint.listeners import holder, listen, listen_until_it_works, problem


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Answers with what arrived; /body reads the body, /slow takes its time."""
    if environ["PATH_INFO"] == "/slow":
        gevent.sleep(0.4)
    body = b""
    if environ["PATH_INFO"] == "/body":
        try:
            body = environ["wsgi.input"].read()
        except wire.BodyError as error:
            body = f"error: {error}".encode()
    text = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {environ['QUERY_STRING']} ".encode("latin-1")
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Peer", environ["REMOTE_ADDR"])])
    return [text + body]


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on a free port of the loopback."""
    server = Server(listen("127.0.0.1", 0), echo)
    server.start()
    yield server
    server.stop(1)


class Client:
    """A raw connection."""

    def __init__(self, server: Server) -> None:
        self.sock = socket.create_connection(server.socket.getsockname())
        self.sock.settimeout(3)
        self.buffer = b""

    def send(self, data: bytes) -> Client:
        self.sock.sendall(data)
        return self

    def answer(self, head_only: bool = False) -> tuple[int, str, bytes]:
        """Status, head and body of the next response."""
        while b"\r\n\r\n" not in self.buffer:
            data = self.sock.recv(65536)
            assert data, f"closed after {self.buffer!r}"
            self.buffer += data
        head, _, rest = self.buffer.partition(b"\r\n\r\n")
        match = re.search(rb"Content-Length: (\d+)", head)
        length = 0 if head_only or match is None else int(match.group(1))
        while len(rest) < length:
            rest += self.sock.recv(65536)
        self.buffer = rest[length:]
        return int(head.split(b" ")[1]), head.decode("latin-1"), rest[:length]

    def closed(self) -> bytes:
        """Everything until the server closes."""
        data = self.buffer
        while chunk := self.sock.recv(65536):
            data += chunk
        return data


@pytest.fixture
def client(server) -> Client:
    """A connection to `server`."""
    return Client(server)


def test_requests_follow_each_other_on_one_connection(client):
    """Keep-alive, also when the next request arrives together with the first."""
    client.send(b"GET /a?x HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n")
    assert client.answer()[2] == b"GET /a x "
    status, head, body = client.answer()
    assert (status, body) == (200, b"GET /b  ")
    assert "Date: " in head and "Server:" not in head and "Connection:" not in head


def test_tcp_nodelay_is_set_on_accepted_connections(server):
    """Without it each keep-alive answer costs 40 ms."""
    assert server.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_head_has_the_length_and_no_body(client):
    """Case 21."""
    client.send(b"HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n")
    assert "Content-Length: 9" in client.answer(head_only=True)[1]
    assert client.send(b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n").answer()[2] == b"GET /b  "


@pytest.mark.parametrize(
    ("request_head", "connection"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "close"),
        (b"GET / HTTP/1.0\r\n\r\n", "close"),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "keep-alive"),
    ],
)
def test_the_client_decides_whether_the_connection_stays(client, request_head, connection):
    """HTTP/1.0 closes unless asked, HTTP/1.1 stays unless asked; the answer has the version of the request."""
    head = client.send(request_head).answer()[1]
    assert f"Connection: {connection}" in head
    assert head.startswith(f"{request_head[6:14].decode()} 200 OK\r\n")
    if connection == "close":
        assert client.closed() == b""


def test_bodies_come_by_length_and_in_chunks(client):
    """Both framings, and the connection goes on after them."""
    client.send(b"PUT /body HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhel").send(b"lo")
    assert client.answer()[2] == b"PUT /body  hello"
    client.send(
        b"PUT /body HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\n"
    )
    assert client.answer()[2] == b"PUT /body  abcde"
    assert client.send(b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n").answer()[2] == b"GET /b  "


def test_a_body_that_nobody_reads_does_not_become_the_next_request(client):
    """It is thrown away, or the connection is closed."""
    client.send(
        b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 18\r\n\r\nGET /evil HTTP/1.1GET /b HTTP/1.1\r\nHost: h\r\n\r\n"
    )
    assert client.answer()[2] == b"POST /a  " and client.answer()[2] == b"GET /b  "
    client.send(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 900000\r\n\r\n")
    assert "Connection: close" in client.answer()[1]


def test_expect_continue_is_answered_when_the_body_is_wanted(client):
    """curl waits for it before larger bodies."""
    client.send(b"PUT /body HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert client.answer()[0] == 100
    assert client.send(b"ok").answer()[2] == b"PUT /body  ok"
    client.send(b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert client.answer()[0] == 200


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 1048577\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n100001\r\n"]
)
def test_a_body_without_measure_is_refused(client, framing):
    """The reference reads everything into memory (W15)."""
    client.send(b"PUT /body HTTP/1.1\r\nHost: h\r\n" + framing)
    assert client.answer()[2] == b"PUT /body  error: http: request body too large"


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"GET\r\n\r\n", b"400 Bad Request"),
        (b"\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400 Bad Request: missing required Host header"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400 Bad Request: too many Host headers"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", b"505 HTTP Version Not Supported: unsupported protocol version"),
        (b"GET / HTTP/9\r\nHost: a\r\n\r\n", b"400 Bad Request"),
        (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", b"400 Bad Request"),
        (b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", b"400 Bad Request"),
        (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", b"400 Bad Request"),
        (b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nnocolon\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nbad name: x\r\n\r\n", b"400 Bad Request: invalid header name"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400 Bad Request"),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"501 Not Implemented: Unsupported transfer encoding",
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 1_100_000, b"431 Request Header Fields Too Large"),
    ],
)
def test_a_malformed_request_is_refused_and_the_connection_closed(client, data, answer):
    """The texts of the reference's library."""
    client.send(data)
    reply = client.closed()
    head, _, body = reply.partition(b"\r\n\r\n")
    assert body == answer and b"Connection: close" in head
    assert b"Content-Type: text/plain; charset=utf-8" in head


@pytest.mark.parametrize(
    ("head", "seen"),
    [
        (b"GET http://x/abs?q HTTP/1.1\r\nHost: h\r\n\r\n", b"GET /abs q "),
        (b"GET HTTPS://x/abs HTTP/1.1\r\nHost: h\r\n\r\n", b"GET /abs  "),
        (b"GET /lf HTTP/1.1\nHost: h\n\n", b"GET /lf  "),
        (b"GET /fold HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", b"GET /fold  "),
        (b"GET /%41%2Fb HTTP/1.1\r\nHost: h\r\n\r\n", b"GET /A/b  "),
        (b"GET * HTTP/1.1\r\nHost: h\r\n\r\n", b"GET *  "),
        (b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", b""),
    ],
)
def test_unusual_but_valid_requests_are_served(client, head, seen):
    """Absolute form, bare line feeds, folded headers, escapes, and the question to the server itself."""
    assert client.send(head).answer()[2] == seen


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=120) | st.text(alphabet="GET /:\r\n HTP1.", max_size=80).map(str.encode))
def test_no_bytes_make_the_server_fail(server, data):
    """After any garbage on one connection the next one is served."""
    broken = Client(server)
    broken.send(data)
    broken.sock.close()
    assert Client(server).send(b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n").answer()[2] == b"GET /b  "


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"PUT /body HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc"])
def test_a_slow_client_is_dropped_and_holds_nobody_up(server, monkeypatch, sent):
    """Read and idle time-outs; meanwhile others are served."""
    monkeypatch.setattr(wire, "READ_SECONDS", 0.3)
    slow = Client(server).send(sent)
    assert Client(server).send(b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n").answer()[2] == b"GET /b  "
    assert slow.closed() == b""


def test_dripping_bytes_does_not_extend_the_deadline(server, monkeypatch):
    """The time-out is for the whole request, not for each byte."""
    monkeypatch.setattr(wire, "READ_SECONDS", 0.3)
    slow = Client(server)
    with pytest.raises(OSError):
        for _ in range(100):
            slow.send(b"G")
            gevent.sleep(0.02)


def test_an_answer_that_takes_too_long_is_not_sent(server):
    """The client sees the connection close without a byte."""
    server.write_seconds = 0.2
    assert Client(server).send(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").closed() == b""


def test_a_server_that_stops_closes_idle_connections_at_once_and_lets_answers_finish(server):
    """A restart must not take as long as the slowest keep-alive client waits."""
    idle = Client(server).send(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
    assert idle.answer()[0] == 200
    busy = Client(server).send(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
    gevent.sleep(0.1)
    started = time.monotonic()
    server.drain(3.0)
    assert 0.2 < time.monotonic() - started < 2.9
    assert idle.closed() == b""
    assert b"Connection: close" in busy.closed()


def test_a_busy_connection_does_not_starve_the_others(server):
    """A client that sends without pause must not keep the others waiting; gevent looks round every 5 ms at least."""
    served: list[str] = []
    busy, other = Client(server), Client(server)

    def note(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if not served:  # the busy one has begun, and all its requests are there
            other.send(b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n")
        served.append(environ["PATH_INFO"])
        return echo(environ, start_response)

    server.application = note
    busy.send(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n" * 2000)
    assert other.answer()[2] == b"GET /b  "
    assert [busy.answer()[0] for _ in range(2000)] == [200] * 2000
    assert served.index("/b") < 1000, served.index("/b")


def test_a_port_in_use_is_told_with_its_holder(server):
    """One sentence that says who has it; the attempt is repeated until it works."""
    port = server.socket.getsockname()[1]
    waits: list[float] = []
    told: list[str] = []

    def sleep(seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 2:
            server.stop()
        return False

    sock = listen_until_it_works("task endpoint server", "127.0.0.1", port, sleep, tell=told.append)
    assert len(told) == 2 and all(t.startswith("the task endpoint server cannot listen on") for t in told), told
    assert sock is not None and sock.getsockname()[1] == port
    sock.close()
    assert 1.0 <= waits[0] <= 1.2 and 2.0 <= waits[1] <= 2.4


def test_the_sentence_about_a_taken_port_names_the_process(server):
    """psutil finds this very process."""
    import os

    port = server.socket.getsockname()[1]
    with pytest.raises(OSError) as caught:
        listen("127.0.0.1", port)
    text = problem("task endpoint server", "127.0.0.1", port, caught.value)
    assert text.startswith(f"the task endpoint server cannot listen on 127.0.0.1:{port}: process {os.getpid()} (")
    assert text.endswith(") has this port; stop it")
    assert holder(1) == "another process has this port; stop it"


def test_an_outgoing_connection_that_was_given_the_port_is_told_as_one(server):
    """Both ports lie in the kernel's range for them; there is nobody to stop, and TIME_WAIT lasts for a minute."""
    address = server.socket.getsockname()
    with socket.create_connection(address) as client:
        port = client.getsockname()[1]
        assert holder(port).startswith(f"an outgoing connection to 127.0.0.1:{address[1]} was given this port")
        assert "(ESTABLISHED)" in holder(port)


def test_every_local_address_of_both_families_is_served():
    """Introspection listens on IPv4 and IPv6 when the machine has both."""
    sock = listen("", 0)
    port = sock.getsockname()[1]
    for host in ("127.0.0.1", *(["::1"] if sock.family == socket.AF_INET6 and _has_ipv6_loopback() else [])):
        with socket.create_connection((host, port), 1) as connection:
            assert connection.getpeername()[1] == port
    sock.close()


def test_the_task_server_is_on_the_ipv4_loopback_address_only():
    """Anything else would show credentials to the network (spec 06 §1.1)."""
    assert (service.TASK_ADDRESS, service.TASK_PORT) == ("127.0.0.1", 51679)
    assert (service.INTROSPECTION_ADDRESS, service.INTROSPECTION_PORT) == ("", 51678)
    sock = listen(service.TASK_ADDRESS, 0)
    assert sock.family == socket.AF_INET and sock.getsockname()[0] == "127.0.0.1"
    sock.close()


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False
