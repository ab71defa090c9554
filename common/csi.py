"""Calls to the node service of a CSI driver: stage, unstage and measure a volume.

Three small gRPC messages go out and one comes back (common/grpc.py). A call that runs out of time says nothing about
the driver: it may go on and succeed later (spec 05, trap 24).

Numbers of fields and methods: Container Storage Interface specification 1.x, service csi.v1.Node.
"""

from __future__ import annotations

from dataclasses import dataclass

from common import grpc
from common.grpc import INTERNAL
from common.protobuf import fields, message, number, pairs, text

SERVICE = "/csi.v1.Node/"
SINGLE_NODE_WRITER = 1  # VolumeCapability.AccessMode.Mode
BYTES = 1  # VolumeUsage.Unit

CsiError = grpc.GrpcError  # the driver refused, failed, or could not be asked


@dataclass(frozen=True)
class Usage:
    """What is used of a volume and what it holds, in bytes."""

    used: int
    total: int


class Driver:
    """A driver behind a unix socket. Every call raises CsiError, after `seconds` at the latest."""

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path

    def stage(self, volume_id: str, device: str, path: str, file_system: str, seconds: float) -> None:
        """Mount the volume on the device at `path`; one that is mounted there already is a success.

        ABORTED: an earlier call for it still runs. DEADLINE_EXCEEDED: this one may do so.
        """
        access = message(2, text(1, file_system)) + message(3, number(1, SINGLE_NODE_WRITER))
        context = pairs(2, {"devicePath": device})
        request = text(1, volume_id) + context + text(3, path) + message(4, access)
        self._call("NodeStageVolume", request, seconds)

    def unstage(self, volume_id: str, path: str, seconds: float) -> None:
        """Unmount the volume; one that is not mounted is a success."""
        self._call("NodeUnstageVolume", text(1, volume_id) + text(2, path), seconds)

    def usage(self, volume_id: str, path: str, seconds: float) -> Usage:
        """How full the volume mounted at `path` is."""
        answer = self._call("NodeGetVolumeStats", text(1, volume_id) + text(2, path), seconds)
        for key, value in fields(answer):
            entry = dict(fields(value)) if key == 1 and isinstance(value, bytes) else {}
            if entry.get(4) == BYTES:
                total, used = entry.get(2, 0), entry.get(3, 0)
                if isinstance(total, int) and isinstance(used, int):
                    return Usage(used, total)
        raise CsiError(INTERNAL, "the driver told no usage in bytes")

    def _call(self, method: str, request: bytes, seconds: float) -> bytes:
        return grpc.call(self.socket_path, SERVICE + method, request, seconds, "driver")
