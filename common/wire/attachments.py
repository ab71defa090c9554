"""Attachments inside a task payload: Service Connect, EBS and S3 Files (ECS agent behaviour, spec 02 §2.8)."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from common.model.task import Attachment
from common.serviceconnect import ATTACHMENT as SERVICE_CONNECT
from common.serviceconnect import CONFIG as SC_CONFIG
from common.serviceconnect import CONTAINER_NAME as SC_CONTAINER
from common.wire import jsontext
from common.wire.invalid import InvalidTask
from common.wire.shapes import Mismatch, integer, list_of, string, struct

log = logging.getLogger(__name__)

PORT_MAX = 65535
NOT_A_PORT = "port=0 is not a valid port. A valid port ranges from 1 through 65535"

# attachment type -> required properties, optional properties, where it is parsed, short name, name in "empty value"
VOLUMES = {
    "amazonebs": (
        ("volumeId", "volumeName", "sourceVolumeHostPath"),
        ("volumeSizeGib", "deviceName", "fileSystem"),
        "unable to parse and validate EBS volume",
        "EBS",
        "task ebs",
    ),
    "s3files": (
        ("volumeId", "volumeName"),
        ("s3FilesRootDirectory", "s3FilesTransitEncryptionPort", "s3FilesAccessPointId"),
        "unable to parse and validate S3 Files volume",
        "S3 Files",
        "s3files",
    ),
}


def port_number(value: Any) -> int:
    """An integer of 16 bits, 0 included."""
    if not 0 <= integer(value) <= PORT_MAX:
        raise Mismatch(f"an integer from 0 to {PORT_MAX}")
    return int(value)


SERVICE_CONNECT_CONFIG = struct(
    ingressConfig=list_of(
        struct(listenerName=string, listenerPort=port_number, interceptPort=port_number, hostPort=port_number), {}
    ),
    egressConfig=struct(listenerName=string, listenerPort=port_number, vip=struct(ipv4Cidr=string, ipv6Cidr=string)),
    dnsConfig=list_of(struct(hostName=string, address=string), {}),
)


def properties_of(attachment: Mapping[str, Any]) -> dict[str, str]:
    """The properties of an attachment by name; of repeated names the last wins."""
    pairs = attachment.get("attachmentProperties", [])
    return {p.get("name", ""): p.get("value", "") for p in pairs if p}


def parse_attachments(task: Mapping[str, Any], mode: str, containers: Sequence[str]) -> tuple[Attachment, ...]:
    """The attachments of a task in canonical form, checked. Raises InvalidTask."""
    result = []
    last_service_connect: dict[str, str] | None = None
    for value in task.get("attachments", []):
        if not value:
            continue
        type_, properties = value.get("attachmentType", ""), properties_of(value)
        if type_ in VOLUMES:
            _check_volume(type_, properties)
        elif type_ == SERVICE_CONNECT:
            last_service_connect = properties
        result.append(Attachment(arn=value.get("attachmentArn", ""), type=type_, properties=properties))
    if last_service_connect is not None:
        _check_service_connect(last_service_connect, mode, containers)
    return tuple(result)


def _check_volume(type_: str, properties: Mapping[str, str]) -> None:
    required, optional, where, short, long = VOLUMES[type_]
    for name, value in properties.items():
        if not value:
            raise InvalidTask(
                f"{where}: failed to parse {long} attachment, encountered empty value for property: {name}"
            )
        if name not in required and name not in optional:
            log.warning("an attachment of type %s has the unknown property %r; it is ignored", type_, name)
    for name in required:
        if name not in properties:
            raise InvalidTask(f"{where}: missing {name} in the {short} config")


# -- Service Connect ---------------------------------------------------------------------------


def _check_service_connect(properties: Mapping[str, str], mode: str, containers: Sequence[str]) -> None:
    where = "error parsing service connect config value from the service connect attachment"
    has_config, has_name = SC_CONFIG in properties, SC_CONTAINER in properties
    if not (has_config and has_name):
        raise InvalidTask(
            f"{where}: missing service connect config required key(s) in the attachment: found service connect config "
            f"key: {str(has_config).lower()}, found service connect container name key: {str(has_name).lower()}"
        )
    try:
        config = service_connect_config(properties)
    except (jsontext.NotJson, Mismatch) as error:
        raise InvalidTask(f"{where}: failed to unmarshal service connect attachment property value: {error}") from None
    problem = (
        _container_problem(properties[SC_CONTAINER], containers)
        or _egress_problem(config.get("egressConfig"))
        or _dns_problem(config.get("dnsConfig", []))
        or _ingress_problem(config.get("ingressConfig", []), mode)
    )
    if problem:
        raise InvalidTask(f"service connect config validation failed: {problem}")


def service_connect_config(properties: Mapping[str, str]) -> dict[str, Any]:
    """The configuration in the properties of an attachment, by its members' names. Raises NotJson or Mismatch."""
    value = jsontext.loads(properties[SC_CONFIG])
    return dict(SERVICE_CONNECT_CONFIG({} if value is None else value))


