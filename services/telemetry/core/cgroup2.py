"""The files of a cgroup v2 as the numbers that Docker makes of them (spec 07 §17.2; kernel cgroup-v2 documentation).

`quick` takes out only what the backend hears about, once a second; `full` builds the whole object, when somebody asks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

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
from services.telemetry.core.procfs import HostCpu, interfaces, network
from services.telemetry.core.samples import Counters

FILES = ("cpu.stat", "memory.current", "memory.stat", "io.stat")  # read every time
EXTRA_FILES = ("memory.max", "memory.events", "pids.current", "pids.max")  # read for the whole object
MEMORY_KEYS = (
    "active_anon", "active_file", "anon", "anon_thp", "file", "file_dirty", "file_mapped", "file_writeback",
    "inactive_anon", "inactive_file", "kernel_stack", "pgactivate", "pgdeactivate", "pgfault", "pglazyfree",
    "pglazyfreed", "pgmajfault", "pgrefill", "pgscan", "pgsteal", "shmem", "slab", "slab_reclaimable",
    "slab_unreclaimable", "sock", "thp_collapse_alloc", "thp_fault_alloc", "unevictable", "workingset_activate",
    "workingset_nodereclaim", "workingset_refault",
)  # fmt: skip

_io = re.compile(rb"^(\d+):(\d+) .*?rbytes=(\d+) wbytes=(\d+)", re.MULTILINE)


def quick(at: int, files: tuple[bytes, ...], net_dev: bytes, cpus: int) -> Counters:
    """The counters of one reading; `files` are the contents of FILES (empty = missing = 0)."""
    cpu_stat, current, memory_stat, io_stat = files
    usage = int(current or 0)
    start = memory_stat.find(b"\ninactive_file ")
    if start >= 0:
        inactive = int(memory_stat[start + 15 : memory_stat.index(b"\n", start + 15)])
        if inactive < usage:
            usage -= inactive
    read = written = 0
    for _, _, r, w in _io.findall(io_stat):
        read += int(r)
        written += int(w)
    net = network(net_dev) if net_dev else None
    return Counters(at, _usage(cpu_stat) // cpus, usage, read & MASK, written & MASK, net)


def _usage(cpu_stat: bytes) -> int:
    if not cpu_stat.startswith(b"usage_usec "):
        return pairs(cpu_stat).get("usage_usec", 0) * 1000
    return int(cpu_stat[11 : cpu_stat.index(b"\n")]) * 1000


def pairs(text: bytes) -> dict[str, int]:
    """Lines of `name value`."""
    words = text.decode().split()
    return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=False)}


def full(
    at: int,
    files: tuple[bytes, ...],
    extra: Mapping[str, bytes],
    net_dev: bytes,
    host: HostCpu,
    memory_total: int,
) -> DockerStats:
    """The Docker stats object of one reading, without name, id and what comes from the reading before."""
    cpu_stat, current, memory_stat, io_stat = files
    return DockerStats(
        read=format_time(at),
        pids_stats=Pids(optional(limit(extra["pids.current"])), optional(limit(extra["pids.max"]))),
        blkio_stats=Block(io_service_bytes_recursive=_block(io_stat)),
        cpu_stats=cpu(cpu_stat, host),
        memory_stats=_memory(current, memory_stat, extra, memory_total),
        networks=optional(interfaces(net_dev)),
    )


def cpu(cpu_stat: bytes, host: HostCpu) -> Cpu:
    """cpu_stats from cpu.stat."""
    values = pairs(cpu_stat)
    microseconds = {name: 1000 * values.get(name, 0) for name in ("usage_usec", "system_usec", "user_usec")}
    return Cpu(
        CpuUsage(
            microseconds["usage_usec"],
            usage_in_kernelmode=microseconds["system_usec"],
            usage_in_usermode=microseconds["user_usec"],
        ),
        optional(host.total),
        optional(host.online),
        Throttling(values.get("nr_periods", 0), values.get("nr_throttled", 0), 1000 * values.get("throttled_usec", 0)),
    )


def limit(text: bytes) -> int:
    """A file with one number, or `max` = 2^64 - 1."""
    word = text.strip()
    return MASK if word == b"max" else int(word or 0)


def _memory(current: bytes, memory_stat: bytes, extra: Mapping[str, bytes], memory_total: int) -> Memory:
    most = limit(extra["memory.max"])
    return Memory(
        usage=optional(int(current or 0)),
        stats=optional(_memory_stats(memory_stat)),
        failcnt=optional(pairs(extra["memory.events"]).get("oom", 0)),
        limit=optional(min(most, memory_total or most)),
    )


@lru_cache(256)  # the file of an idle container does not change
def _memory_stats(text: bytes) -> dict[str, int]:
    found = pairs(text)
    return {name: found.get(name, 0) for name in MEMORY_KEYS} if text else {}


@lru_cache(256)
def _block(io_stat: bytes) -> tuple[BlockEntry, ...] | None:
    entries: list[BlockEntry] = []
    for major, minor, read, written in _io.findall(io_stat):
        entries.append(BlockEntry(int(major), int(minor), "read", int(read)))
        entries.append(BlockEntry(int(major), int(minor), "write", int(written)))
    return tuple(entries) or None
