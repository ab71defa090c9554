"""The task server on 127.0.0.1:51679: path cleaning, throttle, audit of what is denied, routes (spec 06 §1, §4, §5).

A WSGI application. The route table is the specification's, in its order, first match wins; what a path matches is
remembered, so a busy path costs a look-up and not a walk through the table.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from common import logs
from services.endpoint import paths
from services.endpoint.audit import LONGEST, Audit
from services.endpoint.aws import Ecs
from services.endpoint.counts import FAULTS as FAULT_LIMIT
from services.endpoint.counts import REQUESTS, TASKS, Counts
from services.endpoint.credentials import CredentialsEndpoint
from services.endpoint.faultroutes import FAULTS, OPERATIONS, FaultRoutes
from services.endpoint.follow import Source
from services.endpoint.metadata import Finder, Metadata
from services.endpoint.protection import Protection
from services.endpoint.reply import (
    FAILED,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    NOT_YET_TEXT,
    TEXT,
    NotYet,
    Reply,
    said,
    status_line,
)
from services.endpoint.stats import Stats
from services.endpoint.tags import Tags
from services.endpoint.throttle import LONG_PATH, Bucket, Throttle, key_of
from services.endpoint.wire import Slow

log = logging.getLogger(__name__)

Handler = Callable[..., Reply]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]

DENIED = Reply(429, b"You have reached maximum request limit.", TEXT)
ERROR_LINES, ERROR_LINES_BURST = 5.0, 50.0  # log lines a second about answers of 400 and above
REMEMBERED_PATHS = 4096
GROUPS = (  # the class of a route for /metrics: the first word that is in its pattern
    ("credentials", "credentials"), ("task-protection", "task_protection"), ("fault", "fault_injection"),
    ("/stats", "stats"), ("associations", "associations"), ("/v2", "metadata_v2"), ("/v3", "metadata_v3"),
    ("/v4", "metadata_v4"),
)  # fmt: skip


class Route(NamedTuple):
    """A row of the table: pattern on the decoded path, methods (none = all), handler, request type, class of routes."""

    pattern: re.Pattern[str]
    methods: tuple[str, ...]
    handler: Handler
    name: str
    group: str


class TaskServer:
    """The application; `throttle` is shared by all workers when there are several."""

    def __init__(self, routes: list[Route], throttle: Throttle, audit: Audit,
                 now: Callable[[], float] = time.monotonic, counts: Counts | None = None) -> None:  # fmt: skip
        self.throttle, self.audit, self.now = throttle, audit, now
        self.counts = counts or Counts()
        self._routes = routes
        self._rate_headers = (("X-Rate-Limit-Duration", "1"), ("X-Rate-Limit-Limit", f"{throttle.steady:.2f}"))
        self._debug = log.isEnabledFor(logging.DEBUG)
        self._remembered = lru_cache(maxsize=REMEMBERED_PATHS)(self._find)
        self._complaints = Bucket(ERROR_LINES, ERROR_LINES_BURST)
        self._silenced = 0

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        path = environ["PATH_INFO"]
        clean = paths.cleaned(path)
        if clean != path:
            self.counts.answered(TASKS, "redirect", 301)
            start_response("301 Moved Permanently", [("Location", _location(clean, environ))])
            return (b"",)
        address = environ["REMOTE_ADDR"]
        rates = [
            *self._rate_headers,
            ("X-Rate-Limit-Request-Forwarded-For", environ.get("HTTP_X_FORWARDED_FOR", "")),
            ("X-Rate-Limit-Request-Remote-Addr", f"{address}:{environ['REMOTE_PORT']}"),
        ]
        route, parts = self._remembered(path) if len(path) <= LONG_PATH else self._find(path)
        if self.throttle.take((address, key_of(path)), self.now()):
            reply = self._dispatch(environ, route, parts)
        else:
            reply = DENIED
            self.counts.throttled(REQUESTS)
            self.audit.add(429, f"{address}:{environ['REMOTE_PORT']}", path, environ.get("HTTP_USER_AGENT", ""), "- ")
        self.counts.answered(TASKS, route.group if route else "not_found", reply.status)
        if reply.content_type:
            rates.insert(0, ("Content-Type", reply.content_type))
        rates.extend(reply.headers)
        start_response(STATUS_LINES.get(reply.status) or status_line(reply.status), rates)
        return (reply.body,)

    def _dispatch(self, environ: dict[str, Any], route: Route | None, parts: tuple[str, ...]) -> Reply:
        if self._debug:
            peer = f"{environ['REMOTE_ADDR']}:{environ['REMOTE_PORT']}"
            log.debug("Handling http request", **logs.fields(method=environ["REQUEST_METHOD"], **{"from": peer}))
        if route is None:
            return NOT_FOUND
        if route.methods and environ["REQUEST_METHOD"] not in route.methods:
            return METHOD_NOT_ALLOWED
        try:
            reply = route.handler(environ, *parts)
        except Slow:
            raise
        except NotYet:
            reply = said(503, NOT_YET_TEXT)
        except Exception:
            log.exception("a %s request could not be answered; the client gets a 500", route.name)
            return FAILED
        if reply.status >= 400:
            if reply.status == 429 and route.group == "fault_injection":
                self.counts.throttled(FAULT_LIMIT)
            self._complain(route.name, reply)
        return reply

    def _find(self, path: str) -> tuple[Route | None, tuple[str, ...]]:
        for route in self._routes:
            match = route.pattern.fullmatch(path)
            if match is not None:
                return route, tuple(paths.text(part) for part in match.groups())
        return None, ()

    def _complain(self, name: str, reply: Reply) -> None:
        """One line per failed answer, as long as there are not too many of them."""
        if not self._complaints.take(self.now()):
            self._silenced += 1
            return
        # The answer repeats the id that it was asked for, which may be a megabyte.
        response = reply.body[:LONGEST].decode(errors="replace") or "<empty>"
        fields = {"status": reply.status, "requestType": name, "response": response}
        if self._silenced:
            fields["linesLeftOut"] = self._silenced
            self._silenced = 0
        log.error("HTTP response status code is '%d'", reply.status, **logs.fields(**fields))


STATUS_LINES = {status: status_line(status) for status in (200, 400, 403, 404, 405, 409, 429, 500, 503, 504)}


def application(source: Source, audit: Audit, throttle: Throttle, faults: FaultRoutes, config: Mapping[str, Any],
                now: Callable[[], float] = time.monotonic, counts: Counts | None = None) -> TaskServer:  # fmt: skip
    """The task server with all its routes."""
    finder = Finder(source)
    ecs = Ecs(config)
    rows = [
        *_credentials_rows(CredentialsEndpoint(source, audit)),
        *_metadata_rows(Metadata(finder, Tags(ecs)), Stats(finder, bool(config["ECS_DISABLE_METRICS"]))),
        ("/api/{x}/task-protection/v1/state", ("PUT", "GET"), Protection(source, finder, ecs).handle,
         "TaskProtection"),
        *_fault_rows(faults, finder),
    ]  # fmt: skip
    routes = [Route(_pattern(text), methods, handler, name, _group(text)) for text, methods, handler, name in rows]
    return TaskServer(routes, throttle, audit, now, counts)


Row = tuple[str, tuple[str, ...], Handler, str]


def _pattern(text: str) -> re.Pattern[str]:
    """`{x}` is a part without slash, `{x+}` and `{x*}` may hold slashes (§4)."""
    pattern = re.escape(text)
    for mark, group in (("{x}", "([^/]*)"), ("{x+}", "(.+)"), ("{x*}", "(.*)")):
        pattern = pattern.replace(re.escape(mark), group)
    return re.compile(pattern)


def _group(text: str) -> str:
    return next(group for word, group in GROUPS if word in text)


def _location(path: str, environ: Mapping[str, Any]) -> str:
    return paths.location(path, environ["QUERY_STRING"], bool(environ.get("endpoint.bare_query")))


def _credentials_rows(credentials: CredentialsEndpoint) -> Iterable[Row]:
    yield "/v1/credentials", (), credentials.v1, "Credentials"
    yield "/v2/credentials/{x*}", (), credentials.v2, "Credentials"


def _metadata_rows(metadata: Metadata, stats: Stats) -> Iterable[Row]:
    yield "/v2/metadata/{x+}", (), metadata.v2_container, "v2 container metadata"
    yield "/v2/metadata", (), metadata.v2_task, "v2 task metadata"
    yield "/v2/metadataWithTags", (), metadata.v2_task_with_tags, "v2 task metadata with tags"
    yield "/v2/metadata/", (), metadata.v2_task, "v2 task metadata"
    yield "/v2/metadataWithTags/", (), metadata.v2_task_with_tags, "v2 task metadata with tags"
    yield "/v2/stats/{x+}", (), stats.v2_container, "v2 container stats"
    yield "/v2/stats", (), stats.v2_task, "v2 task stats"
    yield "/v2/stats/", (), stats.v2_task, "v2 task stats"
    for version in (3, 4):
        base, name = f"/v{version}/{{x}}", f"v{version}"
        yield base, (), metadata.container(version), f"{name} container metadata"
        yield f"{base}/task", (), metadata.task(version), f"{name} task metadata"
        yield f"{base}/taskWithTags", (), metadata.task_with_tags(version), f"{name} task metadata with tags"
        yield f"{base}/stats", (), stats.container(version), f"{name} container stats"
        yield f"{base}/task/stats", (), stats.task(version), f"{name} task stats"
        yield f"{base}/associations/{{x}}", (), metadata.associations(version), f"{name} container associations"
        yield f"{base}/associations/{{x}}/", (), metadata.association(version), f"{name} container association"
        yield f"{base}/associations/{{x}}/{{x+}}", (), metadata.association(version), f"{name} container association"


def _fault_rows(faults: FaultRoutes, finder: Finder) -> Iterable[Row]:
    for fault in FAULTS:
        for operation in OPERATIONS:
            handler = faults.handler(fault, operation, finder)
            yield f"/api/{{x}}/fault/v1/{fault}/{operation}", ("POST",), handler, f"{operation} {fault}"
