"""A CSI driver as a program of its own: a real gRPC server, made with grpcio and protobuf, on a unix socket.

`csi_driver.py DIRECTORY` listens on DIRECTORY/csi-driver.sock and writes each call as a line of JSON into
DIRECTORY/calls. It keeps to the promises of a real driver: a stage call goes on when its caller has gone, another one
for the same volume is ABORTED meanwhile, and a volume that is staged already is a success. DIRECTORY/behaviour, read at
each call, holds a JSON object: {"NodeStageVolume": {"seconds": 3, "status": "INTERNAL", "message": "no"}} lets a method
take its time and fail, {"mount": true} lets staging mount a tmpfs, {"usage": {"vol-1": [15, 20]}} says how full
volumes are, in bytes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

TEXT, NUMBER, ENUM, MESSAGE, SWITCH = 9, 3, 14, 11, 8  # FieldDescriptorProto.Type
# message -> field -> (number, type, repeated, name of the message or enum)
MESSAGES: dict[str, dict[str, tuple[int, int, bool, str]]] = {
    "Pair": {"key": (1, TEXT, False, ""), "value": (2, TEXT, False, "")},  # an entry of a map, on the wire
    "MountVolume": {"fs_type": (1, TEXT, False, ""), "mount_flags": (2, TEXT, True, "")},
    "AccessMode": {"mode": (1, ENUM, False, "Mode")},
    "VolumeCapability": {"mount": (2, MESSAGE, False, "MountVolume"), "access_mode": (3, MESSAGE, False, "AccessMode")},
    "NodeStageVolumeRequest": {
        "volume_id": (1, TEXT, False, ""),
        "publish_context": (2, MESSAGE, True, "Pair"),
        "staging_target_path": (3, TEXT, False, ""),
        "volume_capability": (4, MESSAGE, False, "VolumeCapability"),
        "secrets": (5, MESSAGE, True, "Pair"),
        "volume_context": (6, MESSAGE, True, "Pair"),
    },
    "NodeUnstageVolumeRequest": {"volume_id": (1, TEXT, False, ""), "staging_target_path": (2, TEXT, False, "")},
    "NodeGetVolumeStatsRequest": {"volume_id": (1, TEXT, False, ""), "volume_path": (2, TEXT, False, "")},
    "VolumeUsage": {
        "available": (1, NUMBER, False, ""),
        "total": (2, NUMBER, False, ""),
        "used": (3, NUMBER, False, ""),
        "unit": (4, ENUM, False, "Unit"),
    },
    "VolumeCondition": {"abnormal": (1, SWITCH, False, ""), "message": (2, TEXT, False, "")},
    "NodeGetVolumeStatsResponse": {
        "usage": (1, MESSAGE, True, "VolumeUsage"),
        "volume_condition": (2, MESSAGE, False, "VolumeCondition"),
    },
    "Empty": {},
}
ENUMS = {"Mode": ("UNKNOWN", "SINGLE_NODE_WRITER"), "Unit": ("UNIT_UNKNOWN", "BYTES", "INODES")}


def message_types() -> dict[str, Any]:
    """The classes of MESSAGES, made from descriptors."""
    file = descriptor_pb2.FileDescriptorProto(name="csi.proto", package="csi.v1", syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, type_, repeated, of) in fields.items():
            added = message.field.add(name=field, number=number, type=type_, label=3 if repeated else 1)
            if of:
                added.type_name = f".csi.v1.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {n: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"csi.v1.{n}")) for n in MESSAGES}


class Node:
    """The node service."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.types = directory, message_types()
        self.staged: dict[str, str] = {}
        self._in_flight: set[str] = set()
        self._lock = threading.Lock()

    def behaviour(self) -> dict[str, Any]:
        """What the test asks for now."""
        path = self.directory / "behaviour"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def handlers(self) -> Any:
        """The gRPC handlers of the methods."""
        methods = {
            "NodeStageVolume": (self.stage, "Empty"),
            "NodeUnstageVolume": (self.unstage, "Empty"),
            "NodeGetVolumeStats": (self.stats, "NodeGetVolumeStatsResponse"),
        }
        table = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(name, method),
                request_deserializer=self.types[f"{name}Request"].FromString,
                response_serializer=self.types[answer].SerializeToString,
            )
            for name, (method, answer) in methods.items()
        }
        return grpc.method_handlers_generic_handler("csi.v1.Node", table)

    def _guarded(self, name: str, method: Any) -> Any:
        def handle(request: Any, context: Any) -> Any:
            told = json_format.MessageToDict(request, preserving_proto_field_name=True)
            line = {"method": name, "request": told, "left": context.time_remaining(), "at": time.time()}
            with self._lock, open(self.directory / "calls", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            wanted = self.behaviour().get(name, {})
            with self._lock:
                if request.volume_id in self._in_flight:
                    context.abort(grpc.StatusCode.ABORTED, f"an operation for {request.volume_id} is in progress")
                self._in_flight.add(request.volume_id)
            try:
                time.sleep(wanted.get("seconds", 0.0))
                if wanted.get("status"):
                    context.abort(grpc.StatusCode[wanted["status"]], wanted.get("message", "as asked for"))
                return method(request)
            finally:
                with self._lock:
                    self._in_flight.discard(request.volume_id)

        return handle

    def stage(self, request: Any) -> Any:
        """Mount, if that is asked for."""
        path = request.staging_target_path
        if request.volume_id not in self.staged and self.behaviour().get("mount"):
            os.makedirs(path, exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", request.volume_id, path], check=True)
        self.staged[request.volume_id] = path
        return self.types["Empty"]()

    def unstage(self, request: Any) -> Any:
        """Unmount what is mounted."""
        if self.staged.pop(request.volume_id, "") and self.behaviour().get("mount"):
            subprocess.run(["umount", request.staging_target_path], check=True)
            os.rmdir(request.staging_target_path)
        return self.types["Empty"]()

    def stats(self, request: Any) -> Any:
        """Inodes first, as a reader must look for bytes."""
        used, total = self.behaviour().get("usage", {}).get(request.volume_id, (0, 0))
        answer = self.types["NodeGetVolumeStatsResponse"]()
        answer.usage.add(unit=2, total=1000, used=1, available=999)
        answer.usage.add(unit=1, total=total, used=used, available=total - used)
        answer.volume_condition.message = "volume is healthy"
        return answer


def main(directory: Path) -> None:
    """Serve until killed."""
    path = directory / "csi-driver.sock"
    path.unlink(missing_ok=True)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers((Node(directory).handlers(),))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
