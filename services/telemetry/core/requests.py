"""The requests of one publish, as JSON (spec 07 §12.3, §13, §14).

A request holds at most ten tasks and, with the tasks whose size is known before, at most 1 MiB of inner JSON; a task
with Service Connect data may be spread over several. Tasks are encoded once and their lengths added up, so the cost
is linear; the outcome is that of measuring every candidate request.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from services.telemetry.core.numbers import encode, epoch

TASKS_PER_REQUEST = 10
LIMIT = 1024 * 1024  # bytes of the inner request
METRICS, HEALTH, STATUS = "PublishMetricsRequest", "PublishHealthRequest", "PublishInstanceStatusRequest"


@dataclass(frozen=True)
class Sender:
    """Who speaks: cluster as configured, and the ARN of the container instance."""

    cluster: str
    instance: str


def envelope(kind: str, inner: bytes) -> bytes:
    """The message as it is signed and sent."""
    return b'{"type":"' + kind.encode() + b'","message":' + inner + b"}"


def _request(metadata: dict[str, Any], member: bytes, items: Iterable[bytes], at: float) -> bytes:
    listed = b",".join(items)
    body = b',"' + member + b'":[' + listed + b"]" if listed else b""
    return b'{"metadata":' + encode(metadata) + body + b',"timestamp":' + encode(epoch(at)) + b"}"


@dataclass(frozen=True)
class _Part:
    """A task of a metrics request, in pieces: what stands before and after its Service Connect data."""

    containers: bytes
    wrappers: tuple[bytes, ...]
    tail: bytes

    def encoded(self) -> bytes:
        listed = b",".join(self.wrappers)
        wrapped = b'"serviceConnectMetricsWrapper":[' + listed + b"]" if listed else b""
        return b"{" + b",".join(piece for piece in (self.containers, wrapped, self.tail) if piece) + b"}"


def _split_task(task: dict[str, Any]) -> tuple[_Part, list[bytes]]:
    head = {k: v for k, v in task.items() if k in ("clusterArn", "containerMetrics", "ephemeralStorageMetrics")}
    tail = {k: v for k, v in task.items() if k not in head and k != "serviceConnectMetricsWrapper"}
    part = _Part(encode(head)[1:-1], (), encode(tail)[1:-1])
    return part, [encode(w) for w in task.get("serviceConnectMetricsWrapper") or ()]


class _Splitter:
    """Collects tasks and tells when the request that they make would be too large."""

    def __init__(self, build: Callable[[bool, list[bytes]], bytes], limit: int) -> None:
        self._build, self._limit = build, limit
        self._empty = len(build(False, []))
        self._one = len(build(False, [b"x"])) - 1  # with the list's brackets
        self.pending: list[bytes] = []
        self._length = 0

    def too_large(self, item: bytes | int) -> bool:
        """Whether the request with `item` (or one of that length) added exceeds the limit."""
        length = item if isinstance(item, int) else len(item)
        return self._one + self._length + len(self.pending) + length > self._limit

    def add(self, item: bytes) -> None:
        """Put a task into the current request."""
        self.pending.append(item)
        self._length += len(item)

    def emit(self, fin: bool) -> bytes:
        """Close the current request."""
        request = self._build(fin, self.pending)
        self.pending, self._length = [], 0
        return request


def metrics_requests(
    sender: Sender, message_id: str, tasks: list[dict[str, Any]], at: float, idle: bool = False, limit: int = LIMIT
) -> Iterator[bytes]:
    """The inner requests of one publish of metrics; all share `message_id`, the last one has fin."""

    def build(fin: bool, items: list[bytes]) -> bytes:
        metadata = {"cluster": sender.cluster, "containerInstance": sender.instance, "fin": fin, "idle": idle}
        return _request(metadata | {"messageId": message_id}, b"taskMetrics", items, at)

    if idle:
        yield build(True, [])
        return
    splitter = _Splitter(build, limit)
    for index, task in enumerate(tasks):
        part, wrapped = _split_task(task)
        if splitter.too_large(part.encoded()):
            yield splitter.emit(False)
        if wrapped:
            part = yield from _spread(splitter, part, wrapped)
        splitter.add(part.encoded())
        if len(splitter.pending) % TASKS_PER_REQUEST == 0:
            yield splitter.emit(index == len(tasks) - 1)
    if splitter.pending:
        yield splitter.emit(True)


def _spread(splitter: _Splitter, part: _Part, wrapped: list[bytes]) -> Generator[bytes, None, _Part]:
    """Give `part` as much Service Connect data as fits, request after request; returns the part that is left over."""
    taken: list[bytes] = []
    bare = len(part.encoded())
    frame = len(b'"serviceConnectMetricsWrapper":[],')
    length = 0
    for wrapper in wrapped:
        candidate = bare + frame + length + len(taken) + len(wrapper)
        if splitter.too_large(candidate):
            splitter.add(_Part(part.containers, tuple(taken), part.tail).encoded())
            yield splitter.emit(False)
            part = _Part(b"", (), part.tail)  # container metrics go out once per task
            bare, taken, length = len(part.encoded()), [], 0
        taken.append(wrapper)
        length += len(wrapper)
    return _Part(part.containers, tuple(taken), part.tail)


def health_requests(sender: Sender, message_id: str, tasks: list[dict[str, Any]], at: float) -> Iterator[bytes]:
    """The inner requests of one publish of health: ten tasks each, fin in the last; none without tasks."""
    encoded = [encode(task) for task in tasks]
    for start in range(0, len(encoded), TASKS_PER_REQUEST):
        metadata = {
            "cluster": sender.cluster,
            "containerInstance": sender.instance,
            "fin": start + TASKS_PER_REQUEST >= len(encoded),
            "messageId": message_id,
        }
        yield _request(metadata, b"tasks", encoded[start : start + TASKS_PER_REQUEST], at)


def status_request(sender: Sender, request_id: str, statuses: list[dict[str, Any]], at: float) -> bytes:
    """The inner PublishInstanceStatusRequest."""
    metadata = {"cluster": sender.cluster, "containerInstance": sender.instance, "requestId": request_id}
    return _request(metadata, b"statuses", [encode(s) for s in statuses], at)
