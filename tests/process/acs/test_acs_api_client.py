"""The ECS client, the agent's own credentials and instance metadata, against real sockets."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest
from gevent.server import StreamServer

from common import own_keys as credentials_module
from common.errors import Temporary
from common.metadata import Metadata, MetadataError
from common.own_keys import OwnCredentials
from common.sigv4 import Keys as SigningKeys
from services.acs import ecs as ecs_module
from services.acs.ecs import ApiError, EcsClient
from services.acs.identity import find_place, identity_document
from services.acs.settings import Settings
from tests.fakes.control_plane import error


class Keys:
    """Credentials that never change."""

    def __init__(self) -> None:
        self.forgotten = 0

    def keys(self) -> SigningKeys:
        return SigningKeys("AKIDEXAMPLE", "EXAMPLEKEY")

    def forget(self) -> None:
        self.forgotten += 1


def client(url: str, **changes: Any) -> EcsClient:
    """A client of the server at `url`."""
    return EcsClient(Settings(region="us-west-2", backend_host=url, **changes), Keys())  # type: ignore[arg-type]


def serve(handler: Any, **options: Any) -> StreamServer:
    """A raw server."""
    server = StreamServer(("127.0.0.1", 0), handler, **options)
    server.start()
    return server


def test_a_call_is_signed_and_its_answer_read(control_plane):
    """The body arrives as it was built, with the agent's own name."""
    answer = client(control_plane.url).call("DiscoverPollEndpoint", {"cluster": "c", "zoneId": ""})
    assert answer["endpoint"].endswith("/acs/")
    (call,) = control_plane.calls
    assert call.raw == '{"cluster":"c","zoneId":""}'
    assert call.headers["content-type"] == "application/x-amz-json-1.1"
    assert call.headers["x-amz-target"] == "AmazonEC2ContainerServiceV20141113.DiscoverPollEndpoint"


@pytest.mark.parametrize(
    ("answer", "calls", "code"),
    [
        (error("ThrottlingException"), 3, "ThrottlingException"),
        (error("ServerException", "", 500), 3, "ServerException"),
        (error("com.amazonaws.ecs#ServerException", "", 400), 1, "ServerException"),
        (error("ClientException", "no"), 1, "ClientException"),
        (error("ClientException:http://internal.amazon.com/coral/com.amazon.coral/", "no"), 1, "ClientException"),
        ((503, {}), 3, ""),
        ((429, {}), 1, ""),
    ],
)
def test_which_errors_are_tried_again(control_plane, monkeypatch, answer, calls, code):
    """By the rules of the reference's SDK, three attempts in all."""
    monkeypatch.setattr(ecs_module.random, "random", lambda: 0.0)
    control_plane.faults["X"] = lambda body: answer
    with pytest.raises(ApiError) as caught:
        client(control_plane.url).call("X", {})
    assert (len(control_plane.calls), caught.value.code) == (calls, code)


def test_a_refused_connection_is_tried_again(monkeypatch):
    """Twice, after pauses."""
    pauses: list[float] = []
    monkeypatch.setattr(ecs_module.time, "sleep", pauses.append)
    with pytest.raises(ApiError, match="cannot be reached") as caught:
        client("http://127.0.0.1:9").call("X", {})
    assert (len(pauses), caught.value.retried) == (2, True)


