"""Which devices of this machine are there: network interfaces by MAC address, volumes by where they are mounted.

Read from the kernel's files, which costs microseconds and so needs no event stream: it is only done while ECS waits for
a device (spec 04 §3.4, spec 05 §4).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from common.model.agent import DeviceAttachment
from services.acs.attach import EBS

LINKS = "/sys/class/net"
MOUNTS = "/proc/self/mountinfo"
VOLUMES = "/mnt/ecs/ebs"  # where volumes of tasks are mounted, by their sourceVolumeHostPath

Presence = Callable[[DeviceAttachment], bool]


def hardware_addresses(root: str = LINKS) -> set[str]:
    """The MAC addresses of all links that are devices; bridges, veth pairs, VLANs and loopback are none."""
    found = set()
    for name in os.listdir(root):
        path = os.path.realpath(os.path.join(root, name))
        if "/devices/virtual/" in path:
            continue
        try:
            with open(os.path.join(path, "address"), encoding="ascii") as file:
                found.add(file.read().strip().lower())
        except OSError:
            continue  # unplugged between the two looks, or bonding_masters, which is no link
    return found


def mount_points(path: str = MOUNTS) -> set[str]:
    """Every mount point (proc(5), field 5 of mountinfo)."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return {line.split(" ", 5)[4] for line in file}


def presence(with_interfaces: bool, with_volumes: bool) -> Presence:
    """Tells of one look around whether a device is there; a kind that is switched off is never there."""
    addresses = hardware_addresses() if with_interfaces else set()
    mounted = mount_points() if with_volumes else set()

    def is_there(record: DeviceAttachment) -> bool:
        if record.kind == EBS:
            return f"{VOLUMES}/{record.properties.get('sourceVolumeHostPath', '')}" in mounted
        return record.device in addresses

    return is_there
