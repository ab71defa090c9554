"""The files of cgroup v1 controllers as the numbers that Docker makes of them (spec 07 §17.3).

Block I/O is taken from the files of the proportional scheduler when they say anything, else from the throttling ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from services.telemetry.core.cgroup2 import pairs
from services.telemetry.core.dockerstats import (
    Block,
    BlockEntry,
    Cpu,
    CpuUsage,
    DockerStats,
    Memory,
    Pids,
    Throttling,
    optional,
)
from services.telemetry.core.numbers import MASK, format_time
from services.telemetry.core.procfs import TICK, HostCpu, interfaces, network
from services.telemetry.core.samples import Counters

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


def quick(at: int, files: tuple[bytes, ...], net_dev: bytes, cpus: int) -> Counters:
    """The counters of one reading; `files` are the contents of FILES (empty = missing = 0)."""
    usage_ns, usage_bytes, memory_stat, recursive, throttled = files
    usage = int(usage_bytes or 0)
    if memory_stat.startswith(b"cache "):
        cache = int(memory_stat[6 : memory_stat.index(b"\n")])
    else:
        cache = pairs(memory_stat).get("cache", usage)
    if cache < usage:
        usage -= cache
    read = written = 0
    for _, _, op, value in _block_line.findall(recursive) or _block_line.findall(throttled):
        if op in (b"Read", b"read"):
            read += int(value)
        elif op in (b"Write", b"write"):
            written += int(value)
    net = network(net_dev) if net_dev else None
    return Counters(at, int(usage_ns or 0) // cpus, usage, read & MASK, written & MASK, net)


def full(
    at: int,
    files: tuple[bytes, ...],
    extra: Mapping[str, bytes],
    net_dev: bytes,
    host: HostCpu,
    memory_total: int,
) -> DockerStats:
    """The Docker stats object of one reading, without name, id and what comes from the reading before."""
    current, most = extra["pids/pids.current"], extra["pids/pids.max"].strip()
    return DockerStats(
        read=format_time(at),
        pids_stats=Pids(optional(int(current or 0)), optional(0 if most == b"max" else int(most or 0))),
        blkio_stats=_blocks(files, extra),
        cpu_stats=cpu(files, extra, host),
        memory_stats=_memory(files, extra, memory_total),
        networks=optional(interfaces(net_dev)),
    )


def cpu(files: tuple[bytes, ...], extra: Mapping[str, bytes], host: HostCpu) -> Cpu:
    """cpu_stats from the cpuacct and cpu controllers."""
    ticks, throttling = pairs(extra["cpuacct/cpuacct.stat"]), pairs(extra["cpu/cpu.stat"])
    return Cpu(
        CpuUsage(
            int(files[0] or 0),
            optional(tuple(map(int, extra["cpuacct/cpuacct.usage_percpu"].split()))),
            ticks.get("system", 0) * TICK,
            ticks.get("user", 0) * TICK,
        ),
        optional(host.total),
        optional(host.online),
        Throttling(
            throttling.get("nr_periods", 0), throttling.get("nr_throttled", 0), throttling.get("throttled_time", 0)
        ),
    )


def _memory(files: tuple[bytes, ...], extra: Mapping[str, bytes], memory_total: int) -> Memory:
    most = int(extra["memory/memory.limit_in_bytes"] or 0)
    return Memory(
        usage=optional(int(files[1] or 0)),
        max_usage=optional(int(extra["memory/memory.max_usage_in_bytes"] or 0)),
        stats=optional(_memory_stats(files[2])),
        failcnt=optional(int(extra["memory/memory.failcnt"] or 0)),
        limit=optional(min(most, memory_total or most)),
    )


@lru_cache(256)  # the file of an idle container does not change
def _memory_stats(text: bytes) -> dict[str, int]:
    found = pairs(text)
    return {name: found.get(name, 0) for name in SHOWN} if text else {}


def _blocks(files: tuple[bytes, ...], extra: Mapping[str, bytes]) -> Block:
    if _block_line.search(files[3]):
        texts = {name: extra.get(path, files[3]) for name, path in BLOCK_FILES.items()}
    else:
        texts = dict.fromkeys(BLOCK_FILES, b"")
        texts["io_service_bytes_recursive"] = files[4]
        texts["io_serviced_recursive"] = extra[THROTTLED]
    return Block(**{name: _entries(text) for name, text in texts.items()})


@lru_cache(256)
def _entries(text: bytes) -> tuple[BlockEntry, ...]:
    return tuple(
        BlockEntry(int(major), int(minor), op.decode(), int(value))
        for major, minor, op, value in _block_line.findall(text)
    )
