"""The calls beside the ECS API, EcsLocal.*, with which tests and demonstrations play the backend.

They are for whoever holds the local control plane, and do nothing unless called: docs/local-control-plane.md.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from services.local.acs import Hub
from services.local.core.errors import ApiError
from services.local.misbehaviour import OF_SESSIONS, Demand, Misbehaviour
from services.local.state import State
from services.local.tcs import Telemetry
from services.local.websocket import NORMAL, Closed, Socket

log = logging.getLogger("local.trial")
Json = dict[str, Any]
PREFIX = "EcsLocal"
REPORTS_KEPT = 5000  # in memory only


@dataclass
class Backstage:
    """What these calls work with."""

    state: State
    hub: Hub
    telemetry: Telemetry
    misbehaviour: Misbehaviour = field(default_factory=Misbehaviour)
    reports: deque[Json] = field(default_factory=lambda: deque(maxlen=REPORTS_KEPT))

    def heard(self, body: object, answered: bool) -> None:
        """Keep a report that was accepted; `answered` is False when the agent was not told so."""
        if isinstance(body, dict):
            containers = [
                {"name": c.get("containerName"), "status": c.get("status")} for c in body.get("containers") or []
            ]
            self.reports.append({
                "at": self.state.clock.now(), "task": body.get("task"), "status": body.get("status"),
                "reason": body.get("reason"), "containers": containers, "answered": answered,
                "attachments": body.get("attachments") or [],
            })  # fmt: skip


def call(backstage: Backstage, name: str, body: object) -> Json:
    """One call by its name without the prefix. Raises ApiError."""
    if not isinstance(body, dict):
        raise ApiError("ClientException", "The request body must be a JSON object.")
    if name not in CALLS:
        raise ApiError("UnknownOperationException", f"There is no {PREFIX}.{name}; there are: {', '.join(CALLS)}.")
    return CALLS[name](backstage, body)


def _instance(backstage: Backstage, body: Json) -> str:
    arn = body.get("containerInstance") or next(
        (i for i in backstage.state.instances if backstage.hub.connected(i)), ""
    )
    if not backstage.hub.connected(arn):
        raise ApiError("ClientException", "No agent is connected.")
    return str(arn)


def _push(backstage: Backstage, body: Json) -> Json:
    arn = _instance(backstage, body)
    type_, message = body.get("type"), body.get("message", {})
    if not isinstance(type_, str) or not isinstance(message, dict):
        raise ApiError("ClientException", "Give 'type' (a string) and 'message' (an object).")
    if body.get("fill"):
        cluster_arn = backstage.state.cluster_arn(arn)
        names = {"clusterArn": cluster_arn, "containerInstanceArn": arn, "messageId": str(uuid.uuid4())}
        message = {**names, **message}
    backstage.hub.push(arn, type_, message)
    return {"containerInstance": arn, "messageId": message.get("messageId")}


def _manifest(backstage: Backstage, body: Json) -> Json:
    session = backstage.hub.session(_instance(backstage, body))
    omit = body.get("omit") or []
    if session is None or not isinstance(omit, list):
        raise ApiError("ClientException", "'omit' must be a list of task ARNs.")
    try:
        return session.send_manifest([str(arn) for arn in omit])
    except Closed as error:
        raise ApiError("ClientException", f"The manifest was not sent: {error}.") from error


def _replies(backstage: Backstage, body: Json) -> Json:
    types = body.get("types") or ()
    return {"replies": [r for r in backstage.hub.replies if not types or r["type"] in types]}


def _close(backstage: Backstage, body: Json) -> Json:
    arn = _instance(backstage, body)
    backstage.hub.disconnect(arn)
    return {"containerInstance": arn}


def _misbehave(backstage: Backstage, body: Json) -> Json:
    demand = backstage.misbehaviour.read(body)
    if demand.do in OF_SESSIONS:
        _at_once(backstage, demand)
        backstage.misbehaviour.note(demand.do)
    else:
        backstage.misbehaviour.add(demand)
    return _state(backstage)


def _behave(backstage: Backstage, body: Json) -> Json:
    backstage.misbehaviour.clear()
    return _state(backstage)


def _state(backstage: Backstage) -> Json:
    return {"rules": backstage.misbehaviour.active(), "used": dict(backstage.misbehaviour.used)}


def _reports(backstage: Backstage, body: Json) -> Json:
    wanted = set(body.get("tasks") or ())
    return {"reports": [r for r in backstage.reports if not wanted or r["task"] in wanted]}


CALLS: dict[str, Callable[[Backstage, Json], Json]] = {
    "PushAcsMessage": _push,
    "SendTaskManifest": _manifest,
    "ListReplies": _replies,
    "CloseAcsSession": _close,
    "Misbehave": _misbehave,
    "Behave": _behave,
    "ListReports": _reports,
}


def _at_once(backstage: Backstage, demand: Demand) -> None:
    if demand.session == "tcs":
        sockets = backstage.telemetry.sockets()
    else:
        session = backstage.hub.session(_instance(backstage, {"containerInstance": demand.container_instance}))
        sockets = [session.socket] if session else []
        if session and demand.do == "stall":
            session.stall(demand.seconds)
        if session and demand.do == "redeliver":
            session.redeliver(demand.count)
    for socket in sockets:
        _break(socket, demand)


def _break(socket: Socket, demand: Demand) -> None:
    if demand.do == "drop":
        socket.drop()
    elif demand.do == "reset":
        socket.drop(reset=True)
    elif demand.do == "close":
        socket.close(None if demand.code == "" else int(demand.code or NORMAL), demand.message)
    elif demand.do == "garbage":
        for opcode, data, fin in NONSENSE[demand.garbage]:
            socket.raw(opcode, data, fin)


TEXT, BINARY, CONTINUATION = 1, 2, 0  # RFC 6455 §5.2
NONSENSE = {
    "text": [(TEXT, b"this is not JSON", True)],
    "unknown": [(TEXT, b'{"type":"NoSuchMessage","message":{}}', True)],
    "shape": [(TEXT, b'{"type":"PayloadMessage","message":{"tasks":"none"}}', True)],
    "binary": [(BINARY, bytes(range(256)), True)],
    "empty": [(TEXT, b"", True)],
    "fragment": [(CONTINUATION, b"the end of nothing", True)],
    "reserved": [(3, b"an opcode that RFC 6455 keeps for later", True)],
}
