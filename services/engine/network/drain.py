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


class Drains:
    """Which tasks have been drained. `state` is where the sockets are."""

    def __init__(self, state: str = STATE, pause: Callable[[float], object] = time.sleep) -> None:
        self._state, self._pause = state, pause
        self._locks: dict[str, RLock] = {}
        self._drained: set[str] = set()

    def before_stop(self, task: Task) -> None:
        """Drain the task's proxy, if it has one that runs, once. Never raises."""
        proxy = proxy_of(task)
        if proxy is None:
            return
        if not proxy.known.is_running:
            return  # it never came so far, or has ended
        with self._locks.setdefault(task.arn, RLock()):
            if task.arn not in self._drained and self._drain(task):
                self._drained.add(task.arn)

    def forget(self, task: Task) -> None:
        """The task is cleaned up."""
        self._drained.discard(task.arn)
        self._locks.pop(task.arn, None)

    def _drain(self, task: Task) -> bool:
        path = admin_socket(task.id, self._state)
        for attempt in range(ATTEMPTS):
            if attempt:
                self._pause(PAUSE_SECONDS)
            try:
                status, _ = unixhttp.get(path, REQUEST, ANSWER_SECONDS)
            except OSError as error:
                failure = error
                continue
            log.info("the Service Connect proxy of task %s drains (status %d)", task.id, status)
            return True
        log.warning("the Service Connect proxy of task %s is not drained: %s: %s", task.id, path, failure)
        return False
