"""Attachment messages: which are valid, and what they announce (ECS agent behaviour, spec 02 §6.2).

Only a valid message is acknowledged. A resource attachment of another kind than an EBS volume is valid and means
nothing to this agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.errors import Permanent
from common.model.agent import DeviceAttachment
from common.wire.attachments import properties_of
from common.wire.interfaces import parse_interface

TASK_ENI, INSTANCE_ENI, EBS = "task-eni", "instance-eni", "amazonebs"
EBS_REQUIRED = ("volumeId", "volumeSizeGib", "deviceName", "sourceVolumeHostPath", "volumeName")
FILE_SYSTEMS = ("xfs", "ext2", "ext3", "ext4", "ntfs")
BY_RESOURCE_TYPE = {
    "EphemeralStorage": ("volumeID", "deviceName", "volumeSizeInGiB", "requestedSizeInGiB", "resourceID"),
    "ElasticBlockStorage": ("volumeID", "deviceName"),
}
ARN_SECTIONS = 6  # separated by colons
CONFIRMATION_WAIT_MS = 300_000  # of a resource attachment without waitTimeoutMs


class Unusable(Permanent):
    """The message is not valid; it is neither acknowledged nor acted upon."""


def is_arn(text: str) -> bool:
    """Whether it parses as an ARN."""
    return text.startswith("arn:") and text.count(":") >= ARN_SECTIONS - 1


def interfaces(message: Mapping[str, Any], kind: str, now: float) -> list[DeviceAttachment]:
    """What an ENI message announces. Raises Unusable or InvalidTask; one bad interface spoils the message."""
    wait_ms = message.get("waitTimeoutMs", 0)
    if wait_ms <= 0:
        raise Unusable("waitTimeoutMs is missing or not above zero")
    found = [parse_interface(value) for value in message.get("elasticNetworkInterfaces", [])]
    if not found:
        raise Unusable("it names no network interface")
    return [
        _announced(message, kind, interface.attachment_arn, interface.mac_address.lower(), now + wait_ms / 1000)
        for interface in found
    ]


def confirmation(message: Mapping[str, Any], now: float) -> list[DeviceAttachment]:
    """What a ConfirmAttachmentMessage announces: one volume, or nothing that concerns this agent. Raises Unusable."""
    attachment = message.get("attachment")
    if attachment is None:
        raise Unusable("it has no attachment")
    arns = {
        "clusterArn": message.get("clusterArn", ""),
        "containerInstanceArn": message.get("containerInstanceArn", ""),
        "attachmentArn": attachment.get("attachmentArn", ""),
    }
    for name, arn in arns.items():
        if not is_arn(arn):
            raise Unusable(f"{name} {arn!r} is not an ARN")
    properties = _properties(attachment)
    if attachment.get("attachmentType") != EBS:
        return []
    until = now + (message.get("waitTimeoutMs") or CONFIRMATION_WAIT_MS) / 1000
    return [_announced(message, EBS, arns["attachmentArn"], properties["volumeId"], until, properties)]


def _announced(
    message: Mapping[str, Any],
    kind: str,
    arn: str,
    device: str,
    expires_at: float,
    properties: Mapping[str, str] | None = None,
) -> DeviceAttachment:
    return DeviceAttachment(
        arn=arn, kind=kind, device=device, expires_at=expires_at,
        task_arn=message.get("taskArn", ""),
        cluster_arn=message.get("clusterArn", ""),
        instance_arn=message.get("containerInstanceArn", ""),
        properties=dict(properties or {}),
    )  # fmt: skip


def _properties(attachment: Mapping[str, Any]) -> dict[str, str]:
    for pair in attachment.get("attachmentProperties", []):
        if not (pair or {}).get("name") or not (pair or {}).get("value"):
            raise Unusable(f"its property {(pair or {}).get('name', '')!r} has no name or no value")
    properties = properties_of(attachment)
    if attachment.get("attachmentType") == EBS:
        required: tuple[str, ...] = EBS_REQUIRED
        if properties.get("fileSystem", FILE_SYSTEMS[0]) not in FILE_SYSTEMS:
            raise Unusable(f"its file system {properties['fileSystem']!r} is none of {', '.join(FILE_SYSTEMS)}")
    else:
        kind = properties.get("resourceType", "")
        if kind not in BY_RESOURCE_TYPE:
            raise Unusable(f"its resource type {kind!r} is unknown")
        required = BY_RESOURCE_TYPE[kind]
    missing = [name for name in required if name not in properties]
    if missing:
        raise Unusable(f"it lacks the properties {', '.join(missing)}")
    return properties
