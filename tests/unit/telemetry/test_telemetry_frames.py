"""URLs, signatures, frames and incoming messages of the TCS session (spec 07 §12), and the way through proxies."""

import calendar
import hashlib
import time

import msgspec
import pytest

from common.channel import READ_SECONDS, WRITE_SECONDS, Refused
from common.errors import Temporary
from common.proxy import proxy_for
from common.sigv4 import Keys, host_of, sign
from services.telemetry.core.requests import Sender
from services.telemetry.mailbox import CAPACITY, WAIT_SECONDS, Mailbox
from services.telemetry.sampler import SAMPLE_SECONDS
from services.telemetry.session import Timers, explain, frame, kind_of, url_of
from services.telemetry.source import PAUSES

AT = calendar.timegm(time.strptime("2026-06-01T10:00:03", "%Y-%m-%dT%H:%M:%S"))
URL = (
    "wss://ecs-t-1.us-east-1.amazonaws.com/ws?agentHash=a8b3e7d3&agentVersion=1.105.1&cluster=default&containerInstance="
    "arn%3Aaws%3Aecs%3Aus-east-1%3A123456789012%3Acontainer-instance%2Fdefault%2F0123456789abcdef0123456789abcdef"
    "&dockerVersion=25.0.6"
)
BODY = (
    b'{"type":"PublishMetricsRequest","message":{"metadata":{"cluster":"default","containerInstance":"arn:aws:ecs:'
    b'us-east-1:123456789012:container-instance/default/0123456789abcdef0123456789abcdef","fin":true,"idle":true,'
    b'"messageId":"11111111-2222-4333-8444-555555555555"},"timestamp":1780308003.25}}'
)
WITH_TOKEN, WITHOUT = Keys("test-id", "test-secret", "test-token"), Keys("test-id", "test-secret")


@pytest.mark.parametrize(
    "keys, frame_signature, length, digest, upgrade_signature",
    [
        (WITH_TOKEN, "a8088ec31e97530f3f40e80d78363381f3f3a85c300014e45e984f43affd728f", 615,
         "2d550854ba4c1781c768540eef7569e5016b58173aa11d7064489ef0198b1f23",
         "07417c87acfe80fcef327d5eaaea0594be66c2ef637eef02f8d94ada65871612"),
        (WITHOUT, "dd523841715d82dd7fe960900b56154b9ed47335bef8ecca28afcab867f75097", 560,
         "96ac112aba9c2f15a6ba035824ec6deab80d881130a8ecaf86e52e829eb65281",
         "54bfd8ad3719ce81fc6644d0b7bd8958d37155a36b3a920888af97c40fb10289"),
    ],
)  # fmt: skip
def test_frames_and_upgrades_are_signed_like_the_test_vectors(keys, frame_signature, length, digest, upgrade_signature):
    """Case 38: whole frames by their hash, with and without a session token."""
    found = frame(URL, "us-east-1", keys, BODY, AT)
    assert frame_signature.encode() in found
    assert (len(found), hashlib.sha256(found).hexdigest()) == (length, digest)
    assert sign(URL, "us-east-1", keys, at=AT)["Authorization"].endswith(upgrade_signature)


def test_the_vector_of_the_acs_handshake_holds_too():
    """Spec 02 §1.3: the request line has a plus for the space, the signature is over %20."""
    url = (
        "wss://ecs-a-5.us-west-2.amazonaws.com/ws?agentHash=a8b3e7d3&agentVersion=1.105.1&clusterArn=default&"
        "containerInstanceArn=arn%3Aaws%3Aecs%3Aus-west-2%3A123456789012%3Acontainer-instance%2Fdefault%2F"
        "0123456789abcdef0123456789abcdef&dockerVersion=DockerVersion%3A+25.0.8&protocolVersion=2&"
        "sendCredentials=true&seqNum=1"
    )
    keys = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "TOKEN+/==")
    at = calendar.timegm(time.strptime("20260615T120000", "%Y%m%dT%H%M%S"))
    signed = sign(url, "us-west-2", keys, at=at)["Authorization"]
    assert signed.endswith("bf6be72d7847bede5704e97a5438869de1cea9246d19923c92bc72cbba837bed")
    assert "SignedHeaders=host;x-amz-date;x-amz-security-token" in signed


def test_keys_do_not_show_their_secret():
    """A Keys object may end up in a log line."""
    assert "secret" not in repr(WITH_TOKEN) and "token" not in repr(WITH_TOKEN)


@pytest.mark.parametrize(
    "endpoint, start, host",
    [
        ("http://127.0.0.1:8080/tcs/", "ws://127.0.0.1:8080/tcs/ws?", "127.0.0.1:8080"),
        ("https://host/tcs", "wss://host/tcs/ws?", "host"),
        ("https://h:443", "wss://h:443/ws?", "h"),
        ("http://h:443", "ws://h:443/ws?", "h:443"),
    ],
)
def test_the_url_keeps_path_and_port_of_the_endpoint(endpoint, start, host):
    """Case 50d and spec 07 §12.1, §12.3."""
    url = url_of(endpoint, Sender("my cluster", "arn:x"), "25.0.6")
    assert url.startswith(start) and host_of(url) == host
    keys = [pair.split("=")[0] for pair in url.split("?")[1].split("&")]
    assert keys == ["agentHash", "agentVersion", "cluster", "containerInstance", "dockerVersion"]
    assert "cluster=my%20cluster&containerInstance=arn%3Ax" in url


def test_an_unknown_docker_version_is_left_out():
    """Case 53."""
    assert "dockerVersion" not in url_of("http://h", Sender("c", "i"), "")


