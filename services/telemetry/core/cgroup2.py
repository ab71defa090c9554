"""The files of a cgroup v2 as the numbers that Docker makes of them (spec 07 §17.2; kernel cgroup-v2 documentation).

Each function is pure and makes one part of the numbers; `readings` puts them together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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

FILES = ("cpu.stat", "memory.current", "memory.stat", "io.stat")  # read every time
EXTRA_FILES = ("memory.max", "memory.events", "pids.current", "pids.max")  # read for the whole object
MEMORY_KEYS = (
    "active_anon", "active_file", "anon", "anon_thp", "file", "file_dirty", "file_mapped", "file_writeback",
    "inactive_anon", "inactive_file", "kernel_stack", "pgactivate", "pgdeactivate", "pgfault", "pglazyfree",
    "pglazyfreed", "pgmajfault", "pgrefill", "pgscan", "pgsteal", "shmem", "slab", "slab_reclaimable",
    "slab_unreclaimable", "sock", "thp_collapse_alloc", "thp_fault_alloc", "unevictable", "workingset_activate",
    "workingset_nodereclaim", "workingset_refault",
)  # fmt: skip


def cpu_time(cpu_stat: bytes) -> int:
    """Nanoseconds of CPU time so far."""
    if not cpu_stat.startswith(b"usage_usec "):
        return pairs(cpu_stat).get("usage_usec", 0) * 1000
    return int(cpu_stat[11 : cpu_stat.index(b"\n")]) * 1000


def memory_in_use(current: bytes, memory_stat: bytes) -> int:
    """Bytes in use without the page cache that nobody looked at lately."""
    usage = int(current or 0)
    start = memory_stat.find(b"\ninactive_file ")
    if start < 0:
        return usage
    inactive = int(memory_stat[start + 15 : memory_stat.index(b"\n", start + 15)])
    return usage - inactive if inactive < usage else usage


def storage(io_stat: bytes) -> tuple[int, int]:
    """Bytes read from and written to block devices."""
    devices = list(_devices(io_stat))
    return sum(d[2] for d in devices) & MASK, sum(d[3] for d in devices) & MASK


def _devices(io_stat: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Major, minor, bytes read and written by device; a device without figures is none."""
    for line in io_stat.decode().splitlines():
        device, *figures = line.split()
        major, _, minor = device.partition(":")
        if figures and major.isdigit() and minor.isdigit():
            values = dict(figure.split("=", 1) for figure in figures if "=" in figure)
            yield int(major), int(minor), int(values.get("rbytes", 0)), int(values.get("wbytes", 0))


def pairs(text: bytes) -> dict[str, int]:
    """Lines of `name value`."""
    words = text.decode().split()
    return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=False)}


def pids(extra: Mapping[str, bytes]) -> Pids:
    """pids_stats."""
    return Pids(optional(limit(extra["pids.current"])), optional(limit(extra["pids.max"])))


def cpu(cpu_stat: bytes, extra: Mapping[str, bytes]) -> tuple[CpuUsage, Throttling]:
    """What cpu_stats has of the container; nothing of it is in the other files."""
    values = pairs(cpu_stat)
    total, kernel, user = (1000 * values.get(name, 0) for name in ("usage_usec", "system_usec", "user_usec"))
    return CpuUsage(total, usage_in_kernelmode=kernel, usage_in_usermode=user), Throttling(
        values.get("nr_periods", 0), values.get("nr_throttled", 0), 1000 * values.get("throttled_usec", 0)
    )


def limit(text: bytes) -> int:
    """A file with one number, or `max` = 2^64 - 1."""
    word = text.strip()
    return MASK if word == b"max" else int(word or 0)


def memory(current: bytes, memory_stat: bytes, extra: Mapping[str, bytes], memory_total: int) -> Memory:
    """memory_stats; `memory_total` bounds the limit."""
    most = limit(extra["memory.max"])
    return Memory(
        usage=optional(int(current or 0)),
        stats=optional(_memory_stats(memory_stat)),
        failcnt=optional(pairs(extra["memory.events"]).get("oom", 0)),
        limit=optional(min(most, memory_total or most)),
    )


def _memory_stats(text: bytes) -> dict[str, int]:
    found = pairs(text)
    return {name: found.get(name, 0) for name in MEMORY_KEYS} if text else {}


def block(files: tuple[bytes, ...], extra: Mapping[str, bytes]) -> Block:
    """blkio_stats; `files` is the last of FILES."""
    entries: list[BlockEntry] = []
    for major, minor, read, written in _devices(files[0]):
        entries += BlockEntry(major, minor, "read", read), BlockEntry(major, minor, "write", written)
    return Block(io_service_bytes_recursive=tuple(entries) or None)
