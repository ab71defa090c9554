"""HostConfig of a create request (ECS agent behaviour, spec 03 §6.6.3-§6.6.7).

The agent's base, then the task definition's own JSON laid over it, then what the agent insists on: cgroup parent,
network, PID and IPC mode.
"""

from __future__ import annotations

from typing import Any

from common.model.status import ContainerStatus, ContainerType
from common.model.task import Container, NetworkInterface, PortMapping, Task, Volume
from common.serviceconnect import in_bridge_mode, pause_of
from services.engine.docker import gpu
from services.engine.docker.draft import Draft, Json, Refused, at_least, of_type
from services.engine.docker.overlay import HOST_CONFIG, BadOverlay, overlay
from services.engine.docker.ports import NoPorts
from services.engine.resources import ebs
from services.engine.resources.cgroup import cgroup_parent
from services.engine.resources.volume import source_of

ERROR = "HostConfigError"
MIB = 1024 * 1024
MINIMUM_CPU_SHARES, MAXIMUM_CPU_SHARES = 2, 262144
MINIMUM_MEMORY = 4 * MIB
NO_NETWORK = (ContainerType.NAMESPACE_PAUSE, ContainerType.EMPTY_HOST_VOLUME, ContainerType.MANAGED_DAEMON)


def build(draft: Draft) -> None:
    """Fill draft.host. Raises Refused."""
    base = {
        "Links": _links(draft),
        "Binds": _binds(draft),
        "PortBindings": _port_bindings(draft),
        "VolumesFrom": _volumes_from(draft),
        "Memory": _memory(draft),
        "CpuShares": cpu_shares(draft.container.cpu_shares),
        "GroupAdd": ebs.groups(draft.task, draft.container),
        **gpu.host_config(draft),
    }
    try:
        draft.host = overlay(base, draft.container.docker_host_config, HOST_CONFIG, "HostConfig")
    except BadOverlay as error:
        raise Refused(ERROR, f"Unable to decode given host config: {error}") from error
    if draft.task.limits_enabled:
        draft.host["CgroupParent"] = cgroup_parent(
            draft.task, draft.world.facts.cgroup_version, draft.world.facts.cgroup_driver
        )
    _set_network(draft)
    _set_namespaces(draft)


def explicit_defaults(draft: Draft) -> None:
    """What the daemon assumes for API 1.21 and no longer for newer versions (spec 03 §6.1)."""
    if at_least(draft.version, "1.40"):
        _default(draft.host, "IpcMode", "shareable")
    if at_least(draft.version, "1.41") and draft.world.facts.cgroup_version == "1":
        _default(draft.host, "CgroupnsMode", "host")


def _default(host: Json, name: str, value: str) -> None:
    if not host.get(name):
        host[name] = value


def cpu_shares(shares: int) -> int:
    """Docker's CpuShares for a container's `cpu`."""
    return min(MAXIMUM_CPU_SHARES, max(MINIMUM_CPU_SHARES, shares))


def _memory(draft: Draft) -> int:
    memory = draft.container.memory_mib * MIB
    propagate = draft.world.settings.propagate_memory_limit and draft.world.facts.cgroup_version == "2"
    if not memory and propagate:
        memory = draft.task.memory_mib * MIB
    return max(memory, MINIMUM_MEMORY) if memory else 0


def _links(draft: Draft) -> list[str]:
    found = []
    for link in draft.container.links:
        name, colon, alias = link.partition(":")
        if not name or (colon and (not alias or ":" in alias)):
            raise Refused(ERROR, "Invalid link format")
        found.append(f"{_created(draft, name, 'Link')}:{alias or name}")
    return found


def _volumes_from(draft: Draft) -> list[str]:
    return [
        _created(draft, entry.source_container, "Volume") + (":ro" if entry.read_only else "")
        for entry in draft.container.volumes_from
    ]


def _created(draft: Draft, name: str, what: str) -> str:
    """The Docker name of a sibling that has been created."""
    target = draft.task.container(name)
    if target is None or not target.docker_name or not (target.docker_id or target.known >= ContainerStatus.CREATED):
        raise Refused(ERROR, f"{what} target not available: {name}")
    return target.docker_name


def _binds(draft: Draft) -> list[str]:
    volumes: dict[str, Volume] = {v.name: v for v in draft.task.volumes}
    found = []
    for mount in draft.container.mount_points:
        volume = volumes.get(mount.source_volume)
        if volume is None:
            raise Refused(ERROR, f"Invalid volume referenced: {mount.source_volume}")
        source = source_of(draft.task, volume)
        if not source or not mount.container_path:
            raise Refused(
                ERROR,
                f"Unable to resolve volume mounts; invalid path: {draft.container.name} {mount.source_volume}; "
                f"{source} -> {mount.container_path}",
            )
        found.append(f"{source}:{mount.container_path}" + (":ro" if mount.read_only else ""))
    return found


# -- ports -----------------------------------------------------------------------------------


def published(draft: Draft) -> tuple[PortMapping, ...]:
    """The port mappings of the container, unless its pause container publishes them for it."""
    return () if pause_of(draft.task, draft.container) is not None else draft.container.port_mappings


