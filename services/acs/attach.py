"""Which attachment messages are valid, and so acknowledged (ECS agent behaviour, spec 02 §6.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.errors import Permanent
from common.wire.attachments import properties_of
from common.wire.interfaces import parse_interface

EBS_REQUIRED = ("volumeId", "volumeSizeGib", "deviceName", "sourceVolumeHostPath", "volumeName")
FILE_SYSTEMS = ("xfs", "ext2", "ext3", "ext4", "ntfs")
BY_RESOURCE_TYPE = {
    "EphemeralStorage": ("volumeID", "deviceName", "volumeSizeInGiB", "requestedSizeInGiB", "resourceID"),
    "ElasticBlockStorage": ("volumeID", "deviceName"),
}
ARN_SECTIONS = 6


class Unusable(Permanent):
    """The message is not valid; it is neither acknowledged nor acted upon."""


def check_interfaces(message: Mapping[str, Any]) -> list[str]:
    """The attachment ARNs of an ENI message. Raises Unusable or InvalidTask; one bad interface spoils the message."""
    if message.get("waitTimeoutMs", 0) <= 0:
        raise Unusable("waitTimeoutMs is missing or not above zero")
    interfaces = [parse_interface(value) for value in message.get("elasticNetworkInterfaces", [])]
    if not interfaces:
        raise Unusable("it names no network interface")
    return [interface.attachment_arn for interface in interfaces]


def check_confirmation(message: Mapping[str, Any]) -> list[str]:
    """The attachment ARN of a ConfirmAttachmentMessage, as a list. Raises Unusable."""
    attachment = message.get("attachment")
    if attachment is None:
        raise Unusable("it has no attachment")
    arns = {
        "clusterArn": message.get("clusterArn", ""),
        "containerInstanceArn": message.get("containerInstanceArn", ""),
        "attachmentArn": attachment.get("attachmentArn", ""),
    }
    for name, arn in arns.items():
        if not arn.startswith("arn:") or len(arn.split(":")) < ARN_SECTIONS:
            raise Unusable(f"{name} {arn!r} is not an ARN")
    _check_properties(attachment)
    return [arns["attachmentArn"]]


def _check_properties(attachment: Mapping[str, Any]) -> None:
    properties = properties_of(attachment)
    for name, value in properties.items():
        if not name or not value:
            raise Unusable(f"its property {name!r} has no name or no value")
    if attachment.get("attachmentType") == "amazonebs":
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
