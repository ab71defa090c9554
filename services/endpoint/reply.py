"""What a handler answers, and the texts that several handlers share."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, NamedTuple

from services.endpoint.encode import encode

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
PLAIN = "text/plain"
HTML = "text/html; charset=utf-8"


class Reply(NamedTuple):
    """An answer: HTTP status, body, content type ("" = the header is left out), further headers."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


NOT_FOUND = Reply(404, b"404 page not found\n", TEXT, (("X-Content-Type-Options", "nosniff"),))
METHOD_NOT_ALLOWED = Reply(405, b"", "")
FAILED = Reply(500, b'"Internal server error"')
NOT_YET_TEXT = "The agent has restarted and cannot read its state yet; try again"


class NotYet(Exception):
    """What was asked for is not known, and not all that exists is known yet: 503 with NOT_YET_TEXT."""


def said(status: int, text: str) -> Reply:
    """An error of the metadata, stats and association endpoints: a bare JSON string."""
    return Reply(status, encode(text))


def document(value: Any, status: int = 200) -> Reply:
    """A JSON document."""
    return Reply(status, encode(value))


def status_line(status: int) -> str:
    """`200 OK`; a status that HTTP does not name gets its class (ECS chooses the status of its errors)."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} status code {status}"
