"""From readings to samples to statistic sets (spec 07 §5, §6).

A queue keeps what has not been published and, of what has, only the newest sample: the next difference is taken from
it, and it is what makes two when one more arrives. Older published samples decide nothing, so they are not kept.
The awsvpc queue of a task is never marked as published; it reports all it holds, up to its length (a habit of the
reference that is visible on the wire).

Percentages are shares of the whole host, 100 = all CPUs busy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from services.telemetry.core.dockerstats import DockerStats
from services.telemetry.core.numbers import LARGEST, MASK, NAN, f32, number, parse_time

STREAM_LENGTH = 80  # samples kept when there is one a second, and always for the network of a task
PUBLISH_SECONDS = 20.0
POLL_SPREAD = 0.8  # of the polling interval: the longest random pause after the first poll
SATURATION = (1 << 63) - 1

Net = tuple[int, int, int, int, int, int, int, int]  # rx bytes, packets, errors, dropped; tx the same
RX_BYTES, TX_BYTES = 0, 4
NO_NET: Net = (0, 0, 0, 0, 0, 0, 0, 0)


def queue_length(interval_seconds: float, polling: bool) -> int:
    """How many samples a container's queue holds: 80, or four publish intervals of polling."""
    return int(PUBLISH_SECONDS / interval_seconds * 4) if polling else STREAM_LENGTH


class Counters(NamedTuple):
    """What one reading says. `cpu` is nanoseconds divided by the number of CPUs; `net` is None without a network."""

    at: int  # nanoseconds since 1970
    cpu: int = 0
    memory: int = 0  # bytes, without the page cache that can go
    read: int = 0  # bytes from block devices
    written: int = 0
    net: Net | None = None
    restarts: int | None = None


class Sample(NamedTuple):
    """A stored reading with what was derived from it and its predecessor; NaN = not known."""

    counters: Counters
    cpu_percent: float
    rx_rate: float
    tx_rate: float


def memory_in_use(usage: int, stats: Any, unified: bool) -> int:
    """The agent's memory figure: v2 subtracts inactive_file, v1 (and v2 without it) cache, when smaller than usage."""
    if unified:
        inactive = stats.get("inactive_file")
        if inactive is not None and inactive < usage:
            return usage - int(inactive)
    cache = stats.get("cache")
    return usage - int(cache) if cache is not None and cache < usage else usage


def from_stats(stats: DockerStats, cpus: int, unified: bool, restarts: int | None = None) -> Counters:
    """The counters of a Docker stats object."""
    memory = stats.memory_stats
    entries = stats.blkio_stats.io_service_bytes_recursive or ()
    networks = stats.networks
    net = None
    if networks:
        net = _summed(tuple(getattr(i, name) for name in i.__struct_fields__) for i in networks.values())
    return Counters(
        parse_time(stats.read),
        stats.cpu_stats.cpu_usage.total_usage // cpus,
        memory_in_use(memory.usage or 0, memory.stats or {}, unified),
        sum(e.value for e in entries if e.op.lower() == "read") & MASK,
        sum(e.value for e in entries if e.op.lower() == "write") & MASK,
        net,
        restarts,
    )


def _summed(rows: Iterable[tuple[int, ...]]) -> Net:
    """Interfaces added up; the Docker object has bytes, packets, errors, dropped in the order of Net."""
    return tuple(sum(column) & MASK for column in zip(*rows, strict=True))  # type: ignore[return-value]


def problem(stats: DockerStats, unified: bool, cpus: int) -> str:
    """Why a Docker stats object is no sample ("" when it is one): an empty object of a stopped container, or no CPU."""
    if not parse_time(stats.read):
        return "the container is not running: its stats have no time"
    if not cpus or (not unified and not stats.cpu_stats.cpu_usage.percpu_usage):
        return "no cpu core usage reported"
    return ""


