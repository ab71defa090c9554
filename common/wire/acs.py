"""ACS frames: one JSON object {"type", "message"} per WebSocket text message, and the agent's replies.

`decode` answers a recognised message in canonical form or raises Dropped with the sentence for the log; a dropped frame
has no other consequence, the connection stays (ECS agent behaviour, spec 02 §1.7). Replies echo values of the message
they answer, in the exact member order of spec 02 §2.2; a member whose source is absent is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from common.wire import jsontext
from common.wire.messages import EXCEPTIONS, RECOGNISED
from common.wire.shapes import Mismatch

MAX_FRAME_BYTES = 64 << 20  # far above any payload of ACS; a bound for our own memory


class Frame(NamedTuple):
    """A recognised message; `message` has only known members, in their declared spelling, none of them null."""

    type: str
    message: dict[str, Any]


class Dropped(ValueError):
    """A frame that is not answered and not acted upon; the text says why."""


def decode(data: str | bytes) -> Frame:
    """The message in one frame. Raises Dropped."""
    if len(data) > MAX_FRAME_BYTES:
        raise Dropped(f"a frame of {len(data)} bytes is larger than the limit of {MAX_FRAME_BYTES}")
    try:
        value = jsontext.loads(data.decode("utf-8", "replace") if isinstance(data, bytes) else data)
    except jsontext.NotJson as error:
        raise Dropped(f"a frame is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Dropped("a frame is not a JSON object")
    envelope = {key.lower(): member for key, member in value.items()}
    type_ = envelope.get("type")
    if not type_ or not isinstance(type_, str):
        return _bare_exception(value)
    shape = RECOGNISED.get(type_)
    if shape is None:
        raise Dropped(f"a message has the unknown type {type_[:80]!r}")
    if "message" not in envelope:
        raise Dropped(f"a {type_} has no member 'message'")
    try:
        return Frame(type_, {} if envelope["message"] is None else shape(envelope["message"]))
    except (Mismatch, RecursionError) as error:
        raise Dropped(f"a {type_} does not have its shape: {error}") from None


def _bare_exception(value: dict[str, Any]) -> Frame:
    """The short form {"SomeException": "text"}: exactly one member, whose name is exactly one of the exceptions."""
    if len(value) == 1:
        ((name, text),) = value.items()
        if name in EXCEPTIONS and (text is None or isinstance(text, str)):
            return Frame(name, {"message": text or ""})
    raise Dropped("a frame has no type")


def refusal(body: bytes) -> str:
    """What the body of a refused handshake says, as "<type>: <text>"; "" when it is no ACS message."""
    try:
        frame = decode(body)
    except Dropped:
        return ""
    if frame.type in EXCEPTIONS:
        return f"{frame.type}: {frame.message.get('message', 'null')}"
    return f"ACSError: Unknown error ({frame.type})"


# -- replies -----------------------------------------------------------------------------------


def encode(type_: str, message: Mapping[str, Any]) -> str:
    """A frame; members that are None are left out."""
    return jsontext.dumps({"type": type_, "message": {k: v for k, v in message.items() if v is not None}})


def ack(message: Mapping[str, Any]) -> str:
    """AckRequest for a payload, manifest, attachment or update message."""
    return encode("AckRequest", _addressed(message))


def nack(message: Mapping[str, Any], reason: str) -> str:
    """NackRequest; used for updates only."""
    return encode("NackRequest", {**_addressed(message), "reason": reason})


def _addressed(message: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "cluster": message.get("clusterArn"),
        "containerInstance": message.get("containerInstanceArn"),
        "messageId": message.get("messageId"),
    }


def heartbeat_ack(message: Mapping[str, Any]) -> str:
    """HeartbeatAckRequest."""
    return encode("HeartbeatAckRequest", {"messageId": message.get("messageId")})


def credentials_ack(credentials_id: str, expiration: str | None, message_id: str) -> str:
    """IAMRoleCredentialsAckRequest. `expiration` is verbatim; None leaves it out."""
    values = {"credentialsId": credentials_id, "expiration": expiration, "messageId": message_id}
    return encode("IAMRoleCredentialsAckRequest", values)


def stop_verification(message: Mapping[str, Any], arns: Iterable[str]) -> str:
    """TaskStopVerificationMessage: tasks that run here and should not, by the manifest `message`."""
    cluster = {"taskClusterArn": message["clusterArn"]} if "clusterArn" in message else {}
    candidates = [{"desiredStatus": "STOPPED", "taskArn": arn, **cluster} for arn in arns]
    return encode("TaskStopVerificationMessage", {"messageId": message.get("messageId"), "stopCandidates": candidates})
