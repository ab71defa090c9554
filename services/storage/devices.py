"""Finding a volume among the block devices, and what the driver's mounts need of the host."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from typing import Any

LSBLK = ("lsblk", "-o", "NAME,SERIAL", "-J")
LSBLK_SECONDS = 300.0
MOUNTS = "/proc/self/mountinfo"


class NotFound(Exception):
    """The volume's device is not there (yet), or cannot be looked for; the text says which."""


def find(volume_id: str) -> str:
    """The device of a volume: EBS shows the id, without its hyphen, as the serial number of an NVMe device.

    Raises NotFound. Partitions are not searched: a task's volume has none.
    """
    try:
        listed = subprocess.run(LSBLK, capture_output=True, timeout=LSBLK_SECONDS, check=True).stdout
        devices = json.loads(listed).get("blockdevices") or []
    except subprocess.SubprocessError as error:
        raise NotFound(f"block devices cannot be listed: {error}") from error
    except (OSError, ValueError, AttributeError) as error:
        raise NotFound(f"block devices cannot be listed with {LSBLK[0]}: {error}") from error
    name = name_of(volume_id, devices)
    if not name:
        raise NotFound(f"no block device has the serial number {serial(volume_id)} yet")
    return f"/dev/{name}"


def serial(volume_id: str) -> str:
    """The serial number that a volume shows."""
    return volume_id.replace("-", "")


def name_of(volume_id: str, devices: Iterable[Any]) -> str:
    """The name of the top-level device with the volume's serial number, "" when there is none."""
    for device in devices:
        if isinstance(device, dict) and str(device.get("serial") or "").strip() == serial(volume_id):
            return str(device.get("name") or "")
    return ""


def is_shared(path: str, mountinfo: str = MOUNTS) -> bool:
    """Whether mounts made below `path` in another mount namespace appear here (proc(5), optional fields)."""
    best, shared = "", False
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            point = fields[4]
            inside = path == point or path.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):  # of several mounts on one point the last one counts
                best, shared = point, any(f.startswith("shared:") for f in fields[6 : fields.index("-")])
    return shared


def prepare_directory(path: str, mode: int) -> None:
    """Make a directory that is mounted into the driver, and give it to root and our group. Raises OSError."""
    if not os.path.isdir(path):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode & ~0o022)  # as under the usual umask; ours lets nobody else in
    if os.geteuid() == 0:
        os.chown(path, 0, os.getegid())
