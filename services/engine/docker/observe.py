"""Docker's answer to a container inspect, as an Observation (ECS agent behaviour, spec 03 §6.11, §8.4).

State.Running wins over flags that an earlier event left behind (OOMKilled of a child, an old State.Error): a process
that runs is running (spec 03 §15, W4 and W20).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from common.errors import NamedError
from common.model.status import ContainerStatus, HealthStatus
from common.model.task import Mount, Network, PortBinding
from services.engine.core.effects import HealthReport, Observation
from services.engine.docker.host_config import host_ports

OUTPUT_LIMIT = 1024  # bytes of a health check's output
PROTOCOLS = ("tcp", "udp")
_ESCAPED = re.compile("[\udc80-\udcff]")  # a byte that is no UTF-8, as surrogateescape decodes it


def observe(document: dict[str, Any]) -> Observation:
    """The Observation of one inspect answer; tolerant of members that are absent or null."""
    state = document.get("State") or {}
    settings = document.get("NetworkSettings") or {}
    host = document.get("HostConfig") or {}
    config = document.get("Config") or {}
    bindings, port_error = _bindings(settings.get("Ports") or {})
    running = bool(state.get("Running"))
    return Observation(
        docker_id=document.get("Id") or "",
        docker_name=(document.get("Name") or "").lstrip("/"),
        status=_status(state),
        exit_code=_exit_code(state),
        error=(None if running else _state_error(state)) or port_error,
        running=running,
        created_at=_time(document.get("Created")),
        started_at=_time(state.get("StartedAt")),
        finished_at=_time(state.get("FinishedAt")),
        image_id=document.get("Image") or "",
        labels={str(k): str(v) for k, v in (config.get("Labels") or {}).items()},
        port_bindings=tuple(bindings),
        host_ports=tuple(host_ports(host)),
        mounts=tuple(_mounts(document.get("Mounts") or [])),
        network_mode=host.get("NetworkMode") or "",
        ip_address=settings.get("IPAddress") or "",
        ipv6_address=settings.get("GlobalIPv6Address") or "",
        networks=tuple(_networks(settings.get("Networks") or {})),
        health=_health(state.get("Health")),
        process_id=int(state.get("Pid") or 0),
    )


def _status(state: dict[str, Any]) -> ContainerStatus:
    if state.get("Running"):
        return ContainerStatus.RUNNING
    if state.get("Dead"):
        return ContainerStatus.STOPPED
    if not _time(state.get("StartedAt")) and not state.get("Error"):
        return ContainerStatus.CREATED
    return ContainerStatus.STOPPED


def _exit_code(state: dict[str, Any]) -> int | None:
    """A container that failed to start has no FinishedAt, and its exit code means nothing."""
    if state.get("Running") or not _time(state.get("FinishedAt")):
        return None
    return int(state.get("ExitCode") or 0)


def _state_error(state: dict[str, Any]) -> NamedError | None:
    if state.get("OOMKilled"):
        return NamedError("OutOfMemoryError", "Container killed due to memory usage")
    if state.get("Error"):
        return NamedError("DockerStateError", str(state["Error"]))
    return None


def _time(text: Any) -> str:
    """Docker's zero time is year 1; it means "not yet"."""
    return "" if not text or str(text).startswith("0001-") else str(text)


def _bindings(ports: dict[str, Any]) -> tuple[list[PortBinding], NamedError | None]:
    found: list[PortBinding] = []
    for key, bindings in ports.items():
        for binding in bindings or ():
            number, _, protocol = key.partition("/")
            if protocol not in PROTOCOLS:
                return found, _port_error("UnrecognizedTransportProtocol", protocol)
            try:
                found.append(
                    PortBinding(
                        container_port=_port(number),
                        host_port=_port(binding.get("HostPort") or ""),
                        protocol=protocol,
                        bind_ip=binding.get("HostIp") or "",
                    )
                )
            except ValueError:
                return found, _port_error("UnparsablePort", f"{key} -> {binding.get('HostPort')}")
    return found, None


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError(text)
    return number


def _port_error(name: str, text: str) -> NamedError:
    # The reference prints the name of such an error twice.
    return NamedError(name, f"{name}: {text}")


def _mounts(mounts: list[dict[str, Any]]) -> Iterator[Mount]:
    for mount in mounts:
        yield Mount(
            name=mount.get("Name") or "",
            source=mount.get("Source") or "",
            destination=mount.get("Destination") or "",
            driver=mount.get("Driver") or "",
            mode=mount.get("Mode") or "",
            read_write=bool(mount.get("RW")),
            type=mount.get("Type") or "",
        )


def _networks(networks: dict[str, Any]) -> Iterator[Network]:
    for name, facts in networks.items():
        facts = facts or {}
        yield Network(
            name=name,
            ip_address=facts.get("IPAddress") or "",
            ipv6_address=facts.get("GlobalIPv6Address") or "",
            mac_address=facts.get("MacAddress") or "",
            gateway=facts.get("Gateway") or "",
        )


def _health(health: Any) -> HealthReport | None:
    if not health or health.get("Status") in (None, "", "none"):
        return None
    status = {"healthy": HealthStatus.HEALTHY, "unhealthy": HealthStatus.UNHEALTHY}.get(
        health["Status"], HealthStatus.UNKNOWN
    )
    last = (health.get("Log") or [{}])[-1]
    cut = str(last.get("Output") or "").encode()[:OUTPUT_LIMIT]
    # A character that the cut splits becomes one replacement character per byte, as Go writes it.
    output = _ESCAPED.sub("\ufffd", cut.decode(errors="surrogateescape"))
    exit_code = int(last.get("ExitCode") or 0) if status is HealthStatus.UNHEALTHY else None
    return HealthReport(status=status, output=output, exit_code=exit_code)


def bridge_ip(observation: Observation) -> str:
    """The address on Docker's default bridge, or "" (spec 03 §6.7)."""
    if observation.ip_address:
        return observation.ip_address
    return next((n.ip_address for n in observation.networks if n.name == "bridge"), "")
