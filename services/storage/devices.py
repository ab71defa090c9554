"""Finding a volume among the block devices, and what the driver's mounts need of the host."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from common.command import CommandFailed, run

LSBLK = ("lsblk", "-o", "NAME,SERIAL", "-J")
LSBLK_SECONDS = 300.0
MOUNTS = "/proc/self/mountinfo"
BLOCKS = "/sys/block"


class NotFound(Exception):
    """The volume's device is not there yet."""


def find(volume_id: str, blocks: str = BLOCKS) -> str:
    """The device of a volume: EBS shows the id, without its hyphen, as the serial number of an NVMe device.

    Raises NotFound. Partitions are not searched: a task's volume has none. lsblk has the serial numbers from udev;
    where that does not run, the kernel's own file tells (trap 22).
    """
    problem = ""
    try:
        name = name_of(volume_id, listed_devices())
    except (ValueError, AttributeError, CommandFailed) as error:
        name, problem = "", f" ({LSBLK[0]} cannot be asked: {error})"
    name = name or name_of(volume_id, kernel_devices(blocks))
    if not name:
        raise NotFound(f"no block device has the serial number {serial(volume_id)} yet{problem}")
    return f"/dev/{name}"


def listed_devices() -> list[Any]:
    """What lsblk lists. Raises CommandFailed, ValueError, AttributeError."""
    listed = run(LSBLK, LSBLK_SECONDS)
    if listed.status:
        raise CommandFailed(f"{LSBLK[0]} ended with {listed.status}: {listed.complaint()}")
    return list(json.loads(listed.out).get("blockdevices") or [])


def kernel_devices(blocks: str = BLOCKS) -> Iterator[dict[str, str]]:
    """The block devices whose driver shows a serial number in sysfs, in the form of lsblk."""
    for name in sorted(os.listdir(blocks)) if os.path.isdir(blocks) else ():
        try:
            with open(f"{blocks}/{name}/device/serial", encoding="ascii", errors="replace") as file:
                yield {"name": name, "serial": file.read()}
        except OSError:
            continue  # most kinds of devices have none


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
        os.chmod(path, mode & ~0o022)  # whatever the umask that this process was started with
    if os.geteuid() == 0:
        os.chown(path, 0, os.getegid())
