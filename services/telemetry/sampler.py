"""Takes the samples, once a second for all containers (spec 07 §4, §17).

One loop with fixed deadlines; a round that took longer than its second is followed by the next whole second, never by
two at once. With ECS_POLL_METRICS each container has its own times instead, spread over the interval as the reference
spreads its polls. Networks of awsvpc tasks are read in their namespaces at ECS_POLLING_METRICS_WAIT_DURATION, the first
time one such period after the pause container was seen. Nothing here waits for Redis or Docker.

Measured with idle containers, cgroup v1: 21 us of CPU per container and round with warm caches (7 reading memory.stat,
4 the network table, 3 the other files, 7 parsing and storing), 45 with those of a process that slept a second between.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import gevent
import gevent.event

from common.backoff import Backoff
from services.telemetry import netns
from services.telemetry.core.book import Book, Difference, Network, TaskEntry
from services.telemetry.core.dockerstats import Interface
from services.telemetry.core.samples import POLL_SPREAD, Counters, Net
from services.telemetry.dockerd import Daemon
from services.telemetry.files import Host
from services.telemetry.restarts import Restarts
from services.telemetry.source import PAUSES, Source

log = logging.getLogger(__name__)

SAMPLE_SECONDS = 1.0


class Sampler:
    """Samples every container of the book. `interval_seconds` is that of polling, `network_seconds` that of awsvpc."""

    def __init__(
        self, book: Book, host: Host, daemon: Daemon, restarts: Restarts, polling: bool, interval_seconds: float
    ) -> None:
        self.book, self.host = book, host
        self._daemon, self._restarts = daemon, restarts
        self._polling, self._interval = polling, interval_seconds
        self.sources: dict[str, Source] = {}  # by Docker id
        self._networks: dict[str, Due] = {}  # by task ARN
        self._reading: dict[str, gevent.Greenlet] = {}

    def follow(self, entry: TaskEntry | None, difference: Difference) -> None:
        """The book changed: open and close sources."""
        for container in difference.removed:
            source = self.sources.pop(container.docker_id, None)
            if source is not None:
                source.close()
            self._restarts.forget(container.docker_id)
        for container in difference.added if entry else ():
            if container.sampled and entry is not None:
                self.sources[container.docker_id] = Source(
                    self.host, self._daemon, self._restarts, entry, container, self._interval if self._polling else 0.0
                )
        if entry is not None and entry.network is not None:
            self._networks.setdefault(entry.arn, Due(time.monotonic() + self._interval))

    def run(self, stopping: gevent.event.Event, after: Callable[[], None]) -> None:
        """Sample until `stopping`; `after` is called after each round."""
        due = time.monotonic()
        while not stopping.is_set():
            self.round()
            after()
            due = max(due + SAMPLE_SECONDS, time.monotonic() + 0.01)
            stopping.wait(due - time.monotonic())

    def round(self) -> None:
        """One sample of everything that is due."""
        now = time.monotonic()
        if self.sources:
            host_cpu = self.host.cpu()
            for source in list(self.sources.values()):
                if not self._polling:
                    source.sample(host_cpu)
                elif now >= source.due:
                    source.due = self._after_poll(source.due, now) if source.sample(host_cpu) else 0.0
        self._read_networks(now)

    def _after_poll(self, due: float, now: float) -> float:
        """When the next poll is due: the first is followed by a random pause, then each by the interval."""
        if not due:
            return now + (1 + random.uniform(0, POLL_SPREAD)) * self._interval
        return max(due + self._interval, now)

    def close(self) -> None:
        """Close all files."""
        for source in self.sources.values():
            source.close()
        self.sources.clear()

    # -- awsvpc --------------------------------------------------------------------------------

    def _read_networks(self, now: float) -> None:
        for arn, due in list(self._networks.items()):
            entry = self.book.tasks.get(arn)
            if entry is None or entry.network is None:
                del self._networks[arn]
            elif now >= due.at and arn not in self._reading:
                due.at = max(due.at + self._interval, now)
                pause = entry.pause()
                source = self.sources.get(pause.docker_id) if pause else None
                if source is not None and source.pid and entry.container_count > 0:
                    self._reading[arn] = gevent.spawn(self._read_network, arn, entry.network, source.pid, due)

    def _read_network(self, arn: str, network: Network, pid: int, due: Due) -> None:
        try:
            at = time.time_ns()
            network.interfaces = netns.interfaces(pid)
            network.queue.append(Counters(at, net=total(network.interfaces)))
        except OSError as error:
            due.at = time.monotonic() + due.backoff.delay() + self._interval  # the period begins anew
            log.warning("the network counters of task %s cannot be read: %s", arn, error)
        finally:
            self._reading.pop(arn, None)


@dataclass
class Due:
    """When the network of a task is read next (monotonic seconds), and the pauses after failures (spec 07 §4.4)."""

    at: float
    backoff: Backoff = field(default_factory=lambda: Backoff(*PAUSES))


def total(interfaces: dict[str, Interface]) -> Net:
    """All interfaces added up; zeros when there is none."""
    rows = [tuple(getattr(i, name) for name in i.__struct_fields__) for i in interfaces.values()]
    return tuple(map(sum, zip(*rows, strict=True))) if rows else (0,) * 8  # type: ignore[return-value]
