"""Which containers are on Docker's default bridge, and where the pause containers of Service Connect are on it."""

from __future__ import annotations

from common.model.task import Container, Network, Task
from common.serviceconnect import PAUSE_OF, in_bridge_mode, proxy_name
from services.engine.core.effects import Observation
from services.engine.core.hosts import folded, host_config


def is_pause_of_proxy(task: Task, container: Container) -> bool:
    """Whether the task's traffic goes through this pause container."""
    return in_bridge_mode(task) and container.name == PAUSE_OF + proxy_name(task)


def on_default_bridge(task: Task, container: Container) -> bool:
    """Whether the container's own HostConfig leaves it there; a task's mode other than awsvpc changes nothing."""
    mode = folded(host_config(container)).get("networkmode") or "bridge"
    return task.network_mode != "awsvpc" and mode == "bridge"


def bridge_addresses(seen: Container | Observation) -> tuple[str, str]:
    """IPv4 and IPv6 address on Docker's default bridge, "" for each that there is not."""
    bridge = next((n for n in seen.networks if n.name == "bridge"), Network(name="bridge"))
    return bridge.ip_address or seen.ip_address, bridge.ipv6_address or seen.ipv6_address
