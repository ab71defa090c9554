"""Where a task may run, and what stands in the way.

An instance has what its agent registered; each task placed on it and not yet stopped holds CPU units, MiB and host
ports. The first obstacle found is the failure's reason (ECS developer guide, "API failures messages").
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Any

from msgspec import Struct, field

from services.local.core.checks import task_cpu_units, task_memory_mib
from services.local.core.payload import merged

Json = dict[str, Any]


class Holding(Struct, frozen=True):
    """What a task occupies on its instance: CPU units, MiB, host ports."""

    cpu: int = 0
    memory: int = 0
    tcp: list[int] = field(default_factory=list)
    udp: list[int] = field(default_factory=list)


def holding(definition: Json, overrides: Json) -> Holding:
    """What a task of `definition` will occupy; sizes of the task itself win over the sum of its containers.

    Of a container with both, the reservation counts and not the limit (API reference, memoryReservation).
    """
    by_name = {o.get("name"): o for o in overrides.get("containerOverrides") or []}
    containers = [merged(c, by_name.get(c["name"])) for c in definition["containerDefinitions"]]
    cpu = overrides.get("cpu") or definition.get("cpu")
    memory = overrides.get("memory") or definition.get("memory")
    ports: dict[str, list[int]] = {"tcp": [], "udp": []}
    for container in containers:
        for port in container.get("portMappings") or []:
            if port.get("hostPort"):
                ports[port.get("protocol") or "tcp"].append(port["hostPort"])
    return Holding(
        cpu=task_cpu_units(cpu) if cpu else sum(c.get("cpu") or 0 for c in containers),
        memory=task_memory_mib(memory)
        if memory
        else sum(c.get("memoryReservation") or c.get("memory") or 0 for c in containers),
        tcp=ports["tcp"],
        udp=ports["udp"],
    )


def remaining(registered: list[Json], held: Iterable[Holding]) -> list[Json]:
    """The instance's `remainingResources`: numbers go down by what is held, port lists grow by it."""
    held = list(held)
    left = []
    for resource in registered:
        name = resource.get("name")
        if name == "CPU":
            resource = {**resource, "integerValue": resource.get("integerValue", 0) - sum(h.cpu for h in held)}
        elif name == "MEMORY":
            resource = {**resource, "integerValue": resource.get("integerValue", 0) - sum(h.memory for h in held)}
        elif name in ("PORTS", "PORTS_UDP"):
            taken = [str(p) for h in held for p in (h.tcp if name == "PORTS" else h.udp)]
            resource = {**resource, "stringSetValue": [*resource.get("stringSetValue", []), *taken]}
        left.append(resource)
    return left


def obstacle(instance: Json, connected: bool, left: list[Json], needed: Holding, attributes: Set[str]) -> str | None:
    """Why a task cannot be placed on `instance`, as the reason of a failure; None when it can."""
    if instance.get("status") != "ACTIVE":
        return "INACTIVE"
    if not connected:
        return "AGENT"
    if attributes - {a["name"] for a in instance.get("attributes") or []}:
        return "ATTRIBUTE"
    by_name = {r["name"]: r for r in left}
    if needed.cpu > by_name.get("CPU", {}).get("integerValue", 0):
        return "RESOURCE:CPU"
    if needed.memory > by_name.get("MEMORY", {}).get("integerValue", 0):
        return "RESOURCE:MEMORY"
    for name, ports in (("PORTS", needed.tcp), ("PORTS_UDP", needed.udp)):
        if set(map(str, ports)) & set(by_name.get(name, {}).get("stringSetValue", [])):
            return "RESOURCE:PORTS"
    return None
