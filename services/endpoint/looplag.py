"""Stalls of the event loop: a greenlet sleeps for a known time and notes how much too late it wakes.

All requests of a process share one loop; what blocks it delays all of them. A stall of SAMPLE_SECONDS or more is always
seen, shortened by that time at most; of shorter ones a share is seen that grows with their length. Each sample costs
up to 0.2 ms of CPU time, which is why they are not closer: the agent has to be silent when nothing happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent

from services.endpoint.periodic import Periodic

SAMPLE_SECONDS = 0.5
STALL_SECONDS = 0.05  # later than this is a stall; below, it is the scheduler of a busy machine


class LoopLag(Periodic):
    """Counts the stalls of this process."""

    def __init__(self, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = gevent.sleep,
                 sample_seconds: float = SAMPLE_SECONDS) -> None:  # fmt: skip
        self.sample_seconds = sample_seconds
        self.stalls = 0
        self.seconds = 0.0
        self.longest_seconds = 0.0
        self._now, self._sleep = now, sleep

    def turn(self) -> None:
        """Sleep once, and note a late awakening."""
        due = self._now() + self.sample_seconds
        self._sleep(self.sample_seconds)
        late = self._now() - due
        if late >= STALL_SECONDS:
            self.stalls += 1
            self.seconds += late
            self.longest_seconds = max(self.longest_seconds, late)
