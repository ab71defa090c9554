"""Commits that must not be lost, by writers who can wait: for a Redis that is away, and for one that refuses to write.

A store's `commit` waits for an absent Redis itself. An answer that refuses (a full disk, mostly) comes at once, and
what it was about is in this process's memory only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

import redis

from common.backoff import Backoff
from common.bus import Change
from common.errors import Temporary

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS, PAUSE_FACTOR = 0.5, 10.0, 2.0


class Commits(Protocol):
    """The part of common.bus.Store that is used here."""

    def commit(self, change: Change) -> object:
        """Apply a change as a whole."""


def commit(store: Commits, change: Change, stopping: Callable[[], bool]) -> None:
    """Commit `change`, however long it takes. Raises Temporary when the process is to stop first."""
    backoff = Backoff(FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS, PAUSE_FACTOR)
    while True:
        try:
            store.commit(change)
            return
        except redis.ResponseError as error:
            log.error("Redis refuses to save (%s); tried again until it does. Is the disk full?", error)
            if stopping():
                raise Temporary(f"Redis refuses to save: {error}") from error
            time.sleep(backoff.delay())