def test_other_schemes_are_an_error():
    """The reference's words."""
    with pytest.raises(Temporary, match="wsclient: unknown scheme ftp"):
        url_of("ftp://h", Sender("c", "i"), "")


@pytest.mark.parametrize(
    "data, kind",
    [
        (b'{"type":"AckPublishMetric","message":{"message":""}}', "AckPublishMetric"),
        (b'{"type":"HeartbeatMessage","message":{"healthy":true}}', "HeartbeatMessage"),
        (b'{"type":"HeartbeatMessage","message":null}', "HeartbeatMessage"),
        (b'{"ServerException":"internal"}', "ServerException"),
        (b'{"type":"New","message":{"a":1}}', "New"),
        (b'{"type":"AckPublishMetric","message":{"message":"\xff"}}', "AckPublishMetric"),
        (b'{"ServerException":"\xff"}', "ServerException"),
        (b'{"type":"HeartbeatMessage"}', None),
        (b'{"type":"HeartbeatMessage","message":{"healthy":"yes"}}', None),
        (b'{"OtherException":"x"}', None),
        (b"[]", None),
        (b"nonsense", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (b'{"type":"New","message":{"a":' + b"[" * 100_000, None),
    ],
)
def test_incoming_messages_are_told_apart(data, kind):
    """Spec 07 §12.4: without `message` or with a wrong type it is undecodable, null is accepted.

    What is no UTF-8 is a replacement character, as in Go; nothing that a server sends is any other error.
    """
    if kind is None:
        with pytest.raises(msgspec.DecodeError):
            kind_of(data)
    else:
        assert kind_of(data) == kind


@pytest.mark.parametrize(
    "body, text",
    [
        ('{"type":"ServerException","message":{"message":"sorry"}}', "ServerException: sorry"),
        ('{"type":"BadRequestException","message":{}}', "BadRequestException: null"),
        ('{"InvalidParameterException":"bad cluster"}', "InvalidParameterException: bad cluster"),
        ('{"type":"AckPublishMetric","message":{}}', "TCSError: Unknown error (AckPublishMetric)"),
        ("<html>", "unable to dial"),
        ("[1]", "unable to dial"),
        ("[" * 1024, "unable to dial"),
    ],
)
def test_a_refused_upgrade_is_explained_by_its_body(body, text):
    """Spec 07 §12.2."""
    assert text in explain(Refused("h", 400, "Bad Request", body.encode(), ""))


def test_the_mailbox_keeps_the_oldest_fifteen_messages():
    """Case 46: what comes later is dropped."""
    box = Mailbox(wait_seconds=0.0)
    assert [box.put([b"%d" % i]) for i in range(18)] == [True] * 15 + [False] * 3
    assert box.next() == b"0"


def test_a_message_stays_until_all_its_requests_were_sent():
    """What a broken connection left over goes out on the next one, without what had been sent."""
    box = Mailbox()
    box.put([b"a1", b"a2"])
    box.put([b"b1"])
    box.put([])
    order = []
    for _ in range(3):
        order.append(box.next())
        assert box.next() == order[-1]
        box.sent()
    assert order == [b"a1", b"a2", b"b1"] and len(box) == 0


@pytest.mark.parametrize(
    "environ, scheme, host, port, expected",
    [
        ({"HTTPS_PROXY": "http://p:3128"}, "https", "ecs.aws", 443, "p"),
        ({"http_proxy": "p"}, "https", "ecs.aws", 443, "p"),
        ({"HTTPS_PROXY": "http://p"}, "http", "ecs.aws", 80, None),
        ({"HTTP_PROXY": "http://p", "http_proxy": "http://q"}, "http", "ecs.aws", 80, "p"),
        ({"HTTP_PROXY": "p"}, "http", "localhost", 80, None),
        ({"HTTP_PROXY": "p"}, "http", "127.0.0.1", 80, None),
        ({"HTTP_PROXY": "p", "NO_PROXY": "aws"}, "http", "ecs.aws", 80, None),
        ({"HTTP_PROXY": "p", "NO_PROXY": ".ecs.aws"}, "http", "ecs.aws", 80, "p"),
        ({"HTTP_PROXY": "p", "NO_PROXY": "*.aws"}, "http", "ecs.aws", 80, None),
        ({"HTTP_PROXY": "p", "NO_PROXY": "10.0.0.0/8"}, "http", "10.1.2.3", 80, None),
        ({"HTTP_PROXY": "p", "NO_PROXY": "10.1.2.3:81"}, "http", "10.1.2.3", 80, "p"),
        ({"HTTP_PROXY": "p", "NO_PROXY": "10.1.2.3:80"}, "http", "10.1.2.3", 80, None),
        ({"HTTP_PROXY": "p", "no_proxy": "x, *"}, "http", "ecs.aws", 80, None),
        ({"HTTP_PROXY": "http://p:port"}, "http", "ecs.aws", 80, None),
        ({}, "https", "ecs.aws", 443, None),
    ],
)
def test_the_proxy_is_chosen_by_the_rules_of_the_reference(environ, scheme, host, port, expected):
    """Spec 02 §1.5."""
    found = proxy_for(scheme, host, port, environ)
    assert (found.hostname if found else None) == expected


def test_periods_are_those_of_the_reference():
    """Spec 07 §1: the tests of the process shorten them."""
    assert Timers() == Timers(
        heartbeat=60.0, heartbeat_jitter=60.0, disconnect=1800.0, disconnect_jitter=300.0, status=20.0, publish=20.0
    )
    assert (CAPACITY, WAIT_SECONDS, SAMPLE_SECONDS, READ_SECONDS, WRITE_SECONDS) == (15, 1.0, 1.0, 180.0, 180.0)
    assert PAUSES == (1.0, 10.0, 2.0, 0.5)
