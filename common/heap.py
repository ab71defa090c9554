"""A process that comes to rest after work gives back the memory that the work took.

A burst of tasks leaves reference cycles and lists of free objects, which Python keeps until a full collection, and free
pages in the middle of the C heap, which only malloc_trim(3) returns. So it is done when a busy process is quiet again:
one that stays quiet pays nothing, and one that stays busy is not disturbed. It takes about 10 ms, most of that for the
collection of what the process made itself; what it got by fork is frozen (common/tree/nursery.py).
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable

QUIET_SHARE = 0.005  # of a core
WORTH_SECONDS = 0.1  # of CPU time; less work than this leaves little


def give_back() -> None:
    """Collect garbage, and return the free pages of the C heap to the kernel."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
    if trim is not None:
        trim(0)


class AfterWork:
    """Looks every now and then at how much the process did, and does `do` once it rests."""

    def __init__(
        self, do: Callable[[], object] = give_back, cpu_seconds: Callable[[], float] = time.process_time
    ) -> None:
        self._do, self._cpu_seconds = do, cpu_seconds
        self._worked_seconds = WORTH_SECONDS  # the start was work
        self._cpu_at = cpu_seconds()

    def look(self, passed_seconds: float) -> None:
        """Tell work from rest by the CPU time of the `passed_seconds` since the last look."""
        now = self._cpu_seconds()
        used, self._cpu_at = now - self._cpu_at, now
        if used > QUIET_SHARE * passed_seconds:
            self._worked_seconds += used
        elif self._worked_seconds >= WORTH_SECONDS:
            self._worked_seconds = 0.0
            self._do()
