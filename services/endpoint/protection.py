"""Task protection (spec 06 §16): a container protects its own task from scale-in, with the task role's credentials."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from common.model.task import Task
from services.endpoint import gojson
from services.endpoint.aws import Ecs, EcsError, Keys, NoAnswer
from services.endpoint.encode import put
from services.endpoint.follow import Source
from services.endpoint.metadata import Finder
from services.endpoint.reply import NOT_YET_TEXT, NotYet, Reply, document
from services.endpoint.wire import BodyError

log = logging.getLogger(__name__)

DEADLINE_SECONDS = 4.0  # below the server's write time-out, so that the client hears of it
INVALID, NOT_FOUND, DENIED = "InvalidParameterException", "ResourceNotFoundException", "AccessDeniedException"
SERVER, CANCELED = "ServerException", "RequestCanceled"
INT64 = 1 << 63


class Protection:
    """GET and PUT of /api/<id>/task-protection/v1/state."""

    def __init__(self, source: Source, finder: Finder, ecs: Ecs) -> None:
        self.source, self.finder, self.ecs = source, finder, ecs

    def handle(self, environ: dict[str, Any], id_: str) -> Reply:
        """PUT is decoded before anything is looked up; GET has no use for its body."""
        try:
            if environ["REQUEST_METHOD"] != "PUT":
                return self._get(id_)
            return self._put(id_, *decode(environ["wsgi.input"].read()))
        except (gojson.NotJson, gojson.WrongType, BodyError) as error:
            log.debug("a task protection request cannot be decoded: %s", error)
            return _error(400, INVALID, "UpdateTaskProtection: failed to decode request")
        except NotYet:
            return _error(503, SERVER, NOT_YET_TEXT)

    def _get(self, id_: str) -> Reply:
        member = self.finder.endpoint(id_)
        if member is None:
            return _error(404, NOT_FOUND, "Failed to find a task for the request")
        return self._call(member.entry.task, "get_task_protection", {})

    def _put(self, id_: str, enabled: bool | None, minutes: int | None) -> Reply:
        member = self.finder.endpoint(id_)
        if member is None:
            return _error(404, NOT_FOUND, "Failed to find a task for the request")
        task = member.entry.task
        if enabled is None:
            return _error(400, INVALID, "Invalid request: does not contain 'ProtectionEnabled' field", task.arn)
        body: dict[str, Any] = {"protectionEnabled": enabled}
        if minutes is not None:
            body["expiresInMinutes"] = _int32(minutes)
        return self._call(task, "update_task_protection", body)

    def _call(self, task: Task, operation: str, body: Mapping[str, Any]) -> Reply:
        keys = self._keys(task)
        if keys is None:
            text = "Invalid Request: no task IAM role credentials available for task"
            return _error(403, DENIED, text, task.arn)
        instance = self.source.view.instance
        try:
            answer = self.ecs.call(operation, {"cluster": instance.cluster, "tasks": [task.arn], **body},
                                   instance.region, DEADLINE_SECONDS, keys)  # fmt: skip
        except EcsError as error:
            detail = {"Arn": task.arn, "Code": error.code, "Message": error.message}
            return document({"requestID": error.request_id, "error": detail}, error.status)
        except NoAnswer:
            return _error(504, CANCELED, "Timed out calling ECS Task Protection API", task.arn)
        except Exception as error:  # whatever botocore or the network raise: the client gets its text
            return _error(500, SERVER, str(error), task.arn)
        return _outcome(task.arn, answer)

    def _keys(self, task: Task) -> Keys | None:
        view, id_ = self.source.view, task.credentials_id
        if not id_:
            return None
        if id_ not in view.credentials:
            self.source.look_for_credentials(id_)
        found = view.credentials.get(id_)
        return None if found is None else Keys(found.access_key_id, found.secret_access_key, found.session_token)


def decode(data: bytes) -> tuple[bool | None, int | None]:
    """ProtectionEnabled and ExpiresInMinutes; None = missing. Raises NotJson or WrongType."""
    value = gojson.first_value(data)
    if value is None:
        return None, None
    if not isinstance(value, gojson.Pairs):
        raise gojson.WrongType(f"json: cannot unmarshal {gojson.kind_of(value)}")
    enabled: bool | None = None
    minutes: int | None = None
    for key, member in value:
        name = key.casefold()
        if name == "protectionenabled":
            if member is not None and not isinstance(member, bool):
                raise gojson.wrong(member, "TaskProtectionRequest", "ProtectionEnabled", "bool")
            enabled = member
        elif name == "expiresinminutes":
            minutes = None if member is None else gojson.integer(
                member, "TaskProtectionRequest", "ExpiresInMinutes", "int64", -INT64, INT64 - 1)  # fmt: skip
        else:
            raise gojson.WrongType(f'json: unknown field "{key}"')
    return enabled, minutes


def _int32(value: int) -> int:
    """The reference cuts the number to 32 bits (W24)."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def _error(status: int, code: str, message: str, arn: str = "") -> Reply:
    error: dict[str, Any] = {}
    put(error, "Arn", arn)
    return document({"error": {**error, "Code": code, "Message": message}}, status)


def _outcome(arn: str, answer: Mapping[str, Any]) -> Reply:
    protected, failures = answer.get("protectedTasks") or [], answer.get("failures") or []
    if len(failures) == 1 and len(protected) <= 1:
        failure = failures[0]
        return document({"failure": {"Arn": failure.get("arn"), "Detail": failure.get("detail"),
                                     "Reason": failure.get("reason")}})  # fmt: skip
    if len(protected) == 1 and not failures:
        task = protected[0]
        return document({"protection": {"ExpirationDate": _time(task.get("expirationDate")),
                                        "ProtectionEnabled": bool(task.get("protectionEnabled")),
                                        "TaskArn": task.get("taskArn")}})  # fmt: skip
    log.error("ECS answered with %d protected tasks and %d failures for %s", len(protected), len(failures), arn)
    return _error(500, SERVER, "Unexpected error occurred", arn)


def _time(value: datetime | None) -> str | None:
    if value is None:
        return None
    utc = value.astimezone(UTC)
    fraction = f"{utc.microsecond // 1000:03d}".rstrip("0")
    return utc.strftime("%Y-%m-%dT%H:%M:%S") + (f".{fraction}" if fraction else "") + "Z"
