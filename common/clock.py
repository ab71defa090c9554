"""Time as a value that tests can move.

Everything that waits or compares times takes a Clock, so that a test of "72 hours later" takes milliseconds.
Wall-clock times are float Unix seconds (UTC); durations are float seconds.
"""

from __future__ import annotations

import time
from typing import Protocol

BOOT_ID = "/proc/sys/kernel/random/boot_id"


def boot_id(path: str = BOOT_ID) -> str:
    """Another text after each start of the machine, whatever its clock says; "" where that cannot be told."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


class Clock(Protocol):
    """What a decision may ask about time."""

    def now(self) -> float:
        """Wall clock, Unix seconds."""

    def monotonic(self) -> float:
        """Seconds since some fixed point; for measuring durations."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class VirtualClock:
    """A clock that moves only when told to."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = start
        self._elapsed = 0.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self._now += seconds
        self._elapsed += seconds
