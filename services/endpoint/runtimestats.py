"""The log of runtime statistics that ECS_ENABLE_RUNTIME_STATS asks for: a line at the start and every two minutes.

Names, order and form are those of the reference (spec 01 §9.5), so that parsers keep working; each number is that of
Python's runtime which comes nearest. Sizes are bytes of this process. The heap is its anonymous memory: in use is what
is resident, idle is what is mapped and not resident, and the kernel has all of that (released). Mallocs are blocks that
Python's allocator gave out, frees those that came back, both as far as the balance of blocks and the collector tell.
Goroutines are greenlets. Frees, mallocs, collections and their time count from the line before.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gevent
import greenlet

from common.durations import go_duration
from common.host_paths import host_path
from common.logfiles import RollingFile
from services.endpoint.audit import to_stdout
from services.endpoint.periodic import Periodic

log = logging.getLogger(__name__)

EVERY_SECONDS = 120.0
KEPT_FILES = 3
STATUS = Path("/proc/self/status")


class RuntimeStats(Periodic):
    """Writes the lines to `sinks`."""

    def __init__(self, sinks: list[Callable[[str], None]]) -> None:
        self.sinks = sinks
        self.began = time.monotonic()
        self._collections, self._collecting, self._entered = 0, 0.0, 0.0
        self._collected_objects, self._blocks, self._all_collecting = 0, 0, 0.0
        self._told: set[int] = set()  # sinks that have failed, by their place

    def start(self) -> None:
        """Begin, and watch the garbage collector."""
        gc.callbacks.append(self._collected)
        super().start()

    def stop(self) -> None:
        """End."""
        if self._collected in gc.callbacks:
            gc.callbacks.remove(self._collected)
        super().stop()

    def _collected(self, phase: str, info: Mapping[str, Any]) -> None:
        if phase == "start":
            self._entered = time.perf_counter()
        else:
            seconds = time.perf_counter() - self._entered
            self._collections += 1
            self._collected_objects += info.get("collected", 0)
            self._collecting += seconds
            self._all_collecting += seconds

    def turn(self) -> None:
        """A line, and the pause."""
        text = self.line() + "\n"
        gevent.get_hub().threadpool.apply(self._write, (text,))
        gevent.sleep(EVERY_SECONDS)

    def _write(self, text: str) -> None:
        for place, sink in enumerate(self.sinks):
            try:
                sink(text)
            except OSError as error:
                if place not in self._told:
                    log.warning("runtime statistics (RuntimeStatsLogFile) cannot be written: %s; the agent goes on "
                                "without them there", error)  # fmt: skip
                self._told.add(place)

    def line(self) -> str:
        """The statistics of now."""
        entered = time.perf_counter()
        memory = memory_bytes(STATUS.read_text())
        idle = max(0, memory["VmData"] - memory["RssAnon"])
        blocks = sys.getallocatedblocks()
        growth, self._blocks = blocks - self._blocks, blocks
        frees = self._collected_objects + max(0, -growth)
        cpu_seconds = time.process_time()
        values: dict[str, object] = {
            "Time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "FreesCount": frees,
            "HeapMemoryAlloc": memory["RssAnon"],
            "HeapMemoryInUse": memory["RssAnon"],
            "HeapMemoryIdle": idle,
            "HeapMemoryReleased": idle,
            "MallocCount": max(0, frees + growth),
            "StackMemoryInUse": memory["VmStk"],
            "GarbageCollectionCount": self._collections,
            "GarbageCollectionTime": go_duration(self._collecting),
            "GCCPUFraction": f"{self._all_collecting / cpu_seconds if cpu_seconds else 0.0:f}",
            "GoroutineCount": sum(isinstance(o, greenlet.greenlet) for o in gc.get_objects()),
            "UpTime": go_duration(time.monotonic() - self.began),
        }
        self._collections, self._collecting, self._collected_objects = 0, 0.0, 0
        values["ReadMemStatsOverhead"] = go_duration(time.perf_counter() - entered)
        return ", ".join(f"{name}={value}" for name, value in values.items())


def memory_bytes(status: str) -> dict[str, int]:
    """The sizes in /proc/PID/status (proc(5)), which are in kB there; 0 for what the kernel does not tell."""
    found = {"VmData": 0, "VmStk": 0, "RssAnon": 0}
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name in found:
            found[name] = int(value.split()[0]) * 1024
    return found


def of_config(config: Mapping[str, Any]) -> RuntimeStats | None:
    """The log, or None when it is not asked for."""
    if not config["ECS_ENABLE_RUNTIME_STATS"]:
        return None
    path = str(config["RuntimeStatsLogFile"])
    if not os.path.isdir("/log"):  # an agent in a container may have one mounted
        path = host_path(path)
    size = int(float(config["ECS_LOG_MAX_FILE_SIZE_MB"]) * 1_000_000)
    return RuntimeStats([RollingFile(path, rollover="size", max_bytes=size, keep=KEPT_FILES).write, to_stdout])
