"""Time as a value that tests can move.

Everything that waits or compares times takes a Clock, so that a test of "72 hours later" takes milliseconds.
Wall-clock times are float Unix seconds (UTC); durations are float seconds.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What a decision may ask about time."""

    def now(self) -> float:
        """Wall clock, Unix seconds."""

    def monotonic(self) -> float:
        """Seconds since some fixed point; for measuring durations."""

    def booted_at(self) -> float:
        """When this machine was started, Unix seconds by today's clock; 0 when that cannot be told."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def booted_at(self) -> float:
        try:
            return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        except (AttributeError, OSError):  # Linux alone has that clock
            return 0.0


class VirtualClock:
    """A clock that moves only when told to."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = start
        self._elapsed = 0.0
        self._booted_at = 0.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    def booted_at(self) -> float:
        return self._booted_at

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self._now += seconds
        self._elapsed += seconds
