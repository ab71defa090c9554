"""Elastic network interfaces of a task or an attach message (ECS agent behaviour, spec 02 §2.6).

The checks run in the order of that section's table and the first failure wins; its text goes onto the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.model.task import NetworkInterface
from common.wire.invalid import InvalidTask


def parse_interface(value: Mapping[str, Any] | None) -> NetworkInterface:
    """One interface, in canonical form. Raises InvalidTask."""
    if value is None:
        raise InvalidTask("the list of elastic network interfaces has a null element")
    ipv4 = _addresses(value.get("ipv4Addresses", []), "privateAddress")
    ipv6 = _addresses(value.get("ipv6Addresses", []), "address")
    _check_gateways(value, ipv4, ipv6)
    if "macAddress" not in value:
        raise InvalidTask("eni message validation: empty eni mac address in the message")
    if "ec2Id" not in value:
        raise InvalidTask("eni message validation: empty eni id in the message")
    protocol = value.get("interfaceAssociationProtocol", "default")
    if protocol not in ("default", "vlan"):
        raise InvalidTask(f"invalid interface association protocol: {protocol}")
    vlan = value.get("interfaceVlanProperties", {})
    if protocol == "vlan" and not (vlan.get("vlanId") and vlan.get("trunkInterfaceMacAddress")):
        raise InvalidTask("vlan interface properties missing")
    return NetworkInterface(
        ec2_id=value["ec2Id"],
        mac_address=value["macAddress"],
        attachment_arn=value.get("attachmentArn", ""),
        ipv4_addresses=ipv4,
        ipv6_addresses=ipv6,
        subnet_gateway_ipv4=value.get("subnetGatewayIpv4Address", ""),
        subnet_gateway_ipv6=value.get("subnetGatewayIpv6Address", ""),
        domain_name_servers=tuple(value.get("domainNameServers", ())),
        domain_name_search=tuple(value.get("domainName", ())),
        private_dns_name=value.get("privateDnsName", ""),
        association_protocol=protocol,
        vlan_id=vlan.get("vlanId", ""),
        trunk_mac_address=vlan.get("trunkInterfaceMacAddress", ""),
    )


def _addresses(values: list[Mapping[str, Any] | None], member: str) -> tuple[str, ...]:
    """The addresses, the primary one first."""
    ordered = sorted((v for v in values if v), key=lambda v: not v.get("primary", False))
    return tuple(v.get(member, "") for v in ordered)


def _check_gateways(value: Mapping[str, Any], ipv4: tuple[str, ...], ipv6: tuple[str, ...]) -> None:
    if ipv6 and not ipv4:
        _check_gateway(value.get("subnetGatewayIpv6Address", ""), "ipv6")
        return
    if not ipv4:
        raise InvalidTask("eni message validation: no ipv4 addresses in the message")
    _check_gateway(value.get("subnetGatewayIpv4Address", ""), "ipv4")


def _check_gateway(address: str, family: str) -> None:
    if not address:
        raise InvalidTask(f"eni message validation: no subnet gateway {family} address in the message")
    if address.count("/") != 1:
        raise InvalidTask(f"eni message validation: invalid subnet gateway {family} address {address}")