def _container_problem(name: str, containers: Sequence[str]) -> str:
    count = list(containers).count(name)
    if not name:
        return "missing service connect container name"
    if count == 0:
        return f"service connect container name={name} does not exist in the task"
    if count > 1:
        return f"found {count} duplicate service connect container name={name} in the task"
    return ""


def _egress_problem(egress: Mapping[str, Any] | None) -> str:
    if egress is None:
        return ""
    if not egress.get("listenerName"):
        return "missing listener name in the egress config"
    vip = egress.get("vip", {})
    for member, family in (("ipv4Cidr", "IPv4"), ("ipv6Cidr", "IPv6")):
        cidr = vip.get(member, "").strip()
        if cidr and not _is_cidr(cidr, only_v4=family == "IPv4"):
            return f"CIDR={cidr} is not a valid {family} CIDR"
    return ""


def _is_cidr(text: str, only_v4: bool) -> bool:
    """An address without a zone, and a prefix length; Python would take a netmask as well."""
    address, _, length = text.partition("/")
    try:
        version = ipaddress.ip_network(text, strict=False).version
    except ValueError:
        return False
    return "%" not in address and length.isdecimal() and (version == 4 or not only_v4)


def _dns_problem(entries: Sequence[Mapping[str, Any]]) -> str:
    for entry in entries:
        host, address = entry.get("hostName", ""), entry.get("address", "")
        if not host:
            return f"missing hostname in the DNS config with hostname={host}, and address={address}"
        if not address:
            return f"missing address in the DNS config with hostname={host}, and address={address}"
        if not _is_ip(address):
            return (
                f"hostname={host}, address={address} in the DNS config is not valid: "
                f"address={address} is not a valid IP address"
            )
    return ""


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _ingress_problem(entries: Sequence[Mapping[str, Any]], mode: str) -> str:
    if entries and mode not in ("bridge", "awsvpc"):
        return f"service connect does not support for {mode} newtork mode"  # as the reference spells it
    seen: set[int] = set()
    seen_host: set[int] = set()
    for entry in entries:
        problem = _intercept_problem(entry, mode, seen) or _listener_problem(entry, seen)
        problem = problem or (_host_problem(entry, seen_host) if mode == "bridge" else "")
        if problem:
            return problem
    return ""


def _intercept_problem(entry: Mapping[str, Any], mode: str, seen: set[int]) -> str:
    port, name = entry.get("interceptPort"), entry.get("listenerName", "")
    if port is None:
        return ""
    if mode != "awsvpc":
        log.warning("an intercept port has no effect in %s network mode", mode)
        return ""
    if port == 0:
        return f"intercept port=0 in the ingress config is not valid: {NOT_A_PORT}"
    if not name:
        return f"missing listener name in the ingress config with intercept port={port}"
    if port in seen:
        return (
            f"intercept port collision detected in the ingress config with intercept port={port}, "
            f"and listener name={name}"
        )
    seen.add(port)
    return ""


def _listener_problem(entry: Mapping[str, Any], seen: set[int]) -> str:
    port = entry.get("listenerPort", 0)
    if port == 0:
        return ""
    if port in seen:
        return (
            f"listener port collision detected in the ingress config with listener port={port}, "
            f"and listener name={entry.get('listenerName', '')}"
        )
    seen.add(port)
    return ""


def _host_problem(entry: Mapping[str, Any], seen: set[int]) -> str:
    port = entry.get("hostPort")
    if port is None:
        return ""
    if port == 0:
        return f"host port=0 in the ingress config is not valid: {NOT_A_PORT}"
    if port in seen:
        return (
            f"host port collision detected in the ingress config with host port={port}, "
            f"and listener name={entry.get('listenerName', '')}"
        )
    seen.add(port)
    return ""