@pytest.mark.parametrize(("answer", "retried"), [(socket.EAI_NONAME, False), (socket.EAI_AGAIN, True)])
def test_a_name_that_does_not_exist_is_not_tried_again(monkeypatch, answer, retried):
    """It will not exist in a second; a resolver that has no answer now may have one then."""

    def resolve(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(answer, "as the resolver says")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(ApiError, match="cannot be reached") as caught:
        client("http://no-such-host.invalid").attempt("X", {})
    assert caught.value.retried is retried


def test_an_attempt_has_one_deadline_whatever_stalls(control_plane, monkeypatch):
    """A read time-out alone would not bound it; the connection is not used again."""
    monkeypatch.setattr(ecs_module, "ATTEMPT_SECONDS", 0.2)
    control_plane.gate.clear()
    api = client(control_plane.url)
    begin = time.monotonic()
    with pytest.raises(ApiError, match=r"no answer within|timed out") as caught:
        api.attempt("SubmitTaskStateChange", {})
    assert time.monotonic() - begin < 5.0
    assert caught.value.retried
    control_plane.gate.set()
    assert api.attempt("SubmitTaskStateChange", {}) == {"acknowledgment": "ok"}


def test_a_wrong_clock_is_corrected_by_the_server_s():
    """The second attempt is signed with the server's time."""
    stamps: list[str] = []

    def answer(sock: socket.socket, _: Any) -> None:
        while True:
            head = b""
            while b"\r\n\r\n" not in head:
                more = sock.recv(65536)
                if not more:
                    return
                head += more
            stamps.append(head.lower().partition(b"x-amz-date: ")[2][:16].decode())
            body = b'{"__type":"InvalidSignatureException","message":"time"}' if len(stamps) == 1 else b"{}"
            status = b"400 X" if len(stamps) == 1 else b"200 OK"
            sock.sendall(
                b"HTTP/1.1 %s\r\nDate: Mon, 15 Jun 2026 12:00:00 GMT\r\nContent-Length: %d\r\n\r\n%s"
                % (status, len(body), body)
            )

    server = serve(answer)
    api = client(f"http://127.0.0.1:{server.server_port}")
    assert api.call("X", {}) == {}
    assert stamps[1].startswith("20260615t1200")
    server.stop()


# -- credentials -------------------------------------------------------------------------------


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment in which no source has any."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def test_without_credentials_the_error_says_what_to_do(no_credentials, tmp_path):
    """And the next call asks again."""
    own = OwnCredentials(False, "default", str(tmp_path / "absent"))
    with pytest.raises(Temporary, match=r"no valid providers in chain.*AWS_ACCESS_KEY_ID"):
        own.keys()


def test_the_rotating_file_is_read_again_every_minute(no_credentials, tmp_path, monkeypatch):
    """In both modes; the environment comes first."""
    path = tmp_path / "credentials"
    path.write_text("[default]\naws_access_key_id = one\naws_secret_access_key = s\naws_session_token = t\n")
    for external in (False, True):
        assert OwnCredentials(external, "default", str(path)).keys()[:3] == ("one", "s", "t")
    own = OwnCredentials(True, "default", str(path))
    own.keys()
    path.write_text("[default]\naws_access_key_id = two\naws_secret_access_key = s\n")
    assert own.keys().access_key == "one"
    later = time.monotonic() + 61
    monkeypatch.setattr(credentials_module.time, "monotonic", lambda: later)
    assert own.keys().access_key == "two"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "env")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    assert OwnCredentials(True, "default", str(path)).keys().access_key == "env"


def test_the_instance_role_comes_from_metadata(no_credentials, control_plane, monkeypatch, tmp_path):
    """Through botocore, which honours the endpoint variable."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", control_plane.url)
    control_plane.metadata["meta-data/iam/security-credentials"] = "role"
    control_plane.metadata["meta-data/iam/security-credentials/role"] = (
        '{"Code":"Success","AccessKeyId":"A","SecretAccessKey":"S","Token":"T","Expiration":"2099-01-01T00:00:00Z"}'
    )
    assert OwnCredentials(False, "default", str(tmp_path / "absent")).keys()[:3] == ("A", "S", "T")


# -- instance metadata -------------------------------------------------------------------------


def test_the_place_of_the_instance_is_asked_for_at_once(control_plane):
    """Version 2, with a token; a value that is not there is empty."""
    metadata = Metadata({"AWS_EC2_METADATA_SERVICE_ENDPOINT": control_plane.url})
    place = find_place(metadata)
    assert (place.instance_id, place.vpc_id) == ("i-0123456789abcdef0", "vpc-0abc")
    assert (place.availability_zone_id, place.outpost_arn) == ("usw2-az1", "")
    document, signature = identity_document(metadata)
    assert '"instanceId"' in document
    assert signature == "c2lnbmF0dXJl"


def test_metadata_that_is_switched_off_is_not_asked(control_plane):
    """Every value is empty at once."""
    metadata = Metadata({"AWS_EC2_METADATA_SERVICE_ENDPOINT": control_plane.url, "AWS_EC2_METADATA_DISABLED": "TRUE"})
    assert find_place(metadata).instance_id == ""
    assert identity_document(metadata) == ("", "")
    with pytest.raises(MetadataError, match="switched off"):
        metadata.insist("instance-id")


def test_an_operation_of_metadata_is_bounded_and_a_missing_value_is_not_asked_for_twice(control_plane, monkeypatch):
    """A stalling service must not hold up the start."""
    from common import metadata as metadata_module

    metadata = Metadata({"AWS_EC2_METADATA_SERVICE_ENDPOINT": control_plane.url})
    begin = time.monotonic()
    with pytest.raises(MetadataError) as caught:
        metadata.meta("nothing")
    assert caught.value.status == 404
    assert time.monotonic() - begin < 0.9
    monkeypatch.setattr(metadata_module, "OPERATION_SECONDS", 0.8)
    monkeypatch.setattr(metadata_module, "PAUSE_SECONDS", 0.05)
    stalled = serve(lambda sock, _: gevent.sleep(10))
    silent = Metadata({"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{stalled.server_port}"})
    begin = time.monotonic()
    with pytest.raises(MetadataError):
        silent.meta("instance-id")
    assert time.monotonic() - begin < 5.0
    stalled.stop(timeout=0)


def test_identity_without_a_document_is_sent_without_a_signature(control_plane):
    """The signature alone is worth nothing."""
    del control_plane.metadata["dynamic/instance-identity/document"]
    metadata = Metadata({"AWS_EC2_METADATA_SERVICE_ENDPOINT": control_plane.url})
    assert identity_document(metadata, window_seconds=0.2) == ("", "")
