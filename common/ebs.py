"""EBS volumes attached to tasks: the names that several processes must agree on (ECS agent behaviour, spec 05 §4, §5).

ECS announces a volume (`acs`), the driver mounts it below VOLUMES (`storage`), containers bind-mount it from there
(`engine`), and its use is reported (`telemetry`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

KIND = "amazonebs"  # of attachments and of volumes
VOLUMES = "/mnt/ecs/ebs"  # where the driver mounts volumes, each in the directory that ECS names
DRIVER_IMAGE = "ebs-csi-driver:latest"
DRIVER_ARCHIVE = "/var/lib/ecs/deps/daemons/ebs-csi-driver/ebs-csi-driver.tar"


def staging_path(source_volume_host_path: str, root: str = VOLUMES) -> str:
    """Where a volume is mounted on the host; `source_volume_host_path` is its property of that name."""
    return f"{root}/{source_volume_host_path}"


def has_driver(config: Mapping[str, Any]) -> bool:
    """Whether this agent attaches volumes: it is switched on and the operator has put the driver's image there."""
    return bool(config["ECS_EBSTA_SUPPORTED"]) and os.path.exists(DRIVER_ARCHIVE)
