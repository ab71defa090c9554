"""Where the numbers of a container come from: its cgroup files, or Docker when they cannot be found (spec 07 §4, §17).

A source finds its files when it is first read, loses them when the container ends, and finds them again when the
restart policy has started it anew. Attempts back off like the reference's (1 s to 10 s, never reset). Docker's own
stats are the last resort and are fetched one at a time in the background, because each takes dockerd a second or two.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping
from typing import NamedTuple

import gevent
import gevent.lock
import msgspec

from common import logs
from common.backoff import Backoff
from common.errors import Temporary
from services.telemetry.core import cgroup1, cgroup2
from services.telemetry.core.book import TaskEntry, Watched
from services.telemetry.core.dockerstats import DockerStats, aggregate, from_docker, optional
from services.telemetry.core.procfs import HostCpu
from services.telemetry.core.samples import Counters, from_stats, problem
from services.telemetry.dockerd import Daemon
from services.telemetry.files import Files, Gone, Host, find_process
from services.telemetry.restarts import Restarts

log = logging.getLogger(__name__)

MISSES_BEFORE_DOCKER = 2  # tries among the usual places before Docker is asked
FALLBACK_SECONDS = 5.0  # between two stats of one container through Docker
_docker_calls = gevent.lock.BoundedSemaphore(2)


class Reading(NamedTuple):
    """The raw contents of one moment; turned into a Docker stats object when somebody asks."""

    at: int  # nanoseconds since 1970
    files: tuple[bytes, ...]
    net_dev: bytes
    host: HostCpu


class Source:
    """The readings of one container."""

    def __init__(self, host: Host, daemon: Daemon, restarts: Restarts, entry: TaskEntry, container: Watched) -> None:
        self.container, self._task_id = container, entry.arn.rsplit("/", 1)[-1]
        self._host, self._daemon, self._restarts = host, daemon, restarts
        self._form = cgroup2 if host.unified else cgroup1
        self._files: Files | None = None
        self._reading: Reading | None = None
        self._backoff = Backoff(1.0, 10.0, 2.0, 0.5)
        self._retry_at = 0.0
        self._misses = 0
        self._fallback: gevent.Greenlet | None = None
        self._identity: tuple[int, int] | None = None  # of the cgroup that was read last
        self.due = 0.0  # monotonic; for polling
        container.restart_seen_at, container.before = restarts.get(container.docker_id)

    @property
    def pid(self) -> int:
        """A process of the container; 0 while it is not found."""
        return self._files.pid if self._files else 0

    def close(self) -> None:
        """The container is not watched any more."""
        if self._files is not None:
            self._files.close()
            self._files = None
        if self._fallback is not None:
            self._fallback.kill(block=False)

    # -- sampling ------------------------------------------------------------------------------

    def sample(self, host_cpu: HostCpu) -> bool:
        """Read the files and store a sample; False when there is nothing to read now."""
        if self._fallback is not None or not (self._files or self._find()):
            return False
        files = self._files
        assert files is not None
        try:
            reading = Reading(time.time_ns(), files.read(), files.read_network(), host_cpu)
            extra = files.read_extra() if self.container.restart_policy else None
        except Gone as gone:
            log.debug("container %s: %s", self.container.docker_id, gone)
            files.close()
            self._files = None
            self._pause()
            return False
        self._reading = reading
        self.container.queue.append(self._counters(reading, extra))
        return True

    def _counters(self, reading: Reading, extra: Mapping[str, bytes] | None) -> Counters:
        if extra is None:
            return self._form.quick(reading.at, reading.files, reading.net_dev, self._host.cpus)
        stats = self._keep(self._full(reading, extra))
        return from_stats(stats, self._host.cpus, self._host.unified, self.container.restarts)

    def _full(self, reading: Reading, extra: Mapping[str, bytes]) -> DockerStats:
        return self._form.full(reading.at, reading.files, extra, reading.net_dev, reading.host, self._host.memory)

    def _keep(self, stats: DockerStats) -> DockerStats:
        """Make `stats` the latest of the container: named, with its predecessor, totals over restarts."""
        container, last = self.container, self.container.last
        stats = msgspec.structs.replace(stats, name=f"/{container.docker_name}", id=container.docker_id)
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
            self._keep(self._full(reading, self._files.read_extra()))
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
        self._files = Files(self._host, pid, self.container.own_network)
        self._misses = 0
        known, self._identity = self._identity, self._files.identity
        if self.container.restart_policy and known not in (None, self._identity):
            self._restarted()

    def _restarted(self) -> None:
        container = self.container
        container.restart_seen_at, container.before = time.time_ns(), container.last
        self._restarts.save(container.docker_id, container.restart_seen_at, container.before)

    def _missed(self, gone: Gone) -> None:
        self._misses += 1
        self._pause()
        if self._misses > MISSES_BEFORE_DOCKER and self._fallback is None:
            log.debug("container %s: %s; Docker is asked", self.container.docker_id, gone)
            self._fallback = gevent.spawn(self._through_docker)

    def _pause(self) -> None:
        self._retry_at = time.monotonic() + self._backoff.delay()

    # -- Docker as the last resort -------------------------------------------------------------

    def _through_docker(self) -> None:
        """Ask Docker for the process; when even that has no readable files, take Docker's stats from now on."""
        told = False
        while True:
            try:
                with _docker_calls:
                    pid = self._daemon.process_of(self.container.docker_id)
                if pid and self._reopen(pid):
                    self._fallback = None
                    return
                if pid:
                    if not told:
                        told = True
                        log.warning("the cgroup of a container is not readable here; Docker's stats are used instead",
                                    **logs.fields(dockerId=self.container.docker_id, pid=pid))  # fmt: skip
                    self._take(self._docker_stats())
            except (Temporary, msgspec.DecodeError) as error:
                log.debug("no stats of container %s: %s", self.container.docker_id, error)
                gevent.sleep(self._backoff.delay())
            gevent.sleep(FALLBACK_SECONDS * random.uniform(0.8, 1.2))

    def _reopen(self, pid: int) -> bool:
        try:
            self._open(pid)
        except Gone:
            return False
        return True

    def _docker_stats(self) -> DockerStats:
        with _docker_calls:
            stats = from_docker(self._daemon.stats(self.container.docker_id))
        wrong = problem(stats, self._host.unified, self._host.cpus)
        if wrong:
            raise Temporary(wrong)
        return stats

    def _take(self, stats: DockerStats) -> None:
        last = self.container.last
        if last is not None and self.container.restart_policy and _total(stats) < _own_total(last, self.container):
            self._restarted()
        stats = self._keep(msgspec.structs.replace(stats, networks=optional(stats.networks)))
        restarts = self.container.restarts if self.container.restart_policy else None
        self.container.queue.append(from_stats(stats, self._host.cpus, self._host.unified, restarts))


def _total(stats: DockerStats) -> int:
    return stats.cpu_stats.cpu_usage.total_usage


def _own_total(last: DockerStats, container: Watched) -> int:
    """The CPU counter of the current run, without what earlier runs added."""
    return _total(last) - (_total(container.before) if container.before else 0)
