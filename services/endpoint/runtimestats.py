"""The log of runtime statistics that ECS_ENABLE_RUNTIME_STATS asks for: a line at the start and every two minutes.

The reference writes what Go's runtime tells of itself (spec 01 §9.5). The form is the same, `Name=value, ...`, to a
file and to standard output; the names are those of Python's runtime, since a heap of Go has no counterpart here.
Bytes are bytes, times are seconds; collections and their time count from the line before.
"""

from __future__ import annotations

import gc
import logging
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gevent
import greenlet

from common.logfiles import RollingFile
from services.endpoint.audit import to_stdout
from services.endpoint.periodic import Periodic

log = logging.getLogger(__name__)

EVERY_SECONDS = 120.0
KEPT_FILES = 3
STATM = Path("/proc/self/statm")


class RuntimeStats(Periodic):
    """Writes the lines to `sinks`."""

    def __init__(self, sinks: list[Callable[[str], None]]) -> None:
        self.sinks = sinks
        self.began = time.monotonic()
        self._collections, self._collecting, self._entered = 0, 0.0, 0.0

    def start(self) -> None:
        """Begin, and watch the garbage collector."""
        gc.callbacks.append(self._collected)
        super().start()

    def stop(self) -> None:
        """End."""
        if self._collected in gc.callbacks:
            gc.callbacks.remove(self._collected)
        super().stop()

    def _collected(self, phase: str, _info: Mapping[str, Any]) -> None:
        if phase == "start":
            self._entered = time.perf_counter()
        else:
            self._collections += 1
            self._collecting += time.perf_counter() - self._entered

    def turn(self) -> None:
        """A line, and the pause."""
        text = self.line() + "\n"
        gevent.get_hub().threadpool.apply(self._write, (text,))
        gevent.sleep(EVERY_SECONDS)

    def _write(self, text: str) -> None:
        for sink in self.sinks:
            try:
                sink(text)
            except OSError as error:
                log.debug("runtime statistics cannot be written: %s", error)

    def line(self) -> str:
        """The statistics of now."""
        entered = time.perf_counter()
        pages = int(STATM.read_text().split()[1])
        values: dict[str, object] = {
            "Time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "ResidentMemory": pages * resource.getpagesize(),
            "PeakResidentMemory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "AllocatedBlocks": sys.getallocatedblocks(),
            "GarbageCollectionCount": self._collections,
            "GarbageCollectionTime": f"{self._collecting:.6f}s",
            "GreenletCount": sum(isinstance(o, greenlet.greenlet) for o in gc.get_objects()),
            "ThreadCount": threading.active_count(),
            "UpTime": f"{time.monotonic() - self.began:.3f}s",
        }
        self._collections, self._collecting = 0, 0.0
        values["ReadStatsOverhead"] = f"{time.perf_counter() - entered:.6f}s"
        return ", ".join(f"{name}={value}" for name, value in values.items())


def of_config(config: Mapping[str, Any]) -> RuntimeStats | None:
    """The log, or None when it is not asked for."""
    if not config["ECS_ENABLE_RUNTIME_STATS"]:
        return None
    size = int(float(config["ECS_LOG_MAX_FILE_SIZE_MB"])) * 1_000_000
    file = RollingFile(str(config["RuntimeStatsLogFile"]), rollover="size", max_bytes=size, keep=KEPT_FILES)
    return RuntimeStats([file.write, to_stdout])
