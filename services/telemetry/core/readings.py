"""From the raw files of one container to its counters and to the whole stats object, cheaply (spec 07 §5, §17).

Most containers do little in most seconds, so most files say what they said a second ago. Each part of the numbers is a
pure function of a few texts and is worked out anew only when one of them changed: comparing 1 kB takes 0.05 us,
parsing it 5 us. Nothing is guessed: the same texts give the same numbers.

What only the whole object shows is in files of its own. They are read anew in every second in which the container used
CPU time or memory or did block I/O, in the one after it (throttling periods end a little later), and every ten seconds
(limits can be changed from outside); in between nothing can have changed them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar

from services.telemetry.core import cgroup1, cgroup2
from services.telemetry.core.dockerstats import Cpu, DockerStats, optional
from services.telemetry.core.numbers import NANOSECONDS, format_time
from services.telemetry.core.procfs import HostCpu, interfaces, network
from services.telemetry.core.samples import Counters

R = TypeVar("R")
EXTRA_NANOSECONDS = 10 * NANOSECONDS  # longest use of what was read of the files that only the whole object needs


class Reading(NamedTuple):
    """The raw contents of one moment."""

    at: int  # nanoseconds since 1970
    files: tuple[bytes, ...]  # of FILES; empty = missing = 0
    net_dev: bytes  # empty = no network
    host: HostCpu


class Remembered(Generic[R]):
    """A pure function that is not called again while its arguments stay the same."""

    __slots__ = ("_arguments", "_function", "_result")

    def __init__(self, function: Callable[..., R]) -> None:
        self._function = function
        self._arguments: tuple[Any, ...] | None = None
        self._result: R

    def __call__(self, *arguments: Any) -> R:
        if arguments != self._arguments:
            self._result = self._function(*arguments)
            self._arguments = arguments
        return self._result


def form_of(unified: bool) -> ModuleType:
    """The module that knows the files of this host's cgroup version."""
    return cgroup2 if unified else cgroup1


class Reader:
    """Turns the readings of one container into numbers. `memory_total` is that of the machine, in bytes."""

    def __init__(self, unified: bool, cpus: int, memory_total: int) -> None:
        form = form_of(unified)
        self._cpus, self._memory_total = cpus, memory_total
        self._cpu_time, self._cpu = Remembered(form.cpu_time), Remembered(form.cpu)
        self._in_use, self._storage = Remembered(form.memory_in_use), Remembered(form.storage)
        self._network, self._interfaces = Remembered(network), Remembered(interfaces)
        self._memory = Remembered(form.memory)
        self._block, self._pids = Remembered(form.block), Remembered(form.pids)
        self._extra: Mapping[str, bytes] = {}
        self._extra_at = 0
        self._settled = False  # whether the container was still when they were read
        self._moved: tuple[object, ...] = ()

    def counters(self, reading: Reading) -> Counters:
        """What the backend hears about."""
        files = reading.files
        read, written = self._storage(*files[3:])
        return Counters(
            reading.at,
            self._cpu_time(files[0]) // self._cpus,
            self._in_use(files[1], files[2]),
            read,
            written,
            self._network(reading.net_dev) if reading.net_dev else None,
        )

    def extra(self, reading: Reading, read: Callable[[], Mapping[str, bytes]]) -> Mapping[str, bytes]:
        """The contents of the other files at the time of `reading`; `read` is called when they may have changed."""
        moved = (reading.files[0], reading.files[1], reading.files[3:])
        still = moved == self._moved
        recent = 0 <= reading.at - self._extra_at < EXTRA_NANOSECONDS  # the clock may have been set back
        if not (still and self._settled and recent):
            self._extra = read()
            self._extra_at, self._settled, self._moved = reading.at, still, moved
        return self._extra

    def stats(self, reading: Reading, extra: Mapping[str, bytes], name: str, id_: str) -> DockerStats:
        """The Docker stats object, without what comes from the reading before."""
        files, host = reading.files, reading.host
        usage, throttling = self._cpu(files[0], extra)
        return DockerStats(
            read=format_time(reading.at),
            pids_stats=self._pids(extra),
            blkio_stats=self._block(files[3:], extra),
            cpu_stats=Cpu(usage, optional(host.total), optional(host.online), throttling),
            memory_stats=self._memory(files[1], files[2], extra, self._memory_total),
            name=name,
            id=id_,
            networks=optional(self._interfaces(reading.net_dev)),
        )
