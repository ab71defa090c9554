"""Credentials v1 and v2 (spec 06 §6): who asks with a known id gets the role's keys, and a line in the audit log.

Known but pending comes before unknown: SDKs retry a 503 and give up on a 400.
"""

from __future__ import annotations

import logging
from typing import Any

from common.model.agent import Credentials
from services.endpoint.audit import Audit
from services.endpoint.follow import Source
from services.endpoint.paths import first_values
from services.endpoint.reply import Reply, document
from services.endpoint.view import EXECUTION_ROLE, TASK_ROLE

log = logging.getLogger(__name__)

AUDIT_VERSION = "2"
AUDIT_EVENTS = {TASK_ROLE: "GetCredentials", EXECUTION_ROLE: "GetCredentialsExecutionRole"}
UNKNOWN_EVENT = "- "  # the task's ARN, and nothing where the event would stand

NO_ID, UNKNOWN, PENDING = 0, 1, 2
FAILURES = {
    NO_ID: (400, "NoIdInRequest", "No Credential ID in the request"),
    UNKNOWN: (400, "InvalidIdInRequest", "Credentials not found"),
    PENDING: (503, "CredentialsUninitialized", "Credentials uninitialized for ID"),
}


def _failure(version: int, status: int, code: str, text: str) -> Reply:
    message = f"CredentialsV{version}Request: {text}"
    return document({"code": code, "message": message, "HTTPErrorCode": status}, status)


FAILED = {(v, kind): _failure(v, *failure) for v in (1, 2) for kind, failure in FAILURES.items()}


class CredentialsEndpoint:
    """Both versions; they differ in where the id stands."""

    def __init__(self, source: Source, audit: Audit) -> None:
        self.source, self.view, self.audit = source, source.view, audit

    def v1(self, environ: dict[str, Any]) -> Reply:
        """/v1/credentials?id=..."""
        return self._answer(environ, 1, first_values(environ["QUERY_STRING"]).get("id", ""))

    def v2(self, environ: dict[str, Any], id_: str) -> Reply:
        """/v2/credentials/<id>."""
        return self._answer(environ, 2, id_)

    def _answer(self, environ: dict[str, Any], version: int, id_: str) -> Reply:
        found = self.view.credential_answers.get(id_) or self._find(id_)
        reply, rest = (FAILED[version, found], UNKNOWN_EVENT) if isinstance(found, int) else found
        self.audit.add(reply.status, f"{environ['REMOTE_ADDR']}:{environ['REMOTE_PORT']}", environ["PATH_INFO"],
                       environ.get("HTTP_USER_AGENT", ""), rest)  # fmt: skip
        return reply

    def _find(self, id_: str) -> int | tuple[Reply, str]:
        if not id_:
            return NO_ID
        credentials = self.view.credentials.get(id_)
        if credentials is None and self.source.look_for_credentials(id_):
            credentials = self.view.credentials.get(id_)
        if credentials is None:
            # Before all tasks are read, any id may be one of theirs.
            return PENDING if id_ in self.view.known_credentials or not self.source.complete else UNKNOWN
        answer = (_rendered(credentials), self._audited(credentials))
        self.view.credential_answers[id_] = answer
        return answer

    def _audited(self, credentials: Credentials) -> str:
        arn = credentials.task_arn or "-"
        event = AUDIT_EVENTS.get(credentials.role_type)
        if event is None:
            log.warning("Unknown eventType: %s", credentials.role_type)
            return f"{arn} "
        instance = self.view.instance
        return f"{arn} {event} {AUDIT_VERSION} {instance.cluster or '-'} {instance.arn or '-'}"


def _rendered(credentials: Credentials) -> Reply:
    return document({
        "RoleArn": credentials.role_arn,
        "AccessKeyId": credentials.access_key_id,
        "SecretAccessKey": credentials.secret_access_key,
        "Token": credentials.session_token,
        "Expiration": credentials.expiration,
    })  # fmt: skip
