"""The files of cgroup v1 controllers as the numbers that Docker makes of them (spec 07 §17.3).

Block I/O is taken from the files of the proportional scheduler when they say anything, else from the throttling ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from services.telemetry.core.cgroup2 import pairs
from services.telemetry.core.dockerstats import (
    Block,
    BlockEntry,
    CpuUsage,
    Memory,
    Pids,
    Throttling,
    optional,
)
from services.telemetry.core.numbers import MASK
from services.telemetry.core.procfs import TICK

# "<controller>/<file>"
FILES = (
    "cpuacct/cpuacct.usage",
    "memory/memory.usage_in_bytes",
    "memory/memory.stat",
    "blkio/blkio.io_service_bytes_recursive",
    "blkio/blkio.throttle.io_service_bytes",
)
BLOCK_FILES = {
    "io_service_bytes_recursive": "blkio/blkio.io_service_bytes_recursive",
    "io_serviced_recursive": "blkio/blkio.io_serviced_recursive",
    "io_queue_recursive": "blkio/blkio.io_queued_recursive",
    "io_service_time_recursive": "blkio/blkio.io_service_time_recursive",
    "io_wait_time_recursive": "blkio/blkio.io_wait_time_recursive",
    "io_merged_recursive": "blkio/blkio.io_merged_recursive",
    "io_time_recursive": "blkio/blkio.time_recursive",
    "sectors_recursive": "blkio/blkio.sectors_recursive",
}
THROTTLED = "blkio/blkio.throttle.io_serviced"
EXTRA_FILES = (
    "cpuacct/cpuacct.usage_percpu",
    "cpuacct/cpuacct.stat",
    "cpu/cpu.stat",
    "memory/memory.max_usage_in_bytes",
    "memory/memory.failcnt",
    "memory/memory.limit_in_bytes",
    "pids/pids.current",
    "pids/pids.max",
    THROTTLED,
    *(path for name, path in BLOCK_FILES.items() if name != "io_service_bytes_recursive"),
)
MEMORY_KEYS = (
    "cache", "rss", "rss_huge", "mapped_file", "dirty", "writeback", "pgpgin", "pgpgout", "pgfault", "pgmajfault",
    "inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable",
)  # fmt: skip
SHOWN = tuple(sorted((
    *MEMORY_KEYS, *(f"total_{key}" for key in MEMORY_KEYS), "hierarchical_memory_limit", "hierarchical_memsw_limit"
)))  # fmt: skip

_block_line = re.compile(rb"^(\d+):(\d+) (?:([A-Za-z]+) )?(\d+)$", re.MULTILINE)


def cpu_time(usage_ns: bytes) -> int:
    """Nanoseconds of CPU time so far."""
    return int(usage_ns or 0)


def memory_in_use(usage_bytes: bytes, memory_stat: bytes) -> int:
    """Bytes in use without the page cache (its own, not that of cgroups below)."""
    usage = int(usage_bytes or 0)
    if memory_stat.startswith(b"cache "):
        cache = int(memory_stat[6 : memory_stat.index(b"\n")])
    else:
        cache = pairs(memory_stat).get("cache", usage)
    return usage - cache if cache < usage else usage


def storage(recursive: bytes, throttled: bytes) -> tuple[int, int]:
    """Bytes read from and written to block devices."""
    read = written = 0
    for _, _, op, value in _block_line.findall(recursive) or _block_line.findall(throttled):
        if op in (b"Read", b"read"):
            read += int(value)
        elif op in (b"Write", b"write"):
            written += int(value)
    return read & MASK, written & MASK


def pids(extra: Mapping[str, bytes]) -> Pids:
    """pids_stats; no limit is 0 here."""
    most = extra["pids/pids.max"].strip()
    return Pids(optional(int(extra["pids/pids.current"] or 0)), optional(0 if most == b"max" else int(most or 0)))


def cpu(usage_ns: bytes, extra: Mapping[str, bytes]) -> tuple[CpuUsage, Throttling]:
    """What cpu_stats has of the container, from the cpuacct and cpu controllers."""
    ticks, throttling = pairs(extra["cpuacct/cpuacct.stat"]), pairs(extra["cpu/cpu.stat"])
    usage = CpuUsage(
        int(usage_ns or 0),
        optional(tuple(map(int, extra["cpuacct/cpuacct.usage_percpu"].split()))),
        ticks.get("system", 0) * TICK,
        ticks.get("user", 0) * TICK,
    )
    return usage, Throttling(
        throttling.get("nr_periods", 0), throttling.get("nr_throttled", 0), throttling.get("throttled_time", 0)
    )


def memory(usage: bytes, memory_stat: bytes, extra: Mapping[str, bytes], memory_total: int) -> Memory:
    """memory_stats; `memory_total` bounds the limit."""
    most = int(extra["memory/memory.limit_in_bytes"] or 0)
    return Memory(
        usage=optional(int(usage or 0)),
        max_usage=optional(int(extra["memory/memory.max_usage_in_bytes"] or 0)),
        stats=optional(_memory_stats(memory_stat)),
        failcnt=optional(int(extra["memory/memory.failcnt"] or 0)),
        limit=optional(min(most, memory_total or most)),
    )


def _memory_stats(text: bytes) -> dict[str, int]:
    found = pairs(text)
    return {name: found.get(name, 0) for name in SHOWN} if text else {}


def block(files: tuple[bytes, ...], extra: Mapping[str, bytes]) -> Block:
    """blkio_stats; `files` are the last two of FILES."""
    recursive, throttled = files
    if _block_line.search(recursive):
        texts = {name: extra.get(path, recursive) for name, path in BLOCK_FILES.items()}
    else:
        texts = dict.fromkeys(BLOCK_FILES, b"")
        texts["io_service_bytes_recursive"] = throttled
        texts["io_serviced_recursive"] = extra[THROTTLED]
    return Block(**{name: _entries(text) for name, text in texts.items()})


def _entries(text: bytes) -> tuple[BlockEntry, ...]:
    return tuple(
        BlockEntry(int(major), int(minor), op.decode(), int(value))
        for major, minor, op, value in _block_line.findall(text)
    )
