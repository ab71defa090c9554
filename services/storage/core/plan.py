"""What must be done about which volume (ECS agent behaviour, spec 05 §4).

A volume is wanted from its attachment's arrival until its task has stopped. One that is wanted and not mounted is
staged; one that is no longer wanted is unstaged, whatever became of it before: a stage call that ran out of time may
have succeeded since. Its document exists from before the first call until after the last, so that a crash at any
moment leaves no mount behind that nobody knows.

The reference stages whatever waits and unstages what a stopping task mounts; a volume whose attachment expired stays
mounted there.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from common.ebs import KIND
from common.model.agent import DeviceAttachment, TaskVolume
from common.model.status import TaskStatus
from common.model.task import Task


@dataclass(frozen=True)
class Plan:
    """Volumes to record, to stage and to unstage; and what cannot be done, with the reason, by attachment ARN."""

    new: tuple[TaskVolume, ...] = ()
    stage: tuple[TaskVolume, ...] = ()
    unstage: tuple[TaskVolume, ...] = ()
    refused: Mapping[str, str] | None = None

    def __bool__(self) -> bool:
        return bool(self.new or self.stage or self.unstage)


def waits(attachment: DeviceAttachment, now: float) -> bool:
    """ECS waits for this volume: it has not been told of it, and its time is not over."""
    open_ = not (attachment.attached or attachment.sent)
    return attachment.kind == KIND and open_ and attachment.expires_at > now


def plan(
    attachments: Iterable[DeviceAttachment],
    volumes: Mapping[str, TaskVolume],
    tasks: Mapping[str, Task],
    now: float,
    complete: bool = True,
) -> Plan:
    """What to do now. `volumes` are those on record by id, `tasks` all tasks by ARN.

    `complete` is False while documents may be missing (the store has lost its data and is being filled again): what
    is absent proves nothing then.
    """
    of_ecs = {a.arn: a for a in attachments if a.kind == KIND}
    refused: dict[str, str] = {}
    new = []
    for attachment in of_ecs.values():
        if not waits(attachment, now) or attachment.device in volumes:
            continue  # an earlier attachment's volume of that id is unstaged first
        path = attachment.properties.get("sourceVolumeHostPath", "")
        if is_below(path):
            new.append(volume_of(attachment))
        else:
            refused[attachment.arn] = f"its directory {path!r} does not lie below the directory of volumes"
    stage, unstage = [], []
    for volume in volumes.values():
        if not is_wanted(volume, of_ecs.get(volume.attachment_arn), tasks, now, complete):
            unstage.append(volume)
        elif not volume.staged:
            stage.append(volume)
    return Plan(tuple(new), tuple(stage), tuple(unstage), refused)


def is_wanted(
    volume: TaskVolume,
    attachment: DeviceAttachment | None,
    tasks: Mapping[str, Task],
    now: float,
    complete: bool = True,
) -> bool:
    """Whether a task uses the volume or is going to."""
    users = users_of(volume, tasks)
    if any(task.known != TaskStatus.STOPPED for task in users):
        return True
    if users and (volume.task_arn or attachment is None or attachment.sent):
        return False
    if attachment is None:
        return not complete
    return attachment.sent or attachment.expires_at > now  # sent: its task is on its way


def users_of(volume: TaskVolume, tasks: Mapping[str, Task]) -> list[Task]:
    """The tasks of the volume: the one that its attachment names, else whichever mounts it."""
    if volume.task_arn:
        return [tasks[volume.task_arn]] if volume.task_arn in tasks else []
    return [t for t in tasks.values() if volume.volume_id in volume_ids(t)]


def volume_ids(task: Task) -> set[str]:
    """The ids of the task's EBS volumes."""
    return {str(v.configuration.get("volumeId", "")) for v in task.volumes if v.type == KIND}


def volume_of(attachment: DeviceAttachment) -> TaskVolume:
    """The record of a volume that was just announced."""
    return TaskVolume(
        volume_id=attachment.device,
        attachment_arn=attachment.arn,
        task_arn=attachment.task_arn,
        path=attachment.properties.get("sourceVolumeHostPath", ""),
        file_system=attachment.properties.get("fileSystem", ""),
    )


def is_below(path: str) -> bool:
    """Whether a relative path stays inside the directory that it is joined to."""
    return bool(path) and not path.startswith("/") and posixpath.normpath(path).split("/")[0] not in ("..", ".")
