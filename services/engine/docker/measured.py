"""How long Docker takes to answer, and how often it does not, for the metrics page of the endpoint process.

`MeasuredApi` is the Api with a clock. The numbers go into one document of the volatile Redis, at most every
PUBLISH_SECONDS and only after calls, so an agent that does nothing writes nothing; whoever wants them reads the
document, no change feed tells of it. Redis being away costs the numbers of that time and never a call.
"""

from __future__ import annotations

import bisect
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gevent
import redis

from common.bus import Change, encode
from common.errors import Temporary
from common.keys import DOCKER_CALLS, FACTS_ID
from common.model.agent import DOCKER_CALL_SECONDS, DockerCalls, DockerOperation
from services.engine.docker.api import Answer, Api, ApiError, Cancelled, Canceller, DockerCallError, Stream, TimedOut

log = logging.getLogger(__name__)

PUBLISH_SECONDS = 5.0
WRITE_SECONDS = 1.0
SUBJECTS = ("containers", "images", "volumes", "networks", "distribution", "exec")
VERBS = ("create", "start", "stop", "kill", "restart", "load", "tag", "prune", "rename", "wait", "logs", "exec")


def operation(method: str, path: str) -> str:
    """`container_start`, `image_inspect`, `info`: one of a few dozen words, whatever the path names."""
    parts = path.strip("/").split("/")
    if len(parts) == 1 and parts[0] not in SUBJECTS:
        word = parts[0].lstrip("_")
        return word if word in ("ping", "version", "info", "events", "plugins") else "other"
    if parts[0] not in SUBJECTS:
        return "other"
    subject = parts[0].removesuffix("s")
    if parts[-1] in VERBS:
        return f"{subject}_{parts[-1]}"
    if method == "DELETE":
        return f"{subject}_remove"
    is_list = len(parts) == 1 or parts[1:] == ["json"]
    return f"{subject}_{'list' if is_list else 'inspect'}"


def reason(error: BaseException) -> str:
    """The class of a failed call; "" for what its own caller cancelled."""
    if isinstance(error, ApiError):
        return "refused" if error.status < 500 else "failed"
    if isinstance(error, TimedOut):
        return "timeout"
    return "" if isinstance(error, Cancelled) or not isinstance(error, DockerCallError) else "unreachable"


class Measurements:
    """Counts per operation, and publishes them in `store`."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self._buckets: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}
        self._errors: dict[str, Counter[str]] = {}
        self._publishing: gevent.Greenlet | None = None

    def note(self, name: str, seconds: float, error: str = "") -> None:
        """One call ended."""
        buckets = self._buckets.get(name)
        if buckets is None:
            buckets = self._buckets[name] = [0] * (len(DOCKER_CALL_SECONDS) + 1)
            self._seconds[name], self._errors[name] = 0.0, Counter()
        buckets[bisect.bisect_left(DOCKER_CALL_SECONDS, seconds)] += 1
        self._seconds[name] += seconds
        if error:
            self._errors[name][error] += 1
        if self._publishing is None:
            self._publishing = gevent.spawn_later(PUBLISH_SECONDS, self.publish)

    def document(self) -> DockerCalls:
        """The numbers since this process started."""
        return DockerCalls(operations=tuple(
            DockerOperation(name=name, buckets=tuple(buckets), seconds=round(self._seconds[name], 6),
                            errors=dict(self._errors[name]))
            for name, buckets in sorted(self._buckets.items())
        ))  # fmt: skip

    def publish(self) -> None:
        """Write the document."""
        self._publishing = None
        data = encode(DOCKER_CALLS, self.document())
        try:
            self.store.commit(Change(commands=[("SET", DOCKER_CALLS.key(FACTS_ID), data)]), WRITE_SECONDS)
        except (Temporary, redis.RedisError) as error:
            log.debug("the measurements of Docker are not published: %s", error)


class MeasuredApi(Api):
    """Api whose calls are measured; of a stream, the time until its head."""

    def __init__(self, measurements: Measurements, **more: Any) -> None:
        super().__init__(**more)
        self.measurements = measurements

    def call(self, method: str, path: str, timeout: float, query: Mapping[str, Any] | None = None, body: Any = None,
             version: str = "", headers: Mapping[str, str] | None = None,
             canceller: Canceller | None = None) -> Answer:  # fmt: skip
        """`Api.call`."""
        with self._measured(method, path):
            return super().call(method, path, timeout, query, body, version, headers, canceller)

    def stream(self, method: str, path: str, timeout: float, query: Mapping[str, Any] | None = None,
               headers: Mapping[str, str] | None = None, version: str = "",
               canceller: Canceller | None = None) -> Stream:  # fmt: skip
        """`Api.stream`."""
        with self._measured(method, path):
            return super().stream(method, path, timeout, query, headers, version, canceller)

    @contextmanager
    def _measured(self, method: str, path: str) -> Iterator[None]:
        name, began = operation(method, path), time.monotonic()
        try:
            yield
        except BaseException as error:
            self.measurements.note(name, time.monotonic() - began, reason(error))
            raise
        self.measurements.note(name, time.monotonic() - began)
