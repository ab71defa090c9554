"""Where a task's faults happen: its network namespace and interfaces, resolved at the time of the request (§17.3)."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from common.model.status import ContainerType
from common.model.task import Task
from services.endpoint.faultcommands import Target

PROC, HOST_PROC = Path("/proc"), Path("/host/proc")
NAMESPACE = re.compile(r"(?:/host)?/proc/(\d+)/ns/net")
ROUTE_UP, ROUTE_REJECT = 0x1, 0x200  # RTF_UP, RTF_REJECT
ZERO6 = "0" * 32


def of_awsvpc(task: Task, proc: Path = PROC) -> Target | None:
    """The namespace of the pause container; None while it is not complete, or not this task's any more."""
    if not task.network_namespace or not task.interface_name or not _is_still_ours(task, proc):
        return None
    interface = task.interfaces[0]
    ipv6_only = not interface.ipv4_addresses and bool(interface.ipv6_addresses)
    return Target(task.network_namespace, (task.interface_name,), ipv6_only)


def _is_still_ours(task: Task, proc: Path) -> bool:
    """A process id may have gone to another process since the namespace was set up; its cgroup names the container."""
    match = NAMESPACE.fullmatch(task.network_namespace)
    if match is None:
        return True
    pauses = [c.docker_id for c in task.containers if c.type == ContainerType.CNI_PAUSE and c.docker_id]
    try:
        # The path is as the agent sees it; the process id in it is the host's.
        seen = HOST_PROC if task.network_namespace.startswith("/host/") else proc
        cgroups = (seen / match.group(1) / "cgroup").read_text()
    except OSError:
        return False
    # A container in a private cgroup namespace of a nested engine shows "/": then there is nothing to compare.
    return not pauses or any(id_ in cgroups for id_ in pauses) or not re.search(r"[0-9a-f]{64}", cgroups)


def of_host(proc: Path = PROC) -> Target | None:
    """The interfaces of the default routes; None without any. Raises OSError when they cannot be read."""
    names = dict.fromkeys(name for name in (_default_ipv4(proc), _default_ipv6(proc)) if name)
    if not names:
        return None
    interfaces = tuple(names)
    return Target("host", interfaces, len(interfaces) == 1 and _has_only_ipv6(interfaces[0]))


def _default_ipv4(proc: Path) -> str:
    found = []
    for line in (proc / "net/route").read_text().splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8:
            continue
        name, destination, gateway, flags, metric, mask = (fields[i] for i in (0, 1, 2, 3, 6, 7))
        if destination == mask == "00000000" and int(gateway, 16) and int(flags, 16) & ROUTE_UP:
            found.append((int(metric), name))
    return min(found, key=lambda item: item[0])[1] if found else ""


def _default_ipv6(proc: Path) -> str:
    path = proc / "net/ipv6_route"
    if not path.exists():
        return ""
    found = []
    for line in path.read_text().splitlines():
        fields = line.split()
        if len(fields) < 10:
            continue
        destination, length, gateway, metric, flags, name = (fields[i] for i in (0, 1, 4, 5, 8, 9))
        if destination == ZERO6 and length == "00" and gateway != ZERO6 and not int(flags, 16) & ROUTE_REJECT:
            found.append((int(metric, 16), name))
    return min(found, key=lambda item: item[0])[1] if found else ""


def _has_only_ipv6(interface: str) -> bool:
    import psutil

    found = set()
    for entry in psutil.net_if_addrs().get(interface, ()):
        try:
            address = ipaddress.ip_address(entry.address.partition("%")[0])
        except ValueError:
            continue  # a hardware address
        if not (address.is_link_local or address.is_loopback or address.is_multicast):
            found.add(address.version)
    return found == {6}
