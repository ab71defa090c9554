"""The `Networks` of a container, per API version and network mode (spec 06 §12)."""

from __future__ import annotations

import ipaddress

from common.model.task import Container, NetworkInterface, Task
from services.endpoint.encode import Object, put

IPV6_PREFIX = 64  # of a subnet, unless the gateway of an IPv6-only interface says otherwise


def has_interface(task: Task) -> bool:
    """Whether the task carries an elastic network interface; only its first one is shown."""
    return bool(task.interfaces)


def has_settings(container: Container) -> bool:
    """Whether an inspect result with network settings has been seen."""
    return bool(container.networks or container.network_mode or container.ip_address)


def of_interface(task: Task, properties: bool = False) -> list[Object]:
    """One item for any container of a task with an interface; `properties` adds what only v4 shows."""
    interface = task.interfaces[0]
    item: Object = {"NetworkMode": "awsvpc"}
    put(item, "IPv4Addresses", list(interface.ipv4_addresses))
    put(item, "IPv6Addresses", list(interface.ipv6_addresses))
    if properties:
        if task.network_mode == "awsvpc":
            item["AttachmentIndex"] = 0
        _add_properties(item, interface)
    return [item]


def _add_properties(item: Object, interface: NetworkInterface) -> None:
    ipv6_only = not interface.ipv4_addresses and bool(interface.ipv6_addresses)
    put(item, "MACAddress", interface.mac_address)
    put(item, "IPv4SubnetCIDRBlock", _network(interface.subnet_gateway_ipv4))
    put(item, "IPv6SubnetCIDRBlock", _ipv6_subnet(interface, ipv6_only))
    put(item, "DomainNameServers", list(interface.domain_name_servers))
    put(item, "DomainNameSearchList", list(interface.domain_name_search))
    put(item, "PrivateDNSName", interface.private_dns_name)
    put(item, "SubnetGatewayIpv4Address", interface.subnet_gateway_ipv4)
    # The gateway of a dual-stack interface is not shown, as it never was (W17).
    put(item, "SubnetGatewayIpv6Address", interface.subnet_gateway_ipv6 if ipv6_only else "")


def _ipv6_subnet(interface: NetworkInterface, ipv6_only: bool) -> str:
    if not interface.ipv6_addresses:
        return ""
    length = str(IPV6_PREFIX)
    if ipv6_only and "/" in interface.subnet_gateway_ipv6:
        length = interface.subnet_gateway_ipv6.rsplit("/", 1)[1]
    return _network(f"{interface.ipv6_addresses[0]}/{length}")


def _network(address: str) -> str:
    """The network of `address/length`; "" when it is none."""
    if "/" not in address:
        return ""
    try:
        return str(ipaddress.ip_interface(address).network)
    except ValueError:
        return ""


def of_docker(container: Container, with_ipv6: bool) -> list[Object]:
    """One item per Docker network, or one for the top level address; an empty address is sent as it is."""
    if not container.networks:
        return [_docker_item(container.network_mode, container.ip_address, container.ipv6_address * with_ipv6)]
    return [_docker_item(n.name, n.ip_address, n.ipv6_address * with_ipv6) for n in container.networks]


def _docker_item(mode: str, ipv4: str, ipv6: str) -> Object:
    item: Object = {"NetworkMode": mode, "IPv4Addresses": [ipv4]}
    if ipv6:
        item["IPv6Addresses"] = [ipv6]
    return item