class Queue:
    """The samples of one container, or of the network of one task."""

    def __init__(self, length: int = STREAM_LENGTH) -> None:
        self.length = length
        self.appended = 0  # samples ever; a mark for `published`
        self.last: Sample | None = None
        self.rates: tuple[float, float] | None = None  # of the last sample with a network, for the v4 endpoint
        self._unsent: deque[Sample] = deque()
        self._sent: Sample | None = None  # the newest published one

    def append(self, counters: Counters) -> Sample:
        """Store a reading."""
        sample = Sample(counters, *self._derived(counters))
        if len(self._unsent) + (self._sent is not None) >= self.length:
            if self._sent is not None:
                self._sent = None
            else:
                self._unsent.popleft()
        if counters.net is not None:
            self.rates = (sample.rx_rate, sample.tx_rate)
        self._unsent.append(sample)
        self.last = sample
        self.appended += 1
        return sample

    def _derived(self, new: Counters) -> tuple[float, float, float]:
        if self.last is None:
            return NAN, NAN, NAN
        old = self.last.counters
        both = new.net is not None and old.net is not None
        elapsed = f32(max(-SATURATION, min(SATURATION, new.at - old.at)))
        if elapsed <= 0:
            return self.last.cpu_percent, *((self.last.rx_rate, self.last.tx_rate) if both else (NAN, NAN))
        used = (new.cpu - old.cpu) & MASK
        percent = f32(f32(100.0 * f32(used)) / elapsed) if used else 0.0
        if new.net is None or old.net is None:
            return percent, NAN, NAN
        if new.net is old.net:  # nothing came or went
            return percent, 0.0, 0.0
        return percent, _rate(new.net, old.net, RX_BYTES, elapsed), _rate(new.net, old.net, TX_BYTES, elapsed)

    def published(self, mark: int) -> None:
        """All samples up to `mark` (a value of `appended`) have been handed over."""
        while self._unsent and self.appended - len(self._unsent) < mark:
            self._sent = self._unsent.popleft()

    @property
    def usable(self) -> bool:
        """Whether there are two samples or more, published ones included."""
        return len(self._unsent) + (self._sent is not None) >= 2

    # -- statistic sets: None where the reference reports an error -------------------------------

    def cpu_set(self) -> dict[str, Any] | None:
        """CWStatsSet of the CPU percentage."""
        return double_set([s.cpu_percent for s in self._reported() if s.cpu_percent == s.cpu_percent])

    def memory_set(self) -> dict[str, Any] | None:
        """CWStatsSet of the memory in use, in whole MiB."""
        return double_set([s.counters.memory >> 20 for s in self._reported()])

    def storage_set(self) -> dict[str, Any] | None:
        """readSizeBytes and writeSizeBytes."""
        counters = [s.counters for s in self._reported()]
        if not counters:
            return None
        return {
            "readSizeBytes": long_set([c.read for c in counters]),
            "writeSizeBytes": long_set([c.written for c in counters]),
        }

    def network_set(self) -> tuple[dict[str, Any], bool]:
        """NetworkStatsSet as far as it could be built, and whether it is whole."""
        samples = self._reported()
        columns = list(zip(*(s.counters.net or NO_NET for s in samples), strict=True))
        found: dict[str, Any] = {}
        for name, index in NETWORK_MEMBERS if samples else ():
            if index is None:
                rates = [(s.rx_rate if name[0] == "r" else s.tx_rate) if s.counters.net else 0.0 for s in samples]
                found[name] = double_set([rate for rate in rates if rate == rate])
            else:
                found[name] = long_set(columns[index])
        present = {name: value for name, value in found.items() if value is not None}
        return present, len(present) == len(NETWORK_MEMBERS)

    def restart_set(self) -> dict[str, int] | None:
        """RestartStatsSet: restarts since the sample before the first unpublished one."""
        samples = self._reported()
        if not samples:
            return None
        first = (self._sent or samples[0]).counters.restarts
        last = samples[-1].counters.restarts
        if first is None or last is None or last < first:
            return None
        return {"restartCount": last - first}

    def _reported(self) -> Sequence[Sample]:
        """What has not been published; nothing when that would be the only sample."""
        return self._unsent if self.usable else ()


def _rate(new: Net, old: Net, column: int, elapsed: float) -> float:
    """Bytes per second; `elapsed` is in nanoseconds."""
    return f32(1e9 * f32(f32((new[column] - old[column]) & MASK) / elapsed))


# The members of NetworkStatsSet in their order, with their place in Net; None is a rate.
NETWORK_MEMBERS: tuple[tuple[str, int | None], ...] = (
    ("rxBytes", 0), ("rxBytesPerSecond", None), ("rxDropped", 3), ("rxErrors", 2), ("rxPackets", 1),
    ("txBytes", 4), ("txBytesPerSecond", None), ("txDropped", 7), ("txErrors", 6), ("txPackets", 5),
)  # fmt: skip


def double_set(values: Sequence[float]) -> dict[str, Any] | None:
    """CWStatsSet or UDoubleCWStatsSet of `values`; None when there is none."""
    if not values:
        return None
    return {
        "max": number(max(values)),
        "min": number(min(values)),
        "sampleCount": len(values),
        "sum": number(_sum(values)),
    }


def _sum(values: Sequence[float]) -> float:
    """Left to right in double precision; the built-in sum compensates from Python 3.12 on, which Go does not."""
    total = 0.0
    for value in values:
        total += value
    return total


def long_set(values: Sequence[int]) -> dict[str, int]:
    """ULongStatsSet: unsigned 64-bit, what exceeds 2^63 - 1 in the overflow members."""
    high, over_high = _split(max(values))
    low, over_low = _split(min(values))
    total, over_total = _split(sum(values) & MASK)
    return {
        "max": high,
        "min": low,
        "overflowMax": over_high,
        "overflowMin": over_low,
        "overflowSum": over_total,
        "sampleCount": len(values),
        "sum": total,
    }


def _split(value: int) -> tuple[int, int]:
    return (value, 0) if value <= LARGEST else (LARGEST, value % LARGEST)
