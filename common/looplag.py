"""Stalls of the event loop: how long it was away from its descriptors and timers.

Everything in a process shares one loop; what blocks it delays all. The loop tells when it comes back from waiting
(libev's check watcher) and when it goes to wait again (prepare); the time between is what ran meanwhile, so every stall
is seen, at its whole length, and a process that rests is not woken for it. Both calls together cost 1 us a turn.

Work before the loop turned for the first time is no stall: nobody waits for a program that is starting.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent

from common.readiness import Stalls

STALL_SECONDS = 0.05  # longer than this is a stall; below, it is the scheduler of a busy machine
LAST = -2  # libev's lowest priority: after gevent's own watcher, which runs the greenlets


class LoopLag:
    """Counts the stalls of the loop of this thread."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.stalls = Stalls()
        self._now = now
        self._woke_at: float | None = None
        loop = gevent.get_hub().loop
        self._check, self._prepare = loop.check(ref=False), loop.prepare(ref=False, priority=LAST)

    def start(self) -> None:
        """Begin."""
        self._check.start(self.woke)
        self._prepare.start(self.rests)

    def stop(self) -> None:
        """End; what was noted stays."""
        for watcher in (self._check, self._prepare):
            watcher.stop()
            watcher.close()

    def woke(self) -> None:
        """The loop has waited; now it does what there is to do."""
        self._woke_at = self._now()

    def rests(self) -> None:
        """Nothing is left to do until something happens."""
        if self._woke_at is None:
            return
        away = self._now() - self._woke_at
        if away >= STALL_SECONDS:
            number, seconds, longest = self.stalls
            self.stalls = Stalls(number + 1, seconds + away, max(longest, away))
