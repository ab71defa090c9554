"""A CSI driver as a program of its own: a real gRPC server on a unix socket.

`csi_driver.py DIRECTORY` listens on DIRECTORY/csi-driver.sock; how it tells its calls and what it obeys is said in
grpc_server.py. It keeps to the promises of a real driver: a stage call goes on when its caller has gone, another one
for the same volume is ABORTED meanwhile, and a volume that is staged already is a success. DIRECTORY/behaviour may also
hold {"mount": true}, which lets staging mount a tmpfs, and {"usage": {"vol-1": [15, 20]}}, how full volumes are, in
bytes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is started as a script

from tests.fakes.grpc_server import (
    Directory,
    Messages,
    enum,
    integer,
    message,
    message_types,
    refuse,
    serve,
    switch,
    text,
)

VOLUME = {"volume_id": text(1)}
MESSAGES: Messages = {
    "Pair": {"key": text(1), "value": text(2)},  # an entry of a map, on the wire
    "MountVolume": {"fs_type": text(1), "mount_flags": text(2, repeated=True)},
    "AccessMode": {"mode": enum(1, "Mode")},
    "VolumeCapability": {"mount": message(2, "MountVolume"), "access_mode": message(3, "AccessMode")},
    "NodeStageVolumeRequest": {
        **VOLUME,
        "publish_context": message(2, "Pair", repeated=True),
        "staging_target_path": text(3),
        "volume_capability": message(4, "VolumeCapability"),
        "secrets": message(5, "Pair", repeated=True),
        "volume_context": message(6, "Pair", repeated=True),
    },
    "NodeUnstageVolumeRequest": {**VOLUME, "staging_target_path": text(2)},
    "NodeGetVolumeStatsRequest": {**VOLUME, "volume_path": text(2)},
    "VolumeUsage": {"available": integer(1), "total": integer(2), "used": integer(3), "unit": enum(4, "Unit")},
    "VolumeCondition": {"abnormal": switch(1), "message": text(2)},
    "NodeGetVolumeStatsResponse": {
        "usage": message(1, "VolumeUsage", repeated=True),
        "volume_condition": message(2, "VolumeCondition"),
    },
    "Empty": {},
}
ENUMS = {"Mode": ("UNKNOWN", "SINGLE_NODE_WRITER"), "Unit": ("UNIT_UNKNOWN", "BYTES", "INODES")}


class Node:
    """The node service."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.types = Directory(directory), message_types("csi.v1", MESSAGES, ENUMS)
        self.staged: dict[str, str] = {}
        self._in_flight: set[str] = set()
        self._lock = threading.Lock()

    def guarded(self, name: str, method: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
        """The method, with one call at a time for each volume."""

        def handle(request: Any, context: Any) -> Any:
            self.directory.tell(name, request, context)
            with self._lock:
                if request.volume_id in self._in_flight:
                    refuse(context, "ABORTED", f"an operation for {request.volume_id} is in progress")
                self._in_flight.add(request.volume_id)
            try:
                self.directory.obey(name, context)
                return method(request)
            finally:
                with self._lock:
                    self._in_flight.discard(request.volume_id)

        return handle

    def stage(self, request: Any) -> Any:
        """Mount, if that is asked for."""
        path = request.staging_target_path
        if request.volume_id not in self.staged and self.directory.behaviour().get("mount"):
            os.makedirs(path, exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", request.volume_id, path], check=True)
        self.staged[request.volume_id] = path
        return self.types["Empty"]()

    def unstage(self, request: Any) -> Any:
        """Unmount what is mounted."""
        if self.staged.pop(request.volume_id, "") and self.directory.behaviour().get("mount"):
            subprocess.run(["umount", request.staging_target_path], check=True)
            os.rmdir(request.staging_target_path)
        return self.types["Empty"]()

    def stats(self, request: Any) -> Any:
        """Inodes first, as a reader must look for bytes."""
        used, total = self.directory.behaviour().get("usage", {}).get(request.volume_id, (0, 0))
        answer = self.types["NodeGetVolumeStatsResponse"]()
        answer.usage.add(unit=2, total=1000, used=1, available=999)
        answer.usage.add(unit=1, total=total, used=used, available=total - used)
        answer.volume_condition.message = "volume is healthy"
        return answer


def main(directory: Path) -> None:
    """Serve until killed."""
    node = Node(directory)
    answers = {
        "NodeStageVolume": (node.stage, "Empty"),
        "NodeUnstageVolume": (node.unstage, "Empty"),
        "NodeGetVolumeStats": (node.stats, "NodeGetVolumeStatsResponse"),
    }
    methods = {n: (node.guarded(n, method), f"{n}Request", answer) for n, (method, answer) in answers.items()}
    serve(directory / "csi-driver.sock", "csi.v1.Node", node.types, methods)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
