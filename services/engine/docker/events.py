"""Docker's event stream: strict order per container, with the inspect that each event calls for (spec 03 §6.12).

One greenlet reads the stream and only sorts; containers are inspected in parallel, each container's events one after
the other, so that a container whose inspect hangs delays no other. The daemon filters: events of foreign containers
and of health probes' exec calls never reach us. After a lost connection the stream is opened again with back-off and
`since`, events seen before are dropped, and a Resync tells the reader to inspect everything.

Inspects are saved where they can say nothing new: while a start or stop call of this process is in flight for the
container, its own inspect that follows serves the event too; and a `stop` right after a `die` sees what `die` saw.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from common.backoff import Backoff
from services.engine.core.effects import DockerEvent, Observation, Resync
from services.engine.docker import names
from services.engine.docker.api import Api, Canceller, DockerCallError
from services.engine.docker.containers import ContainerFailed

log = logging.getLogger(__name__)

RESYNC = Resync()
ACTIONS = ("create", "start", "stop", "die", "restart", "oom", "health_status: unhealthy", "health_status: healthy")
INSPECTED = ("start", "stop", "die", "restart", "health_status: unhealthy", "health_status: healthy")
SHARED_SECONDS = 2.0  # how long an event waits for the inspect of a call in flight
OPEN_SECONDS = 30.0
SEEN_EVENTS = 200
WORKERS = 64  # an event may hold its slot while it waits for a call in flight
TICK_SECONDS = 0.5


class Stopping(Protocol):
    """The process's wish to end."""

    def is_set(self) -> bool:
        """Has it been expressed?"""

    def wait(self, timeout: float | None = None) -> object:
        """Wait for it."""


