"""Where the numbers of a container come from: its cgroup files, or Docker when they cannot be found (spec 07 §4, §17).

A source finds its files when it is first read, loses them when the container ends, and finds them again when the
restart policy has started it anew. Attempts back off like the reference's (1 s to 10 s, never reset). Docker's own
stats are the last resort (`fallback`).
"""

from __future__ import annotations

import logging
import time

import msgspec

from common.backoff import Backoff
from services.telemetry.core.book import TaskEntry, Watched
from services.telemetry.core.dockerstats import DockerStats, aggregate
from services.telemetry.core.numbers import NANOSECONDS
from services.telemetry.core.procfs import HostCpu
from services.telemetry.core.readings import Reader, Reading
from services.telemetry.core.samples import Counters, from_stats, problem
from services.telemetry.dockerd import Daemon
from services.telemetry.fallback import Fallback
from services.telemetry.files import Files, Gone, Host, find_process
from services.telemetry.restarts import Restarts

log = logging.getLogger(__name__)

PAUSES = (1.0, 10.0, 2.0, 0.5)  # after a failed attempt: start and maximum in seconds, multiplier, jitter
MISSES_BEFORE_DOCKER = 1  # looks into the usual places before Docker is asked
CHECK_NANOSECONDS = 10 * NANOSECONDS  # between two looks whether the process is still the one


class Source:
    """The readings of one container. `poll_seconds` is how often Docker's stats are polled; 0 = they are streamed."""

    def __init__(
        self, host: Host, daemon: Daemon, restarts: Restarts, entry: TaskEntry, container: Watched, poll_seconds: float
    ) -> None:
        self.container, self._task_id = container, entry.arn.rsplit("/", 1)[-1]
        self._host, self._daemon, self._restarts = host, daemon, restarts
        self._poll_seconds = poll_seconds
        self._reader = Reader(host.unified, host.cpus, host.memory)
        self._files: Files | None = None
        self._reading: Reading | None = None
        self._checked_at = 0  # nanoseconds since 1970
        self._backoff = Backoff(*PAUSES)
        self._retry_at = 0.0
        self._misses = 0
        self._fallback: Fallback | None = None
        self._identity: tuple[int, int] | None = None  # of the cgroup that was read last
        self.due = 0.0  # monotonic; for polling
        container.restart_seen_at, container.before = restarts.get(container.docker_id)

    @property
    def pid(self) -> int:
        """A process of the container; 0 while it is not found."""
        if self._files is not None:
            return self._files.pid
        return self._fallback.pid if self._fallback is not None else 0

    def close(self) -> None:
        """The container is not watched any more."""
        self._lose()
        if self._fallback is not None:
            self._fallback.stop()

    def _lose(self) -> None:
        if self._files is not None:
            self._files.close()
            self._files = None

    # -- sampling ------------------------------------------------------------------------------

    def sample(self, host_cpu: HostCpu) -> bool:
        """Read the files and store a sample; False when there is nothing to read now."""
        if self._fallback is not None and not self._fallback.ended:
            return False
        if self._files is None and not self._find():
            return False
        files = self._files
        assert files is not None
        try:
            at = time.time_ns()
            if not 0 <= at - self._checked_at < CHECK_NANOSECONDS:
                files.check()
                self._checked_at = at
            reading = Reading(at, files.read(), files.read_network(), host_cpu)
        except Gone as gone:
            log.debug("container %s: %s", self.container.docker_id, gone)
            self._lose()
            self._pause()
            return False
        self._reading = reading
        self.container.queue.append(self._counters(reading, files))
        return True

    def _counters(self, reading: Reading, files: Files) -> Counters:
        if not self.container.restart_policy:
            return self._reader.counters(reading)
        stats = self._keep(self._whole(reading, files))
        return from_stats(stats, self._host.cpus, self._host.unified, self.container.restarts)

    def _whole(self, reading: Reading, files: Files) -> DockerStats:
        extra = self._reader.extra(reading, files.read_extra)
        return self._reader.stats(reading, extra, f"/{self.container.docker_name}", self.container.docker_id)

    def _keep(self, stats: DockerStats) -> DockerStats:
        """Make `stats` the latest of the container: with its predecessor, and totals over restarts."""
        container, last = self.container, self.container.last
        if container.restart_seen_at:
            stats = aggregate(stats, container.before, last)
        elif last is not None:
            stats = msgspec.structs.replace(stats, preread=last.read, precpu_stats=last.cpu_stats)
        container.last = stats
        return stats

    def latest(self) -> DockerStats | None:
        """The whole stats object of the last sample; None before the first one."""
        reading, self._reading = self._reading, None
        if reading is not None and not self.container.restart_policy and self._files is not None:
            self._keep(self._whole(reading, self._files))
        return self.container.last

    # -- finding -------------------------------------------------------------------------------

    def _find(self) -> bool:
        if time.monotonic() < self._retry_at:
            return False
        try:
            pid = find_process(self._host, self.container.docker_id, self._task_id)
            if pid is None:
                raise Gone("its cgroup is in none of the usual places")
            self._open(pid)
        except Gone as gone:
            self._missed(gone)
        return self._files is not None

    def _open(self, pid: int) -> None:
        self._files = Files(self._host, pid, self.container.docker_id, self.container.own_network)
        self._misses = 0
        self._fallback = None
        known, self._identity = self._identity, self._files.identity
        if self.container.restart_policy and known not in (None, self._identity):
            self._restarted()

    def _open_quietly(self, pid: int) -> bool:
        """Whether the files of this process can be read."""
        try:
            self._open(pid)
        except Gone:
            return False
        return True

    def _restarted(self) -> None:
        container = self.container
        container.restart_seen_at = time.time_ns()
        if container.last is not None:  # seen before anything was read: what an earlier run saved still counts
            container.before = container.last
        self._restarts.save(container.docker_id, container.restart_seen_at, container.before)

    def _missed(self, gone: Gone) -> None:
        self._misses += 1
        self._pause()
        if self._misses > MISSES_BEFORE_DOCKER:
            self._misses = 0
            log.debug("container %s: %s; Docker is asked", self.container.docker_id, gone)
            self._fallback = Fallback(
                self._daemon, self.container, self._backoff, self._poll_seconds, self._open_quietly, self._take
            )

    def _pause(self) -> None:
        self._retry_at = time.monotonic() + self._backoff.delay()

    def _take(self, stats: DockerStats, restarted: bool) -> str:
        """A stats object of Docker; answers why it is not used ("" when it is)."""
        host, container = self._host, self.container
        wrong = problem(stats, host.unified, host.cpus)
        if wrong:
            return wrong
        if restarted:
            self._restarted()
        stats = self._keep(stats)
        restarts = container.restarts if container.restart_policy else None
        container.queue.append(from_stats(stats, host.cpus, host.unified, restarts))
        return ""