def container_ports(mapping: PortMapping) -> range:
    """The container ports of one mapping. Raises ValueError for a range that is none."""
    if not mapping.container_port_range:
        return range(mapping.container_port, mapping.container_port + 1)
    low, hyphen, high = mapping.container_port_range.partition("-")
    ports = range(int(low), int(high) + 1)
    if not hyphen or not ports or ports.start < 0 or ports.stop > 65536:
        raise ValueError(mapping.container_port_range)
    return ports


def _port_bindings(draft: Draft) -> Json:
    bindings: dict[str, list[Json]] = {}
    mappings = published(draft)
    siblings = (m for container in draft.task.containers for m in container.port_mappings)
    taken = {(m.host_port, m.protocol or "tcp") for m in (*mappings, *siblings) if m.host_port}
    for mapping in mappings:
        protocol = mapping.protocol or "tcp"
        first = _first_host_port(draft, mapping, taken)
        ports = container_ports(mapping)
        for offset, port in enumerate(ports):
            taken.add((first + offset, protocol))
            bindings.setdefault(f"{port}/{protocol}", []).append({"HostIp": "", "HostPort": str(first + offset)})
        if mapping.container_port_range:
            draft.port_ranges[mapping.container_port_range] = f"{first}-{first + len(ports) - 1}"
    return bindings


def _first_host_port(draft: Draft, mapping: PortMapping, taken: set[tuple[int, str]]) -> int:
    try:
        count = len(container_ports(mapping))
        if mapping.host_port and not mapping.container_port_range:
            return mapping.host_port
        holder, of_range = draft.container.docker_name, bool(mapping.container_port_range)
        return draft.world.picker.pick(count, mapping.protocol or "tcp", holder, taken, of_range)
    except NoPorts as error:
        raise Refused(ERROR, f"error retrieving docker port map: {error}") from error
    except ValueError as error:
        raise Refused(
            ERROR,
            "error retrieving docker port map: invalid containerPortRange specified for the container: "
            f"{mapping.container_port_range}",
        ) from error


# -- namespaces ------------------------------------------------------------------------------


def _set_network(draft: Draft) -> None:
    task, container, host = draft.task, draft.container, draft.host
    awsvpc = task.network_mode == "awsvpc"
    if container.type in NO_NETWORK:
        host["NetworkMode"] = "none"
    elif container.type == ContainerType.CNI_PAUSE and not awsvpc:
        host["NetworkMode"] = "bridge"
    elif container.type == ContainerType.CNI_PAUSE:
        host["NetworkMode"] = "none"
        for interface in task.interfaces[:1]:
            _set_interface(host, interface)
    elif container.type == ContainerType.NORMAL and (awsvpc or in_bridge_mode(task)):
        pause = of_type(task, ContainerType.CNI_PAUSE) if awsvpc else pause_of(task, container)
        if pause is None or not pause.docker_id:
            raise Refused(ERROR, "the network pause container of the task has not been created")
        host["NetworkMode"] = f"container:{pause.docker_id}"


def _set_interface(host: Json, interface: NetworkInterface) -> None:
    addresses = interface.ipv4_addresses or interface.ipv6_addresses
    if interface.private_dns_name:
        host["ExtraHosts"] = [
            *(host.get("ExtraHosts") or ()),
            *(f"{interface.private_dns_name}:{address}" for address in addresses),
        ]
    if interface.ipv6_addresses:
        host["Sysctls"] = {**(host.get("Sysctls") or {}), "net.ipv6.conf.all.disable_ipv6": "0"}
    host["Dns"] = list(interface.domain_name_servers)
    host["DnsSearch"] = list(interface.domain_name_search)


def _set_namespaces(draft: Draft) -> None:
    task, container = draft.task, draft.container
    if container.type == ContainerType.NAMESPACE_PAUSE and task.ipc_mode == "task":
        draft.host["IpcMode"] = "shareable"
    if container.is_internal:
        return
    for member, mode in (("PidMode", task.pid_mode), ("IpcMode", task.ipc_mode)):
        if mode == "host" or (mode == "none" and member == "IpcMode"):
            draft.host[member] = mode
        elif mode == "task":
            draft.host[member] = f"container:{_namespace_pause(task, member)}"


def _namespace_pause(task: Task, member: str) -> str:
    pause: Container | None = of_type(task, ContainerType.NAMESPACE_PAUSE)
    if pause is None or not pause.docker_id:
        raise Refused(ERROR, f"{member} cannot be shared: the namespace pause container has not been created")
    return pause.docker_id


def host_ports(host: dict[str, Any]) -> list[tuple[int, str]]:
    """The host ports that a finished HostConfig publishes, for the port picker."""
    found = []
    for key, bindings in (host.get("PortBindings") or {}).items():
        protocol = str(key).partition("/")[2] or "tcp"
        for binding in bindings or ():
            text = str((binding or {}).get("HostPort") or "")
            if text.isdigit():
                found.append((int(text), protocol))
    return found