class Flights:
    """Start and stop calls that are under way, by container id: their inspect serves the events they cause."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[str, _Flight] = {}

    def begin(self, id_: str) -> None:
        """A start or stop call begins."""
        with self._lock:
            self._calls[id_] = _Flight()

    def end(self, id_: str, seen: Observation | None) -> None:
        """It is over; `seen` comes from the inspect made after it."""
        with self._lock:
            flight = self._calls.pop(id_, None)
        if flight is not None:
            flight.seen = seen
            flight.over.set()

    def wait(self, id_: str) -> Observation | None:
        """The inspect of a call in flight, if one is and ends soon."""
        with self._lock:
            flight = self._calls.get(id_)
        if flight is None:
            return None
        flight.over.wait(SHARED_SECONDS)
        return flight.seen


@dataclass
class _Flight:
    over: threading.Event = field(default_factory=threading.Event)
    seen: Observation | None = None


class EventStream:
    """An iterator of DockerEvent and RESYNC. The stream is opened by the constructor, not by the first `next`."""

    def __init__(
        self,
        api: Api,
        inspect: Callable[[str], Observation],
        flights: Flights,
        stopping: Stopping,
    ) -> None:
        self._api, self._inspect, self._flights, self._stopping = api, inspect, flights, stopping
        self._out: queue.SimpleQueue[DockerEvent | Resync] = queue.SimpleQueue()
        self._sorter = _Sorter(self._complete, self._out.put)
        self._canceller, self._closed = Canceller(), threading.Event()
        self._seen: OrderedDict[tuple[int, str, str], None] = OrderedDict()
        self._last_nanos = 0
        self._last_seen: dict[str, Observation] = {}
        threading.Thread(target=self._read, name="docker-events", daemon=True).start()

    def __iter__(self) -> Iterator[DockerEvent | Resync]:
        """Events until `stopping` is set."""
        try:
            while not self._stopping.is_set():
                try:
                    yield self._out.get(timeout=TICK_SECONDS)
                except queue.Empty:
                    continue
        finally:
            self._closed.set()
            self._canceller.cancel()

    # -- reading -----------------------------------------------------------------------------

    def _read(self) -> None:
        backoff, complaint = Backoff(0.1, 2.0, 2.0), ""
        while not self._closed.is_set():
            try:
                self._follow(backoff)
                problem = "it ended"
            except (DockerCallError, ValueError) as error:
                problem = str(error)
            if self._closed.is_set():
                return
            if problem != complaint:
                log.warning("Docker's event stream is lost (%s); opening it again", problem)
            complaint = problem
            self._closed.wait(backoff.delay())

    def _follow(self, backoff: Backoff) -> None:
        filters = {"type": ["container"], "label": [names.TASK_ARN], "event": [*ACTIONS[:6], "health_status"]}
        query: dict[str, Any] = {"filters": json.dumps(filters)}
        if self._last_nanos:
            query["since"] = f"{self._last_nanos // 10**9}.{self._last_nanos % 10**9:09d}"
        stream = self._api.stream("GET", "/events", OPEN_SECONDS, query=query, canceller=self._canceller)
        try:
            self._out.put(RESYNC)
            for message in stream.lines(None, None):
                backoff.reset()
                if isinstance(message, dict):
                    self._take(message)
        finally:
            stream.close()

    def _take(self, message: dict[str, Any]) -> None:
        actor = message.get("Actor") or {}
        id_, action = str(actor.get("ID") or message.get("id") or ""), str(message.get("Action") or "")
        action = action or str(message.get("status") or "")
        if message.get("Type", "container") != "container" or not id_ or action not in ACTIONS:
            return
        nanos = int(message.get("timeNano") or 0) or int(message.get("time") or 0) * 10**9
        key = (nanos, id_, action)
        if key in self._seen:
            return
        self._seen[key] = None
        if len(self._seen) > SEEN_EVENTS:
            self._seen.popitem(last=False)
        self._last_nanos = max(self._last_nanos, nanos)
        code = str((actor.get("Attributes") or {}).get("exitCode") or "")
        event = DockerEvent(
            docker_id=id_,
            action=action,
            exit_code=int(code) if code.lstrip("-").isdigit() else None,
            at=nanos / 1e9,
        )
        self._sorter.put(event)

    # -- completing --------------------------------------------------------------------------

    def _complete(self, event: DockerEvent) -> DockerEvent:
        """The event with what an inspect tells. Runs in order for each container."""
        if event.action not in INSPECTED:
            return event
        id_ = event.docker_id
        seen = self._last_seen.pop(id_, None) if event.action == "stop" else None
        if event.action != "stop":
            self._last_seen.pop(id_, None)
        if seen is None and event.action in ("start", "stop", "die"):
            seen = self._usable(event, self._flights.wait(id_))
        error, gone = None, False
        if seen is None:
            try:
                seen = self._inspect(id_)
            except ContainerFailed as failure:
                error, gone = failure.error, failure.gone
        if event.action == "die" and seen is not None and not seen.running:
            self._remember(id_, seen)
        return DockerEvent(
            docker_id=id_,
            action=event.action,
            exit_code=event.exit_code,
            at=event.at,
            observation=seen,
            # A container that was removed has not failed; its exit code is in the event (spec 03 §6.12).
            error=None if gone else error,
            gone=gone,
        )

    @staticmethod
    def _usable(event: DockerEvent, seen: Observation | None) -> Observation | None:
        """A shared inspect counts only when it shows what the event says."""
        if seen is None or (event.action in ("die", "stop") and seen.running):
            return None
        return seen

    def _remember(self, id_: str, seen: Observation) -> None:
        self._last_seen[id_] = seen
        if len(self._last_seen) > SEEN_EVENTS:
            self._last_seen.pop(next(iter(self._last_seen)))


class _Sorter:
    """Runs `work` for each event, in order per container, in parallel over containers; hands results to `put`."""

    def __init__(self, work: Callable[[DockerEvent], DockerEvent], put: Callable[[DockerEvent], None]) -> None:
        self._work, self._put = work, put
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[DockerEvent]] = {}
        self._slots = threading.Semaphore(WORKERS)

    def put(self, event: DockerEvent) -> None:
        """Take an event; returns at once."""
        with self._lock:
            line = self._waiting.get(event.docker_id)
            if line is not None:
                line.append(event)
                return
            self._waiting[event.docker_id] = deque([event])
        threading.Thread(target=self._drain, args=(event.docker_id,), name="docker-event", daemon=True).start()

    def _drain(self, id_: str) -> None:
        while True:
            with self._lock:
                line = self._waiting[id_]
                if not line:
                    del self._waiting[id_]
                    return
                event = line.popleft()
            with self._slots:
                try:
                    event = self._work(event)
                except Exception:
                    log.exception("the event %s of %s is passed on without details", event.action, id_[:12])
            self._put(event)
