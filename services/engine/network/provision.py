"""The network namespace of a pause container under Service Connect in bridge mode (spec 04 §7.2, §11.5).

The proxy's namespace takes the traffic to the other services' addresses and hands it to the proxy, whatever its
destination (TPROXY); the others send it there by a route. All of it is made by iptables-restore and ip in the
container's namespace, and is safe to repeat: the mangle table and the routes of a namespace that the agent has made
belong to it alone. Nothing is ever run in the host's namespace (trap 24).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any, NamedTuple

from common.command import CommandFailed, run
from common.model.task import Container, Task
from common.serviceconnect import PAUSE_OF, in_bridge_mode, proxy_name
from services.engine.core.effects import Observation
from services.engine.core.service_connect import resource_of
from services.engine.docker.containers import ContainerFailed
from services.engine.network.addresses import bridge_addresses

COMMAND_SECONDS = 15.0
MARK, TABLE = "1", "100"
PRIORITY = "32765"  # what the kernel gives to the first rule; without it, a repeated one would get the next
CHAIN = "ECS_SERVICE_CONNECT_DIVERT"
PREFIX = "container resource provisioning"
EXISTS = "File exists"


class ProvisioningFailed(Exception):
    """The namespace could not be set up; the text is that of ContainerNetworkingError."""


class Command(NamedTuple):
    """A command and its standard input. `exists_is_fine`: that the object is there already is no failure."""

    arguments: tuple[str, ...]
    text: str = ""
    exists_is_fine: bool = False


class Family(NamedTuple):
    """One family of addresses: where the proxy is, and the addresses of the other services."""

    proxy: str
    services: str
    restore: str  # the tool
    ip: tuple[str, ...]
    everywhere: str


def families(proxy_ipv4: str, proxy_ipv6: str, egress: dict[str, Any]) -> list[Family]:
    """The families in which the proxy can be reached. Raises ProvisioningFailed for one without services' addresses."""
    found = []
    for proxy, services, restore, ip, everywhere in (
        (proxy_ipv4, egress["ipv4"], "iptables-restore", ("ip",), "0.0.0.0/0"),
        (proxy_ipv6, egress["ipv6"], "ip6tables-restore", ("ip", "-6"), "::/0"),
    ):
        if proxy and not services:
            raise ProvisioningFailed(f"the proxy has the address {proxy}, and there are no services' addresses for it")
        if proxy and ip_network(services).version != ip_network(proxy).version:
            raise ProvisioningFailed(f"{services} is not of the family of the proxy's address {proxy}")
        if proxy:
            found.append(Family(proxy, services, restore, ip, everywhere))
    if not found:
        raise ProvisioningFailed("the proxy has no address on the default bridge")
    return found


def at_the_proxy(family: Family, port: int) -> list[Command]:
    """What takes the traffic to the services' addresses to the proxy's listener."""
    rules = (
        "*mangle",
        ":PREROUTING ACCEPT [0:0]",
        f":{CHAIN} - [0:0]",
        f"-A {CHAIN} -j MARK --set-mark {MARK}",
        f"-A {CHAIN} -j ACCEPT",
        f"-A PREROUTING -p tcp -m socket -j {CHAIN}",
        f"-A PREROUTING -p tcp -m tcp -d {family.services} -j TPROXY --tproxy-mark 0x1/0x1 --on-port {port}",
        "COMMIT\n",
    )
    rule = (*family.ip, "rule", "add", "priority", PRIORITY, "fwmark", MARK, "lookup", TABLE)
    local = ("local", family.everywhere, "dev", "lo", "table", TABLE)
    return [
        Command((family.restore, "-w", "5"), "\n".join(rules)),
        Command(rule, exists_is_fine=True),
        Command((*family.ip, "route", "replace", *local)),
    ]


def elsewhere(family: Family) -> list[Command]:
    """What leads the traffic to the services' addresses to the proxy's namespace."""
    return [Command((*family.ip, "route", "replace", family.services, "via", family.proxy))]


def plan(task: Task, container: Container) -> list[Command]:
    """The commands for one pause container. Raises ProvisioningFailed."""
    resource, proxy = resource_of(task), task.container(PAUSE_OF + proxy_name(task))
    if resource is None or proxy is None:
        raise ProvisioningFailed("it is not known what the task's Service Connect needs")
    egress = resource.detail["egress"]
    if not egress and not resource.detail["ingress"]:
        raise ProvisioningFailed("neither ingress nor egress is configured")
    if not egress:
        return []
    reached = families(*bridge_addresses(proxy), egress)
    if container.name == proxy.name:
        return [command for family in reached for command in at_the_proxy(family, egress["port"])]
    return [command for family in reached for command in elsewhere(family)]


def provision(task: Task, container: Container, look: Callable[[], Observation]) -> None:
    """Set up the namespace of a pause container; `look` inspects it. Raises ProvisioningFailed."""
    if not in_bridge_mode(task) or not container.name.startswith(PAUSE_OF):
        raise ProvisioningFailed(
            f"{PREFIX} bridge mode: cannot setup netns - only valid for SC-enabled task pause container"
        )
    try:
        namespace = _open(look)
    except (ContainerFailed, OSError) as error:
        cause = f"cannot setup netns - error inspecting container {container.name}: {error}"
        raise ProvisioningFailed(f"{PREFIX} bridge mode: {cause}") from error
    try:
        for command in plan(task, container):
            _run(command, namespace)
    except (ProvisioningFailed, OSError, CommandFailed) as error:
        raise ProvisioningFailed(f"{PREFIX}: failed to setup network namespace: {error}") from error
    finally:
        os.close(namespace)


def _open(look: Callable[[], Observation]) -> int:
    """The namespace of a container that runs. Its process may end and its number be given away: looked at twice."""
    process = look().process_id
    namespace = os.open(f"/proc/{process}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        seen = look()
        if not seen.running or seen.process_id != process:  # the number may be another's by now
            raise ProcessLookupError(f"its process {process} has ended")
        if os.path.samestat(os.fstat(namespace), os.stat("/proc/self/ns/net")):
            raise PermissionError(f"its process {process} is in the agent's own network namespace")
    except BaseException:
        os.close(namespace)
        raise
    return namespace


def _run(command: Command, namespace: int) -> None:
    argv = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{namespace}", *command.arguments)
    done = run(argv, COMMAND_SECONDS, command.text)
    said = done.err.strip()
    if done.status and not (command.exists_is_fine and EXISTS in said):
        raise ProvisioningFailed(f"{' '.join(command.arguments)} exited with {done.status}: {said}")
