"""The TCS session against a server that behaves in every way a server can (spec 07 §12.4 to §12.6, §19)."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator

import gevent
import gevent.event
import pytest

from common.sigv4 import Keys
from services.telemetry.core.doctor import RuntimeCheck
from services.telemetry.core.requests import METRICS, Sender, envelope, metrics_requests
from services.telemetry.mailbox import Mailbox
from services.telemetry.session import Outlet, Session, Timers
from tests.process.telemetry.tcs_server import TcsServer

SENDER = Sender("default", "arn:i")
KEYS = Keys("AKID", "secret", "token")
Eventually = Callable[..., object]


class Client:
    """A session under test with its mailboxes."""

    def __init__(self, server: TcsServer, timers: Timers, keys: Callable[[], Keys] = lambda: KEYS) -> None:
        self.boxes = (Mailbox(), Mailbox())
        self.check = RuntimeCheck(time.time())
        self.changes: list[tuple[bool, str]] = []
        self.stopping = gevent.event.Event()
        outlet = Outlet(
            sender=lambda: SENDER,
            endpoint=lambda: server.url + "/tcs/",
            keys=keys,
            region="us-west-2",
            docker_version=lambda: "25.0.6",
        )
        self.session = Session(outlet, self.boxes, self.check, lambda *c: self.changes.append(c), timers)
        self.greenlet = gevent.spawn(self.session.run, self.stopping)

    def put(self, *names: str) -> None:
        """A message with one idle request per name."""
        requests = [next(metrics_requests(SENDER, name, [], 1.0, idle=True)) for name in names]
        assert self.boxes[0].put(envelope(METRICS, r) for r in requests)


@pytest.fixture
def client(tcs: TcsServer) -> Iterator[Callable[..., Client]]:
    """Start sessions with shortened timers."""
    made: list[Client] = []

    def start(keys: Callable[[], Keys] = lambda: KEYS, **timers: float) -> Client:
        made.append(Client(tcs, Timers(**timers), keys))
        return made[-1]

    yield start
    for one in made:
        one.stopping.set()
        one.greenlet.join(5)
        assert one.greenlet.ready(), "the session did not end when it was told to"


def test_the_upgrade_request_and_a_frame_look_like_the_references(tcs, client, eventually: Eventually):
    """Header names and values of the upgrade; the header block, the blank line and the JSON of a frame."""
    client().put("one")
    eventually(lambda: tcs.messages(METRICS))
    (connection,) = tcs.connections
    assert connection.target.startswith("/tcs/ws?agentHash=")
    assert "&cluster=default&containerInstance=arn%3Ai&dockerVersion=25.0.6" in connection.target
    assert set(connection.headers) == {
        "Host", "User-Agent", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Authorization",
        "X-Amz-Date", "X-Amz-Security-Token",
    }  # fmt: skip
    assert connection.headers["User-Agent"] == "Go-http-client/1.1"
    assert connection.headers["Host"] == tcs.url.removeprefix("http://")
    head, _, _ = connection.frames[0][2].partition(b"\r\n\r\n")
    assert [line.split(b":")[0] for line in head.split(b"\r\n")] == [
        b"Authorization", b"Host", b"X-Amz-Date", b"X-Amz-Security-Token",
    ]  # fmt: skip


def test_a_deregistered_instance_drops_its_connection_and_comes_back_with_back_off(tcs, client, eventually: Eventually):
    """The socket ends without a close frame, and the next one follows after a second (spec 07 §12.5, §12.6)."""
    one = client()
    one.session.drop("no connection, nothing to drop")
    eventually(lambda: one.changes == [(True, "")])
    one.session.drop("deregistered")
    eventually(lambda: (False, "deregistered") in one.changes)
    dropped = time.monotonic()
    assert len(tcs.connections) == 1
    eventually(lambda: len(tcs.connections) == 2)
    assert 0.9 < time.monotonic() - dropped < 2.0
    eventually(lambda: one.changes[-1] == (True, ""))


def test_a_heartbeat_is_not_answered_and_a_ping_is(tcs, client, eventually: Eventually):
    """Case 43; pings get a pong with the same payload."""
    client()
    eventually(lambda: tcs.connections)
    (connection,) = tcs.connections
    connection.send('{"type":"HeartbeatMessage","message":{"healthy":true}}')
    connection.send('{"type":"StopTelemetrySessionMessage","message":{"message":"x"}}')
    connection.send("no json")
    connection.send('{"type":"Heart', fin=False)
    connection.send('beatMessage","message":null}', opcode=0)
    connection.send("payload", opcode=9)
    eventually(lambda: connection.frames)
    assert [(opcode, data) for _, opcode, data in connection.frames] == [(10, b"payload")]


def test_what_cannot_be_understood_ends_nothing(tcs, client, eventually: Eventually, caplog):
    """An acknowledgement with bytes that are no text counts; a message that is nested too deeply is ignored."""
    one = client()
    eventually(lambda: tcs.connections)
    (connection,) = tcs.connections
    connection.send(b'{"type":"AckPublishMetric","message":{"message":"\xff"}}')
    connection.send("[" * 60_000)
    connection.send("payload", opcode=9)
    eventually(lambda: connection.frames)
    assert one.changes == [(True, "")] and not one.greenlet.ready()
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        "a message of the telemetry backend cannot be understood (nested too deeply); it is ignored"
    ]


def test_a_mailbox_is_emptied_again_after_an_error_that_nobody_foresaw(tcs, client, eventually: Eventually):
    """The reader goes on meanwhile; without it the session would stay open and say nothing."""
    asked = []

    def keys() -> Keys:
        asked.append(1)
        if len(asked) == 2:  # the first frame after the upgrade
            raise KeyError("nobody foresaw this")
        return KEYS

    client(keys).put("one")
    eventually(lambda: tcs.messages(METRICS))
    assert len(tcs.connections) == 1


def test_silence_ends_the_session_with_a_close_frame_and_the_next_one_follows(tcs, client, eventually: Eventually):
    """Case 41: no acknowledgement and no heartbeat."""
    one = client(heartbeat=0.2, heartbeat_jitter=0.05)
    eventually(lambda: len(tcs.connections) >= 2)
    assert tcs.connections[0].closes == [struct.pack("!H", 1000) + b"ConnectionExpired: Reconnect to continue"]
    assert (True, "") in one.changes and one.changes[1][0] is False


def test_acknowledgements_keep_a_session_until_its_planned_end(tcs, client, eventually: Eventually):
    """Case 42: the heartbeat timer is re-armed again and again, the other one is not."""
    one = client(heartbeat=0.6, heartbeat_jitter=0.0, disconnect=1.5, disconnect_jitter=0.0)
    began = time.monotonic()
    while time.monotonic() < began + 2.5 and len(tcs.connections) < 2:
        one.put("m")
        gevent.sleep(0.1)
    eventually(lambda: tcs.connections and tcs.connections[0].closes)
    closed_at = next(at for at, opcode, _ in tcs.connections[0].frames if opcode == 8)
    assert 1.3 < closed_at - tcs.connections[0].opened < 2.4


@pytest.mark.parametrize("ending", [1000, 1001, 1011, "drop"])
def test_an_ordinary_end_is_followed_by_the_next_session_at_once(tcs, client, eventually: Eventually, ending):
    """Case 39: also when the server just hangs up."""
    client()
    eventually(lambda: tcs.connections)
    ended = time.monotonic()
    tcs.connections[0].drop() if ending == "drop" else tcs.connections[0].close(ending)
    eventually(lambda: len(tcs.connections) == 2)
    assert tcs.connections[1].opened - ended < 0.8


def test_a_server_that_hangs_up_again_and_again_is_given_a_second(tcs, client, eventually: Eventually):
    """A floor that the reference does not have (spec 07 §21)."""
    client()
    for number in (1, 2):
        eventually(lambda n=number: len(tcs.connections) == n)
        tcs.connections[-1].drop()
    ended = time.monotonic()
    eventually(lambda: len(tcs.connections) == 3)
    assert tcs.connections[2].opened - ended > 0.8


@pytest.mark.parametrize(("code", "times"), [(1008, 2), (None, 1)])
def test_other_ends_are_followed_by_a_growing_delay(tcs, client, eventually: Eventually, code, times):
    """Case 40: the first delay is 1 s to 1.2 s, the second 2 s to 2.4 s; a successful connect does not reset it."""
    client()
    delays = []
    for number in range(1, times + 1):
        eventually(lambda n=number: len(tcs.connections) == n)
        ended = time.monotonic()
        tcs.connections[-1].close(code)
        eventually(lambda n=number: len(tcs.connections) == n + 1)
        delays.append(tcs.connections[-1].opened - ended)
    assert all(low <= delay < high for delay, (low, high) in zip(delays, ((0.95, 1.7), (1.95, 3.0)), strict=False))


def test_a_refused_upgrade_is_explained_and_tried_again_later(tcs, client, eventually: Eventually):
    """The exception in the body is what the log and the session document say."""
    tcs.refuse = (400, '{"type":"InvalidParameterException","message":{"message":"no such cluster"}}')
    one = client()
    eventually(lambda: one.changes)
    assert one.changes[0] == (False, "InvalidParameterException: no such cluster")
    tcs.refuse = None
    eventually(lambda: (True, "") in one.changes)


def test_messages_wait_for_the_next_session_and_none_is_lost(tcs, client, eventually: Eventually):
    """The connection breaks between the requests of one message: the rest goes out on the next one."""
    tcs.refuse = (503, "")
    one = client()
    one.put("a1", "a2")
    one.put("b1")
    eventually(lambda: tcs.attempts)
    assert len(one.boxes[0]) == 2
    tcs.refuse = None
    eventually(lambda: len(tcs.messages(METRICS)) == 3)
    assert [m["metadata"]["messageId"] for m in tcs.messages(METRICS)] == ["a1", "a2", "b1"]
    assert len(one.boxes[0]) == 0


def test_nothing_is_taken_from_the_mailbox_after_a_close_frame(tcs, client, eventually: Eventually):
    """What falls into the gap is lost in the reference; here it waits (spec 07 §21)."""
    tcs.answer_close = False
    one = client(heartbeat=0.2, heartbeat_jitter=0.0)
    eventually(lambda: tcs.connections and tcs.connections[0].closes)
    one.put("late")
    gevent.sleep(0.1)
    assert tcs.messages(METRICS) == []
    tcs.answer_close = True
    tcs.connections[0].drop()
    eventually(lambda: len(tcs.messages(METRICS)) == 1)


def test_the_status_of_the_instance_is_told_once_per_check(tcs, client, eventually: Eventually):
    """Cases 44 and 45: INITIALIZING first, then nothing until a check ran."""
    kind = "PublishInstanceStatusRequest"
    one = client(status=0.2)
    eventually(lambda: tcs.messages(kind))
    gevent.sleep(0.6)
    assert [m["statuses"][0]["status"] for m in tcs.messages(kind)] == ["INITIALIZING"]
    one.check.record(True, time.time())
    eventually(lambda: len(tcs.messages(kind)) == 2)
    assert tcs.messages(kind)[1]["statuses"][0]["status"] == "OK"
    assert tcs.connections[0].opened + 0.15 < tcs.connections[0].frames[0][0]
