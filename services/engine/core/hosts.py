"""Host resources: what a task asks of the host, and which waiting task may begin.

The backend places tasks by its own accounting, which runs ahead of the agent's when a task is still stopping; a task
waits here until what it needs is free again. A task that fits may pass one that does not, but none is passed more
than PASSES times, so none starves. A task that this host could never hold is passed without limit: it waits for
ever either way, and must not stop the others (ECS agent behaviour, spec 03 §5; overtaking is our improvement).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from common.model.task import Container, Task
from common.wire import gojson

PASSES = 2
MIB = 1048576


class Demand(Struct, frozen=True, kw_only=True):
    """What a task takes of a host. CPU in 1/1024 vCPU, memory in MiB."""

    cpu: int = 0
    memory_mib: int = 0
    tcp: frozenset[int] = frozenset()
    udp: frozenset[int] = frozenset()
    gpus: frozenset[str] = frozenset()


def demand_of(task: Task) -> Demand:
    """The task's own limits where it has them, otherwise the sums over its containers."""
    ports: dict[str, set[int]] = {"tcp": set(), "udp": set()}
    if task.network_mode != "awsvpc":
        for mapping in (m for c in task.containers if not c.is_internal for m in c.port_mappings if m.host_port):
            ports.setdefault(mapping.protocol, set()).add(mapping.host_port)
    return Demand(
        cpu=int(task.cpu * 1024) if task.cpu > 0 else sum(c.cpu_shares for c in task.containers),
        memory_mib=task.memory_mib if task.memory_mib > 0 else sum(_memory_mib(c) for c in task.containers),
        tcp=frozenset(ports["tcp"]),
        udp=frozenset(ports["udp"]),
        gpus=frozenset(a.name for a in task.associations if a.type == "gpu" and a.containers),
    )


def _memory_mib(container: Container) -> int:
    reservation = folded(host_config(container)).get("memoryreservation")
    if isinstance(reservation, int | float) and 0 < reservation < math.inf:
        return int(reservation) // MIB
    return container.memory_mib


def host_config(container: Container) -> dict[str, Any]:
    """The container's HostConfig overlay, {} when there is none or it is not a JSON object."""
    try:
        parsed = json.loads(container.docker_host_config or "{}")
        if "\\ud" in (container.docker_host_config or "").lower():  # half a character, perhaps, which nobody can write
            parsed = json.loads(gojson.whole_characters(json.dumps(parsed, ensure_ascii=False)))
    except (ValueError, RecursionError):
        return {}  # the create reports what is wrong with it
    return parsed if isinstance(parsed, dict) else {}


def folded(value: Any) -> Mapping[str, Any]:
    """`value` with lower-case keys: Docker's JSON keys match in any case."""
    return {str(key).lower(): item for key, item in value.items()} if isinstance(value, dict) else {}


@dataclass
class Host:
    """What the host has, and who holds what of it. `tcp` and `udp` are the reserved ports, taken from the start.

    `gpus` is None where GPU support is off: then GPUs are nobody's business.
    """

    cpu: int
    memory_mib: int
    tcp: frozenset[int] = frozenset()
    udp: frozenset[int] = frozenset()
    gpus: frozenset[str] | None = None
    held: dict[str, Demand] = field(default_factory=dict)

    def objection(self, demand: Demand) -> str:
        """Why waiting would be senseless: the demand names what this host does not know. Empty when it does not."""
        unknown = sorted(demand.gpus - self.gpus) if self.gpus is not None else []
        return f"task gpu {unknown[0]} not found in host gpus" if unknown else ""

    def could_ever_hold(self, demand: Demand) -> bool:
        """Whether the demand fits into the empty host."""
        within = demand.cpu <= self.cpu and demand.memory_mib <= self.memory_mib
        return within and not (demand.tcp & self.tcp) and not (demand.udp & self.udp)

    def fits(self, demand: Demand) -> bool:
        """Whether the demand can be met now: all or nothing."""
        held = list(self.held.values())
        return (
            self.could_ever_hold(demand)
            and sum(d.cpu for d in held) + demand.cpu <= self.cpu
            and sum(d.memory_mib for d in held) + demand.memory_mib <= self.memory_mib
            and not any(d.tcp & demand.tcp or d.udp & demand.udp for d in held)
            and (self.gpus is None or not any(d.gpus & demand.gpus for d in held))
        )


@dataclass
class Waiting:
    """A task in the queue and how often others have passed it."""

    arn: str
    demand: Demand
    passed: int = 0


class Queue:
    """The waiting tasks of one host, oldest first. Consuming and releasing are idempotent, keyed by task ARN."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.waiting: list[Waiting] = []

    def enter(self, arn: str, demand: Demand) -> None:
        """Wait at the tail; a task that holds its resources or waits already is left alone."""
        if arn not in self.host.held and all(w.arn != arn for w in self.waiting):
            self.waiting.append(Waiting(arn, demand))

    def hold(self, arn: str, demand: Demand) -> None:
        """Account for a task that runs already (after a restart of the agent)."""
        self.host.held[arn] = demand

    def release(self, arn: str) -> bool:
        """Give back what the task held, or its turn; True when others may begin for it.

        Those behind a task that was passed PASSES times wait for that task, not for what it would hold.
        """
        left = [w for w in self.waiting if w.arn != arn]
        waited, self.waiting = len(left) < len(self.waiting), left
        return self.host.held.pop(arn, None) is not None or waited

    def admit(self) -> Iterator[str]:
        """Yield the tasks that may begin now, and account for each before it is yielded."""
        blocked: list[Waiting] = []  # those that an admitted task behind them passes
        for waiting in list(self.waiting):
            if self.host.fits(waiting.demand):
                self.waiting.remove(waiting)
                self.host.held[waiting.arn] = waiting.demand
                for other in blocked:
                    other.passed += 1
                yield waiting.arn
            elif self.host.could_ever_hold(waiting.demand):
                blocked.append(waiting)
            if any(w.passed >= PASSES for w in blocked):
                return
