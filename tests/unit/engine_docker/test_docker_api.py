"""The HTTP client of the engine's hands, against a daemon of a few lines that can misbehave."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.engine.docker.api import Api, ApiError, Cancelled, Canceller, TimedOut, Unreachable

Answer = Callable[[socket.socket, str], None]


class Daemon:
    """Answers the requests of each connection with the given functions, one after the other, then closes it."""

    def __init__(self, path: Path, *connections: list[Answer]) -> None:
        self.address = f"unix://{path}"
        self.seen: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(8)
        threading.Thread(target=self._run, args=(connections,), daemon=True).start()

    def _run(self, connections: tuple[list[Answer], ...]) -> None:
        for answers in connections:
            client, _ = self._listener.accept()
            with client:
                for answer in answers:
                    head = client.recv(65536).decode()
                    self.seen.append(head.split("\r\n")[0])
                    answer(client, head)
        self._listener.close()


def says(body: bytes, status: str = "200 OK", kind: str = "application/json") -> Answer:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return lambda client, _: client.sendall(head + body)


def trickles(client: socket.socket, _: str) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(100):
        try:
            client.sendall(b"x")
        except OSError:
            return
        time.sleep(0.05)


def hangs_up(client: socket.socket, _: str) -> None:
    client.close()


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "d.sock"


def test_connections_are_kept_and_versions_are_part_of_the_path(path: Path) -> None:
    """One connection serves every version."""
    daemon = Daemon(path, [says(b'{"a":1}'), says(b"{}"), says(b"{}")])
    api = Api(address=daemon.address)
    assert api.call("GET", "/info", 5).json() == {"a": 1}
    api.call("GET", "/info", 5, version="1.35", query={"x": "a b"})
    api.call("GET", "/version", 5, version="none")
    assert daemon.seen == ["GET /v1.21/info HTTP/1.1", "GET /v1.35/info?x=a+b HTTP/1.1", "GET /version HTTP/1.1"]


def test_a_kept_connection_that_the_daemon_closed_is_replaced(path: Path) -> None:
    """A daemon that restarted must not look like a failed call."""
    daemon = Daemon(path, [says(b"{}")], [says(b'{"new":1}')])
    api = Api(address=daemon.address)
    api.call("GET", "/info", 5)
    time.sleep(0.05)
    assert api.call("GET", "/info", 5).json() == {"new": 1}


def test_a_fresh_connection_that_is_closed_is_an_eof(path: Path) -> None:
    """The text ends in EOF, by which the engine knows that the container may have started (spec 03 §2.6)."""
    api = Api(address=Daemon(path, [hangs_up]).address)
    with pytest.raises(Unreachable) as caught:
        api.call("POST", "/containers/x/start", 5)
    name = str(path).replace("/", "%2F")
    assert str(caught.value) == f'error during connect: Post "http://{name}/v1.21/containers/x/start": EOF'


def test_the_deadline_covers_an_answer_that_trickles(path: Path) -> None:
    """Each byte in time is not an answer in time."""
    api = Api(address=Daemon(path, [trickles]).address)
    began = time.monotonic()
    with pytest.raises(TimedOut):
        api.call("GET", "/info", 0.4)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [(b"no such thing\n", "text/plain", "no such thing"), (b'{"message":"no such thing"}', "application/json",
     "no such thing"), (b"", "text/plain", "")],
)  # fmt: skip
def test_errors_are_plain_text_or_json(path: Path, body: bytes, kind: str, message: str) -> None:
    """Below API 1.24 the daemon answers plain text (spec 03 §6.4)."""
    api = Api(address=Daemon(path, [says(body, "404 Not Found", kind)]).address)
    with pytest.raises(ApiError) as caught:
        api.call("GET", "/containers/x/json", 5)
    assert (caught.value.status, caught.value.message) == (404, message)


def test_no_daemon_is_named_with_its_address(path: Path) -> None:
    """The sentence of the reference's client."""
    with pytest.raises(Unreachable) as caught:
        Api(address=f"unix://{path}").call("GET", "/info", 5)
    assert str(caught.value) == f"Cannot connect to the Docker daemon at unix://{path}. Is the docker daemon running?"


def test_a_stream_gives_documents_as_lines_come(path: Path) -> None:
    """Cut anywhere: documents are separated by line ends, the last one needs none."""

    def streams(client: socket.socket, _: str) -> None:
        client.sendall(b'HTTP/1.1 200 OK\r\n\r\n{"a":')
        time.sleep(0.05)
        client.sendall(b'1}\r\n\r\n{"b":2}\n{"c":3}')

    stream = Api(address=Daemon(path, [streams]).address).stream("POST", "/images/create", 5)
    assert list(stream.lines(5, 5)) == [{"a": 1}, {"b": 2}, {"c": 3}]
    stream.close()


def test_a_progress_that_is_no_json_is_an_error(path: Path) -> None:
    """An undecodable message fails the attempt (spec 03 §6.4)."""
    body = says(b'{"a":1}\nnot json\n')
    stream = Api(address=Daemon(path, [body]).address).stream("POST", "/images/create", 5)
    with pytest.raises(ValueError):
        list(stream.lines(5, 5))
    stream.close()


def test_a_silent_stream_ends_when_it_is_cancelled(path: Path) -> None:
    """From another greenlet, while the reader waits without a limit."""

    def silent(client: socket.socket, _: str) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        client.recv(1)

    canceller = Canceller()
    stream = Api(address=Daemon(path, [silent]).address).stream("GET", "/events", 5, canceller=canceller)
    threading.Timer(0.1, canceller.cancel).start()
    with pytest.raises(Cancelled):
        list(stream.lines(None, None))
    stream.close()
    with pytest.raises(Cancelled):
        Api(address=f"unix://{path}").call("GET", "/info", 5, canceller=canceller)


def test_a_daemon_that_hung_up_and_stays_away_may_have_done_what_was_asked(path: Path) -> None:
    """The hang-up is what is told: a start whose process may run must be followed by a stop (spec 03 §2.6)."""
    daemon = Daemon(path, [hangs_up])
    api = Api(address=daemon.address, away_seconds=0.5)
    with pytest.raises(Unreachable) as caught:
        api.patient_call("POST", "/containers/x/start", 5)
    assert str(caught.value).endswith("EOF") and not caught.value.refused


def test_a_cancel_ends_no_call_of_somebody_else(path: Path) -> None:
    """The connection of a call that has ended is the next caller's."""
    begun, go_on = threading.Event(), threading.Event()

    def answers_late(client: socket.socket, head: str) -> None:
        begun.set()
        go_on.wait(5)
        says(b'{"theirs":1}')(client, head)

    daemon = Daemon(path, [says(b"{}", "500 no"), answers_late])
    api, canceller = Api(address=daemon.address), Canceller()
    with pytest.raises(ApiError):
        api.call("GET", "/distribution/x/json", 5, canceller=canceller)
    found: list[object] = []
    theirs = threading.Thread(target=lambda: found.append(api.call("GET", "/info", 5).json()))
    theirs.start()
    assert begun.wait(5)
    canceller.cancel()
    go_on.set()
    theirs.join(5)
    assert found == [{"theirs": 1}]
    assert daemon.seen == ["GET /v1.21/distribution/x/json HTTP/1.1", "GET /v1.21/info HTTP/1.1"]
