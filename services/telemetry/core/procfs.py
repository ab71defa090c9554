"""What /proc says: network counters of a namespace, CPU time of the host, total memory (spec 07 §17.4, §17.5).

Docker counts the interfaces that it made itself, named eth<N>, and always reports their errors as 0.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from services.telemetry.core.dockerstats import Interface
from services.telemetry.core.samples import Net

TICK = 1_000_000_000 // 100  # nanoseconds of a USER_HZ tick

_docker_interface = re.compile(rb"^\s*(eth\d+):(.*)$", re.MULTILINE)


class HostCpu(NamedTuple):
    """CPU time of the whole host, and the number of its CPUs that are online."""

    total: int = 0  # nanoseconds
    online: int = 0


def host_cpu(stat: bytes) -> HostCpu:
    """From /proc/stat: user, nice, system, idle, iowait, irq and softirq of all CPUs."""
    line, _, rest = stat.partition(b"\n")
    return HostCpu(sum(map(int, line.split()[1:8])) * TICK, rest.count(b"\ncpu") + rest.startswith(b"cpu"))


def total_memory(meminfo: bytes) -> int:
    """MemTotal of /proc/meminfo in bytes; 0 when it is not there."""
    found = re.search(rb"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def network(net_dev: bytes) -> Net | None:
    """The sums over Docker's interfaces in /proc/<pid>/net/dev; None when there is none."""
    rows = [line.split() for _, line in _docker_interface.findall(net_dev)]
    if not rows:
        return None
    if len(rows) == 1:
        row = rows[0]
        return int(row[0]), int(row[1]), 0, int(row[3]), int(row[8]), int(row[9]), 0, int(row[11])
    sums = [sum(int(row[i]) for row in rows) for i in (0, 1, 3, 8, 9, 11)]
    return sums[0], sums[1], 0, sums[2], sums[3], sums[4], 0, sums[5]


def interfaces(net_dev: bytes) -> dict[str, Interface]:
    """Docker's interfaces by name."""
    found = {}
    for name, line in _docker_interface.findall(net_dev):
        row = line.split()
        found[name.decode()] = Interface(
            int(row[0]), int(row[1]), 0, int(row[3]), int(row[8]), int(row[9]), 0, int(row[11])
        )
    return found
