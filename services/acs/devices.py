"""Which devices of this machine are there: network interfaces by MAC address, volumes by what `storage` says of them.

Interfaces are read from the kernel's files, which costs microseconds and so needs no event stream: it is only done
while ECS waits for a device (spec 04 §3.4). A volume is there when the driver has mounted it, not when it is plugged in
(spec 05 §4.2).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from common.model.agent import DeviceAttachment, TaskVolume
from services.acs.attach import EBS

LINKS = "/sys/class/net"

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


def presence(with_interfaces: bool, volumes: Mapping[str, TaskVolume]) -> Presence:
    """Tells of one look around whether a device is there; `volumes` are those on record, by volume id.

    Interfaces that are switched off are never there.
    """
    addresses = hardware_addresses() if with_interfaces else set()

    def is_there(record: DeviceAttachment) -> bool:
        if record.kind != EBS:
            return record.device in addresses
        volume = volumes.get(record.device)
        return volume is not None and volume.staged and volume.attachment_arn == record.arn

    return is_there
