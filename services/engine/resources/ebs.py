"""EBS volumes of a task: nothing to make, they are mounted on the host before ECS sends the task (spec 05 §4.3).

`storage` has them mounted; here a container only gets its binds (volume.py) and the group that owns the volume's files.
"""

from __future__ import annotations

import hashlib
import logging
import os

from common.ebs import KIND, staging_path
from common.logs import fields
from common.model.task import Container, Task
from services.engine.resources.volume import member

log = logging.getLogger(__name__)

FIRST_GROUP, GROUPS = 900_000, 100_000


def group_of(source_volume_host_path: str) -> int:
    """The group that the driver gives the volume to, so that users other than root can write to it."""
    digest = hashlib.sha256(source_volume_host_path.encode()).digest()
    return FIRST_GROUP + int.from_bytes(digest[-4:], "big") % GROUPS


def groups(task: Task, container: Container) -> list[str]:
    """Supplementary groups of the container: that of its first EBS volume (the reference knows no second)."""
    volumes = {v.name: v for v in task.volumes if v.type == KIND}
    for mount in container.mount_points:
        if mount.source_volume in volumes:
            path = member(volumes[mount.source_volume].configuration, "sourceVolumeHostPath")
            return [str(group_of(str(path or "")))]
    return []


def look_for_mounts(task: Task) -> None:
    """Warn of volumes that are not mounted: Docker makes the directory, and the task writes to the host's own disk.

    It runs nevertheless, as under the reference: ECS sends such a task only after it was told ATTACHED.
    """
    for volume in task.volumes:
        path = staging_path(str(member(volume.configuration, "sourceVolumeHostPath") or ""))
        if volume.type == KIND and not os.path.ismount(path):
            log.error("no EBS volume is mounted at %s; the task's data goes to the host's disk", path,
                      **fields(task=task.arn))  # fmt: skip
