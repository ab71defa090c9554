"""Docker's own stats of one container, for as long as its files cannot be read here (spec 07 §4.1, §4.2).

First Docker is asked for the container's process: with it the files are often found after all, and the fallback ends.
Otherwise the stats are streamed, or polled when ECS_POLL_METRICS is on. An attempt that fails is followed by the next
after a pause, as in the reference. A container that does not run ends the fallback: it is looked for anew.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

import gevent
import gevent.lock
import msgspec

from common import logs
from common.backoff import Backoff
from common.errors import Temporary
from services.telemetry.core.book import Watched
from services.telemetry.core.dockerstats import DockerStats, from_docker, optional
from services.telemetry.core.samples import POLL_SPREAD
from services.telemetry.dockerd import Daemon, State

log = logging.getLogger(__name__)

CALLS_AT_ONCE = 8  # a poll takes dockerd up to two seconds
_docker_calls = gevent.lock.BoundedSemaphore(CALLS_AT_ONCE)


def poll_pauses(interval: float, spread: float, now: Callable[[], float]) -> Iterator[float]:
    """Seconds to wait before each poll but the first; `spread` intervals more before the second (spec 07 §4.2).

    A tick is a point in time: a poll that takes longer than the interval is followed by the next at once.
    """
    due = now() + spread * interval
    while True:
        due = max(due + interval, now())
        yield due - now()


class Fallback:
    """Asks Docker about one container, in a greenlet of its own.

    `open_files(pid)` tells whether the files of that process can be read here. `take(stats, restarted)` stores a sample
    and answers why it cannot ("" when it can). `poll_seconds` is 0 for a stream.
    """

    def __init__(
        self, daemon: Daemon, container: Watched, backoff: Backoff, poll_seconds: float,
        open_files: Callable[[int], bool], take: Callable[[DockerStats, bool], str],
    ) -> None:  # fmt: skip
        self._daemon, self._container, self._backoff, self._poll_seconds = daemon, container, backoff, poll_seconds
        self._open_files, self._take = open_files, take
        self._started_at = ""  # of the run whose samples were taken
        self._told = False
        self.pid = 0  # of the container's process
        self._greenlet = gevent.spawn(self._run)

    @property
    def ended(self) -> bool:
        """The container's files were found, or it does not run."""
        return bool(self._greenlet.dead)

    def stop(self) -> None:
        """The container is not watched any more."""
        self._greenlet.kill(block=False)

    def _run(self) -> None:
        while True:
            taken = 0
            try:
                with _docker_calls:
                    state = self._daemon.state_of(self._container.docker_id)
                self.pid = state.pid
                if not state.pid or self._open_files(state.pid):
                    return
                self._tell(state)
                with closing(self._objects()) as objects:
                    for data in objects:
                        self._accept(data)
                        taken += 1
            except (Temporary, msgspec.DecodeError) as error:
                log.debug("no stats of container %s: %s", self._container.docker_id, error)
                taken = 0
            if not taken:  # a stream that ended in good order is opened again at once
                gevent.sleep(self._backoff.delay())

    def _tell(self, state: State) -> None:
        if not self._told:
            self._told = True
            log.warning("the cgroup of a container is not readable here; Docker's stats are used instead",
                        **logs.fields(dockerId=self._container.docker_id, pid=state.pid))  # fmt: skip

    def _objects(self) -> Generator[bytes]:
        if not self._poll_seconds:
            yield from self._daemon.stream(self._container.docker_id)
            return
        yield self._poll()
        for pause in poll_pauses(self._poll_seconds, random.uniform(0, POLL_SPREAD), time.monotonic):
            gevent.sleep(pause)
            yield self._poll()

    def _poll(self) -> bytes:
        with _docker_calls:
            return self._daemon.stats(self._container.docker_id)

    def _accept(self, data: bytes) -> None:
        stats = from_docker(data)
        wrong = self._take(msgspec.structs.replace(stats, networks=optional(stats.networks)), self._restarted())
        if wrong:
            raise Temporary(wrong)

    def _restarted(self) -> bool:
        """Whether the restart policy started the container again since the last sample."""
        if not self._container.restart_policy:
            return False
        known = self._started_at
        with contextlib.suppress(Temporary):  # not seen now, so at the next sample
            self._started_at = self._daemon.state_of(self._container.docker_id).started_at
        return bool(known) and known != self._started_at
