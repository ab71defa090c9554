"""Volumes of a task, including those that its attachments bring (ECS agent behaviour, spec 02 §2.7)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from common.model.task import Volume
from common.wire.attachments import properties_of
from common.wire.invalid import InvalidTask

CONFIGURATION = {
    "host": "host",
    "docker": "dockerVolumeConfiguration",
    "efs": "efsVolumeConfiguration",
    "fsxWindowsFileServer": "fsxWindowsFileServerVolumeConfiguration",
    "amazonebs": "ebsVolumeConfiguration",
}
ATTACHED = ("amazonebs", "s3files")  # attachment types that are volumes


def parse_volumes(task: Mapping[str, Any]) -> tuple[Volume, ...]:
    """The volumes of a task in canonical form. Raises InvalidTask.

    A volume without a type that an attachment provides only keeps the name (of several EBS attachments the first one's
    alone, spec 02 §2.7); every attached volume replaces those of its name and stands at the end of the list.
    """
    attached = list(_attached(task.get("attachments", [])))
    names = {volume.name: volume.type for volume in attached}
    first_ebs = next((v.name for v in attached if v.type == "amazonebs"), None)
    placed = {v.name for v in attached if v.type != "amazonebs" or v.name == first_ebs}
    volumes = []
    for value in task.get("volumes", []):
        if value is None:
            raise InvalidTask("invalid Volume; must include a name")
        if value.get("name") in placed and "type" not in value:
            value = {**value, "type": "attachment"}
        volumes.append(_volume(value))
    kept = [v for v in volumes if v.name not in names or v.type == names[v.name]]
    return (*kept, *attached)


def _attached(attachments: list[Mapping[str, Any] | None]) -> Iterator[Volume]:
    for attachment in attachments:
        if attachment and attachment.get("attachmentType") in ATTACHED:
            properties = properties_of(attachment)
            if properties.get("volumeName"):
                yield Volume(
                    name=properties["volumeName"], type=attachment["attachmentType"], configuration=dict(properties)
                )


def _volume(value: Mapping[str, Any]) -> Volume:
    if "name" not in value:
        raise InvalidTask("invalid Volume; must include a name")
    type_ = value.get("type", "host")
    if type_ == "attachment":
        return Volume(name=value["name"], type=type_)
    if type_ == "s3files":
        raise InvalidTask("invalid volume: empty s3files volume configuration")
    if type_ not in CONFIGURATION:
        raise InvalidTask(f'unrecognized volume type: "{type_}"')
    configuration = value.get(CONFIGURATION[type_])
    if configuration is None:
        raise InvalidTask("invalid volume: empty volume configuration")
    if type_ == "host":
        return Volume(name=value["name"], type=type_, host_path=configuration.get("sourcePath", ""))
    # Empty lists and maps mean the same as absent everywhere in a task.
    return Volume(name=value["name"], type=type_, configuration={k: v for k, v in configuration.items() if v != {}})
