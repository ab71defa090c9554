"""The Docker stats object: the members that are served, in their order, and what a restart does to it.

The schema is that of the Docker 25 API (spec 06 §14.4): members that are UNSET are left out, all others always appear.
A sample is rewritten when its container was started again by its restart policy, so that counters keep growing
(spec 07 §7). Pure data: who fills it in is `cgroup1`, `cgroup2`, or Docker itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from services.telemetry.core.numbers import MASK, ZERO_TIME, encode


class CpuUsage(Struct, frozen=True):
    total_usage: int = 0  # nanoseconds
    percpu_usage: tuple[int, ...] | UnsetType = UNSET
    usage_in_kernelmode: int = 0
    usage_in_usermode: int = 0


class Throttling(Struct, frozen=True):
    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0  # nanoseconds


class Cpu(Struct, frozen=True):
    cpu_usage: CpuUsage = CpuUsage()
    system_cpu_usage: int | UnsetType = UNSET
    online_cpus: int | UnsetType = UNSET
    throttling_data: Throttling = Throttling()


class Pids(Struct, frozen=True):
    current: int | UnsetType = UNSET
    limit: int | UnsetType = UNSET


class BlockEntry(Struct, frozen=True):
    major: int = 0
    minor: int = 0
    op: str = ""
    value: int = 0


BlockList = tuple[BlockEntry, ...] | None


class Block(Struct, frozen=True):
    io_service_bytes_recursive: BlockList = None
    io_serviced_recursive: BlockList = None
    io_queue_recursive: BlockList = None
    io_service_time_recursive: BlockList = None
    io_wait_time_recursive: BlockList = None
    io_merged_recursive: BlockList = None
    io_time_recursive: BlockList = None
    sectors_recursive: BlockList = None


class Memory(Struct, frozen=True):
    usage: int | UnsetType = UNSET
    max_usage: int | UnsetType = UNSET
    stats: dict[str, int] | UnsetType = UNSET
    failcnt: int | UnsetType = UNSET
    limit: int | UnsetType = UNSET


class Interface(Struct, frozen=True):
    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


class Rates(Struct, frozen=True):
    rx_bytes_per_sec: float
    tx_bytes_per_sec: float


class DockerStats(Struct, frozen=True):
    """One stats reading as Docker's API shows it."""

    read: str = ZERO_TIME
    preread: str = ZERO_TIME
    pids_stats: Pids = Pids()
    blkio_stats: Block = Block()
    num_procs: int = 0
    storage_stats: dict[str, int] = {}
    cpu_stats: Cpu = Cpu()
    precpu_stats: Cpu = Cpu()
    memory_stats: Memory = Memory()
    name: str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    networks: dict[str, Interface] | UnsetType = UNSET
    network_rate_stats: Rates | UnsetType = UNSET


def optional(value: Any) -> Any:
    """UNSET for what is left out when it is empty or zero."""
    return value or UNSET


def render(stats: DockerStats, networks: Mapping[str, Interface] | None = None, rates: Rates | None = None) -> bytes:
    """The JSON that the endpoint serves. `networks` replaces the container's own; `rates` are left out while None."""
    shown = networks if networks is not None else stats.networks
    return encode(
        msgspec.structs.replace(
            stats,
            networks=dict(sorted(shown.items())) if shown else UNSET,
            network_rate_stats=UNSET if rates is None else rates,
        )
    )


def from_docker(data: bytes) -> DockerStats:
    """Docker's answer in our schema: unknown members are dropped, empty optional ones are unset.

    Raises msgspec.DecodeError for anything but a stats object.
    """
    raw = msgspec.json.decode(data, type=DockerStats)
    memory, stats = raw.memory_stats, raw.memory_stats.stats
    return msgspec.structs.replace(
        raw,
        pids_stats=Pids(optional(raw.pids_stats.current), optional(raw.pids_stats.limit)),
        cpu_stats=_normal(raw.cpu_stats),
        precpu_stats=_normal(raw.precpu_stats),
        memory_stats=Memory(
            optional(memory.usage),
            optional(memory.max_usage),
            dict(sorted(stats.items())) if stats else UNSET,
            optional(memory.failcnt),
            optional(memory.limit),
        ),
        network_rate_stats=UNSET,
    )


def _normal(cpu: Cpu) -> Cpu:
    usage = msgspec.structs.replace(cpu.cpu_usage, percpu_usage=optional(cpu.cpu_usage.percpu_usage))
    return Cpu(usage, optional(cpu.system_cpu_usage), optional(cpu.online_cpus), cpu.throttling_data)


# -- what a restart does (spec 07 §7) --------------------------------------------------------------

MERGED = tuple(name for name in Block.__struct_fields__ if name != "io_queue_recursive")


def aggregate(new: DockerStats, before: DockerStats | None, previous: DockerStats | None) -> DockerStats:
    """`new` with what the container had used before its last restart (`before`) added.

    `previous` is the last sample served: its time and CPU become preread and precpu_stats (zeros if there is none).
    """
    old = before or DockerStats()
    last = previous or DockerStats()
    return msgspec.structs.replace(
        new,
        preread=last.read,
        precpu_stats=last.cpu_stats,
        cpu_stats=_sum_cpu(new.cpu_stats, old.cpu_stats),
        memory_stats=_sum_memory(new.memory_stats, old.memory_stats),
        blkio_stats=_sum_block(new.blkio_stats, old.blkio_stats),
        networks=_sum_networks(new.networks, old.networks),
    )


def _add(*values: int | UnsetType) -> int:
    return sum(v for v in values if v is not UNSET) & MASK  # type: ignore[misc]


def _sum_cpu(new: Cpu, old: Cpu) -> Cpu:
    a, b = new.cpu_usage, old.cpu_usage
    per_cpu = tuple(_add(x, y) for x, y in zip_longest(a.percpu_usage or (), b.percpu_usage or (), fillvalue=0))
    usage = CpuUsage(
        _add(a.total_usage, b.total_usage),
        optional(per_cpu),
        _add(a.usage_in_kernelmode, b.usage_in_kernelmode),
        _add(a.usage_in_usermode, b.usage_in_usermode),
    )
    throttling = Throttling(*map(_add, _values(new.throttling_data), _values(old.throttling_data)))
    return Cpu(usage, new.system_cpu_usage, new.online_cpus, throttling)


def _sum_memory(new: Memory, old: Memory) -> Memory:
    return msgspec.structs.replace(
        new,
        max_usage=optional(max(new.max_usage or 0, old.max_usage or 0)),
        failcnt=optional(_add(new.failcnt, old.failcnt)),
    )


def _sum_block(new: Block, old: Block) -> Block:
    return msgspec.structs.replace(new, **{n: _merge(getattr(old, n), getattr(new, n)) for n in MERGED})


def _merge(old: BlockList, new: BlockList) -> BlockList:
    if old is None and new is None:
        return None
    sums: dict[tuple[int, int, str], int] = {}
    for entry in (*(old or ()), *(new or ())):
        key = (entry.major, entry.minor, entry.op)
        sums[key] = _add(sums.get(key, 0), entry.value)
    return tuple(BlockEntry(*key, value) for key, value in sums.items())


def _sum_networks(
    new: dict[str, Interface] | UnsetType, old: dict[str, Interface] | UnsetType
) -> dict[str, Interface] | UnsetType:
    if not new:
        return new
    return {
        name: Interface(*map(_add, _values(entry), _values(old[name]))) if old and name in old else entry
        for name, entry in new.items()
    }


def _values(struct: Struct) -> Iterable[int]:
    return (getattr(struct, name) for name in struct.__struct_fields__)
