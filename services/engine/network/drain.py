"""Draining a Service Connect proxy before its task stops (spec 04 §11.2).

The proxy is told to refuse new connections from outside before the first container of the task is stopped, whichever
that is; stops of the same task wait for each other here. A proxy that does not answer keeps nothing from stopping.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gevent.lock import RLock

from common import unixhttp
from common.model.task import Task
from common.serviceconnect import STATE, admin_socket, proxy_of

log = logging.getLogger(__name__)

REQUEST = "/drain_listeners?inboundonly"
ATTEMPTS, PAUSE_SECONDS, ANSWER_SECONDS = 3, 1.0, 2.0
LONGEST_ANSWER = 64 * 1024  # bytes


class Drains:
    """Which tasks have been drained. `state` is where the sockets are.

    Kept in memory only: an engine that is restarted in the middle of a stop drains again, which changes nothing.
    """

    def __init__(
        self,
        state: str = STATE,
        pause: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state, self._pause, self._clock = state, pause, clock
        self._locks: dict[str, RLock] = {}
        self._drained: set[str] = set()
        self._tried_at: dict[str, float] = {}

    def before_stop(self, task: Task) -> None:
        """Drain the task's proxy, if it has one that runs, once. Never raises.

        A failure is for all stops that came meanwhile: they do not try one after the other.
        """
        proxy, came_at = proxy_of(task), self._clock()
        if proxy is None or not proxy.known.is_running:
            return  # it never came so far, or has ended
        with self._locks.setdefault(task.arn, RLock()):
            if task.arn in self._drained or self._tried_at.get(task.arn, float("-inf")) >= came_at:
                return
            if self._drain(task):
                self._drained.add(task.arn)
            self._tried_at[task.arn] = self._clock()

    def forget(self, task: Task) -> None:
        """The task is cleaned up."""
        self._drained.discard(task.arn)
        self._locks.pop(task.arn, None)
        self._tried_at.pop(task.arn, None)

    def _drain(self, task: Task) -> bool:
        path = admin_socket(task.id, self._state)
        for attempt in range(ATTEMPTS):
            if attempt:
                self._pause(PAUSE_SECONDS)
            try:
                status, _ = unixhttp.get(path, REQUEST, ANSWER_SECONDS, LONGEST_ANSWER)
            except OSError as error:
                failure = error
                continue
            log.info("the Service Connect proxy of task %s drains (status %d)", task.id, status)
            return True
        log.warning("the Service Connect proxy of task %s is not drained: %s: %s", task.id, path, failure)
        return False
