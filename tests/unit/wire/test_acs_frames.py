"""ACS frames: what is recognised, what is dropped, and replies byte for byte (spec 02 §1.7, §2.2, §10)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.wire import acs, jsontext

CLUSTER = "arn:aws:ecs:us-west-2:123456789012:cluster/default"
INSTANCE = "arn:aws:ecs:us-west-2:123456789012:container-instance/default/0123456789abcdef0123456789abcdef"
MESSAGE = {"clusterArn": CLUSTER, "containerInstanceArn": INSTANCE, "messageId": "m-1"}

DROPPED = [
    ("not json", "not JSON"),
    ("", "not JSON"),
    ('{"type":"HeartbeatMessage","message":{}} x', "not JSON"),
    ('{"type":"PayloadMessage","message":{"seqNum":NaN}}', "not JSON"),
    ("[" * 100_000, "nested too deeply"),
    ("[]", "not a JSON object"),
    ('garbage\r\n\r\n{"type":"HeartbeatMessage","message":{}}', "not JSON"),
    ('{"type":"HeartbeatMessage","message":{"messageId":' + "1" * 5000 + "}}", "not JSON"),
    *(('{"type":"AckRequest","message":' + content + "}", "does not have its shape") for content in ("[]", '"x"', "0")),
    ('{"type":"FooMessage","message":{}}', "unknown type 'FooMessage'"),
    ('{"type":"heartbeatMessage","message":{}}', "unknown type"),
    ('{"type":"HeartbeatMessage"}', "no member 'message'"),
    ('{"type":"HeartbeatMessage","message":[]}', "does not have its shape"),
    ('{"type":"PayloadMessage","message":{"seqNum":"5"}}', "seqNum is not an integer"),
    ('{"type":"PayloadMessage","message":{"seqNum":5.0}}', "seqNum is not an integer"),
    ('{"type":"PayloadMessage","message":{"seqNum":1e2}}', "seqNum is not an integer"),
    ('{"type":"PayloadMessage","message":{"seqNum":true}}', "seqNum is not an integer"),
    ('{"type":"PayloadMessage","message":{"generatedAt":9223372036854775808}}', "generatedAt is not an integer"),
    ('{"type":"PayloadMessage","message":{"tasks":[{"overrides":{}}]}}', "tasks[0].overrides is not a string"),
    (
        '{"type":"PayloadMessage","message":{"tasks":[{"containers":[{"dockerConfig":{"config":{}}}]}]}}',
        "tasks[0].containers[0].dockerConfig.config is not a string",
    ),
    ('{"type":"","message":{}}', "no type"),
    ('{"ErrorMessage":"x"}', "no type"),
    ('{"InactiveInstanceException":"x","other":1}', "no type"),
]


@pytest.mark.parametrize(("text", "why"), DROPPED)
def test_a_frame_that_is_not_understood_is_dropped_with_a_reason(text, why):
    """One clear sentence for the log; nothing else follows."""
    with pytest.raises(acs.Dropped) as caught:
        acs.decode(text)
    assert why in str(caught.value)


def test_a_frame_that_is_too_large_is_dropped(monkeypatch):
    """A bound for our own memory, far above any payload."""
    text = '{"type":"HeartbeatMessage","message":{}}'
    assert acs.decode(text).type == "HeartbeatMessage"
    monkeypatch.setattr(acs, "MAX_FRAME_BYTES", len(text) - 1)
    with pytest.raises(acs.Dropped, match="is larger than the limit"):
        acs.decode(text)


def test_recognised_messages_come_in_canonical_form():
    """Names in any case, null as absent, unknown members gone, text or binary."""
    expected = acs.Frame("HeartbeatMessage", {"messageId": "1"})
    text = '{"TYPE":"HeartbeatMessage","Message":{"MESSAGEID":"1","healthy":null,"more":2}}'
    assert acs.decode(text) == expected
    assert acs.decode(text.encode()) == expected
    assert acs.decode('{"type":"HeartbeatMessage","message":null}') == acs.Frame("HeartbeatMessage", {})
    assert acs.decode('{"InactiveInstanceException":"gone"}').message == {"message": "gone"}
    assert acs.decode('{"type":"AckRequest","message":{"messageId":"1"}}').type == "AckRequest"


def test_half_characters_do_not_get_past_the_border():
    """JSON may hold half a surrogate pair; no other process could store it."""
    frame = acs.decode('{"type":"PayloadMessage","message":{"messageId":"a\\ud800b"}}')
    assert frame.message["messageId"] == "a\ufffdb"
    frame = acs.decode(b'{"type":"PayloadMessage","message":{"messageId":"a\xff"}}')
    assert frame.message["messageId"] == "a\ufffd"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"InvalidClusterException":"Invalid cluster"}', "InvalidClusterException: Invalid cluster"),
        (b'{"type":"InactiveInstanceException","message":{"message":"gone"}}', "InactiveInstanceException: gone"),
        (b'{"type":"InactiveInstanceException","message":{}}', "InactiveInstanceException: null"),
        (b'{"type":"HeartbeatMessage","message":{}}', "ACSError: Unknown error (HeartbeatMessage)"),
        (b"<html>", ""),
        (b"[" * 1024, ""),
        (b'{"InvalidClusterException":"\xff"}', "InvalidClusterException: \ufffd"),
    ],
)
def test_the_body_of_a_refused_handshake(body, text):
    """An exception in it is the error; anything else is for the caller to quote."""
    assert acs.refusal(body) == text


def test_replies_are_byte_exact():
    """Member order as the reference writes it; echoed values; an absent source leaves the member out."""
    tail = f'"cluster":"{CLUSTER}","containerInstance":"{INSTANCE}","messageId":"m-1"'
    assert acs.ack(MESSAGE) == f'{{"type":"AckRequest","message":{{{tail}}}}}'
    assert acs.nack(MESSAGE, "Updates are disabled") == (
        f'{{"type":"NackRequest","message":{{{tail},"reason":"Updates are disabled"}}}}'
    )
    assert acs.heartbeat_ack({"messageId": "123"}) == '{"type":"HeartbeatAckRequest","message":{"messageId":"123"}}'
    assert acs.heartbeat_ack({}) == '{"type":"HeartbeatAckRequest","message":{}}'
    assert acs.credentials_ack("c", "2026-06-15T18:03:20Z", "m") == (
        '{"type":"IAMRoleCredentialsAckRequest","message":{"credentialsId":"c","expiration":"2026-06-15T18:03:20Z",'
        '"messageId":"m"}}'
    )
    assert acs.credentials_ack("c", "", "m").count('"expiration":""') == 1
    assert "expiration" not in acs.credentials_ack("c", None, "m")
    assert acs.stop_verification(MESSAGE, ["t"]) == (
        '{"type":"TaskStopVerificationMessage","message":{"messageId":"m-1","stopCandidates":[{"desiredStatus":'
        f'"STOPPED","taskArn":"t","taskClusterArn":"{CLUSTER}"}}]}}}}'
    )
    assert acs.stop_verification({}, ["t"]) == (
        '{"type":"TaskStopVerificationMessage","message":{"stopCandidates":[{"desiredStatus":"STOPPED","taskArn":"t"}]}}'
    )


def test_go_s_five_characters_are_escaped():
    """The others stay UTF-8."""
    assert jsontext.dumps("<&>\u2028\u2029é") == '"\\u003c\\u0026\\u003e\\u2028\\u2029é"'


@given(st.text() | st.binary())
def test_decoding_raises_nothing_but_dropped(data):
    """Garbage cannot end the session."""
    try:
        acs.decode(data)
    except acs.Dropped:
        pass  # what garbage deserves


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda i: st.lists(i) | st.dictionaries(
    st.text(), i), max_leaves=10))  # fmt: skip
def test_any_content_of_a_known_type_is_a_message_or_dropped(content):
    """Shapes are total."""
    for type_ in ("PayloadMessage", "TaskManifestMessage", "ConfirmAttachmentMessage"):
        try:
            assert acs.decode(json.dumps({"type": type_, "message": content})).type == type_
        except acs.Dropped:
            pass  # another shape
