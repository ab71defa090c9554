"""Keys, discovery, Service Connect proxies and volumes: what the process asks besides containers."""

from __future__ import annotations

import time

import pytest
from gevent import socket as gsocket
from gevent.server import StreamServer

from common.discovery import TCS, Discovery
from common.errors import Temporary
from common.own_keys import OwnCredentials
from common.sigv4 import Keys
from services.telemetry import discovery, publisher
from services.telemetry.core.book import Book, TaskEntry
from services.telemetry.core.requests import Sender
from services.telemetry.core.serviceconnect import Holder
from services.telemetry.mailbox import Mailbox
from tests.process.telemetry.tcs_server import TcsServer


@pytest.fixture
def own_keys(monkeypatch) -> OwnCredentials:
    """Keys from the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    return OwnCredentials(False, "default")


def test_keys_of_the_environment_come_first(own_keys: OwnCredentials):
    """No library is loaded for them."""
    assert own_keys.keys() == Keys("AKID", "secret", "")


def test_the_rotating_file_is_read_again_after_a_minute(monkeypatch, tmp_path):
    """External mode without keys in the environment (spec 01 §5.4)."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "credentials"
    text = "[default]\naws_access_key_id = {0}\naws_secret_access_key = s\naws_session_token = t\n"
    path.write_text(text.format("first"))
    keys = OwnCredentials(True, "default", str(path))
    assert keys.keys() == Keys("first", "s", "t")
    path.write_text(text.format("second"))
    assert keys.keys().access_key == "first"
    later = time.monotonic() + 61
    monkeypatch.setattr("common.own_keys.time.monotonic", lambda: later)
    assert keys.keys().access_key == "second"


def test_the_telemetry_endpoint_comes_from_the_api(tcs: TcsServer, own_keys):
    """One signed call, which the rules of common.discovery remember."""
    caller = discovery.Caller(discovery.Settings("us-west-2", tcs.url), own_keys)
    finder = Discovery(TCS, caller.call, lambda: ("default", "arn:i"))
    assert [finder.endpoint() for _ in range(2)] == [tcs.url + "/tcs/"] * 2
    assert len(tcs.api_calls) == 1


def test_a_failing_api_is_asked_three_times(own_keys, monkeypatch):
    """Server errors and throttling are tried again, another refusal is final."""
    answers = [(503, b""), (400, b'{"__type":"SlowDown"}'), (400, b'{"__type":"ClientException"}'), (200, b"{}")]
    caller = discovery.Caller(discovery.Settings("us-west-2", "http://127.0.0.1:1"), own_keys)
    monkeypatch.setattr(caller, "_post", lambda *_: answers.pop(0))
    monkeypatch.setattr(discovery.gevent, "sleep", lambda _: None)
    with pytest.raises(Temporary, match="ClientException"):
        caller.call("DiscoverPollEndpoint", {})
    assert len(answers) == 1


@pytest.mark.parametrize("status, kept", [("200 OK", 1), ("503 No", 0)])
def test_a_service_connect_proxy_is_scraped_over_its_socket(run_dir, monkeypatch, status, kept):
    """Only a good answer replaces what is known (spec 07 §8.2, §21)."""
    asked = []

    def answer(sock, _address):
        asked.append(sock.recv(4096))
        body = b"# TYPE Requests counter\nRequests 3\n"
        sock.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    path = str(run_dir / "t1.sock")
    listener = gsocket.socket(gsocket.AF_UNIX, gsocket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()
    server = StreamServer(listener, answer)
    server.start()
    monkeypatch.setattr(publisher, "admin_socket", lambda task_id: str(run_dir / f"{task_id}.sock"))
    book = Book()
    book.tasks["a/t1"] = TaskEntry("a/t1", "f", "1", "bridge", 1, service_connect=Holder())
    boxes = Mailbox(), Mailbox()
    publisher.Publisher(book, lambda: Sender("c", "i"), *boxes).publish(True)
    server.stop(timeout=1)
    assert asked[0].startswith(b"GET /stats/prometheus?usedonly&filter=metrics_extension&delta HTTP/1.1")
    assert len(book.tasks["a/t1"].service_connect.wrappers) == kept
    assert (b"serviceConnectMetricsWrapper" in boxes[0].next()) == bool(kept)


def test_a_proxy_that_hangs_is_given_up(run_dir, monkeypatch):
    """Trap 15: it takes the connection and says nothing; the publish goes on without it."""
    listener = gsocket.socket(gsocket.AF_UNIX, gsocket.SOCK_STREAM)
    listener.bind(str(run_dir / "t1.sock"))
    listener.listen()
    monkeypatch.setattr(publisher, "admin_socket", lambda task_id: str(run_dir / f"{task_id}.sock"))
    monkeypatch.setattr(publisher, "ADMIN_SECONDS", 0.2)
    book = Book()
    book.tasks["a/t1"] = TaskEntry("a/t1", "f", "1", "bridge", 1, service_connect=Holder())
    boxes = Mailbox(), Mailbox()
    began = time.monotonic()
    publisher.Publisher(book, lambda: Sender("c", "i"), *boxes).publish(True)
    assert time.monotonic() - began < 10
    listener.close()
    assert b'"taskArn":"a/t1"' in boxes[0].next()
