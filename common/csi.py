"""Calls to the node service of a CSI driver: stage, unstage and measure a volume.

A CSI driver speaks gRPC: one HTTP/2 stream per call on a unix socket, protobuf messages inside. Three small messages
go out and one comes back, so the messages are written by hand below and h2 does HTTP/2. The usual library, grpcio,
brings threads that do not go with gevent, 7 MB for each architecture and version of Python, and some 15 MB of memory
in each process that loads it; h2 is pure Python and costs 110 KB in the package. The tests put a server made with
grpcio and protobuf behind this client, so both sides do not share one misunderstanding.

Each call has a connection of its own: a driver that was restarted is simply found again. A call that runs out of time
is cancelled, which says nothing about the driver: it may go on and succeed later (spec 05, trap 24).

Numbers of fields and methods: Container Storage Interface specification 1.x, service csi.v1.Node.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

SERVICE = "/csi.v1.Node/"
SINGLE_NODE_WRITER = 1  # VolumeCapability.AccessMode.Mode
BYTES = 1  # VolumeUsage.Unit
LONGEST_ANSWER = 1 << 20
CHUNK = 64 * 1024
STREAM = 1  # the only one of a connection

# Statuses that a caller may tell apart (gRPC, "status codes").
NAMES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
UNAVAILABLE, DEADLINE_EXCEEDED, ABORTED, INTERNAL = "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "INTERNAL"


class CsiError(Exception):
    """The driver refused, failed, or could not be asked. `status` is the name of the gRPC status."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(f"{status}: {text}" if text else status)
        self.status = status


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
        access = _field(2, _text(1, file_system)) + _field(3, _number(1, SINGLE_NODE_WRITER))
        request = _text(1, volume_id) + _map(2, {"devicePath": device}) + _text(3, path) + _field(4, access)
        self._call("NodeStageVolume", request, seconds)

    def unstage(self, volume_id: str, path: str, seconds: float) -> None:
        """Unmount the volume; one that is not mounted is a success."""
        self._call("NodeUnstageVolume", _text(1, volume_id) + _text(2, path), seconds)

    def usage(self, volume_id: str, path: str, seconds: float) -> Usage:
        """How full the volume mounted at `path` is."""
        answer = self._call("NodeGetVolumeStats", _text(1, volume_id) + _text(2, path), seconds)
        for number, value in _fields(answer):
            entry = dict(_fields(value)) if number == 1 and isinstance(value, bytes) else {}
            if entry.get(4) == BYTES:
                total, used = entry.get(2, 0), entry.get(3, 0)
                if isinstance(total, int) and isinstance(used, int):
                    return Usage(used, total)
        raise CsiError(INTERNAL, "the driver told no usage in bytes")

    def _call(self, method: str, request: bytes, seconds: float) -> bytes:
        end = time.monotonic() + seconds
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(seconds)
                sock.connect(self.socket_path)
                return _Call(sock, end).run(SERVICE + method, request)
        except TimeoutError as error:
            text = f"the driver at {self.socket_path} did not answer within {seconds:g} s"
            raise CsiError(DEADLINE_EXCEEDED, text) from error
        except OSError as error:
            text = f"no driver at {self.socket_path}: {error.strerror or error}"
            raise CsiError(UNAVAILABLE, text) from error
        except (ProtocolError, ValueError) as error:
            raise CsiError(INTERNAL, f"what answers at {self.socket_path} does not speak gRPC: {error}") from error


class _Call:
    """One unary call on one connection ("gRPC over HTTP2")."""

    def __init__(self, sock: socket.socket, end: float) -> None:
        self._sock, self._end = sock, end
        self._http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._headers: dict[str, str] = {}
        self._body = b""
        self._over = False

    def run(self, path: str, request: bytes) -> bytes:
        """The message of the answer. Raises CsiError, OSError, ProtocolError, ValueError."""
        left = max(1, int((self._end - time.monotonic()) * 1000))
        self._http.initiate_connection()
        self._http.send_headers(
            STREAM,
            [
                (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"),
                ("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", f"{left}m"),
            ],
        )  # fmt: skip
        self._http.send_data(STREAM, struct.pack(">BI", 0, len(request)) + request, end_stream=True)
        self._flush()
        while not self._over:
            self._receive()
        return self._message()

    def _flush(self) -> None:
        data = self._http.data_to_send()
        if data:
            self._sock.settimeout(self._left())
            self._sock.sendall(data)

    def _left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _receive(self) -> None:
        self._sock.settimeout(self._left())
        data = self._sock.recv(CHUNK)
        if not data:
            raise CsiError(UNAVAILABLE, "the driver ended the connection before it had answered")
        for event in self._http.receive_data(data):
            if isinstance(event, ResponseReceived | TrailersReceived):
                self._headers.update((str(name), str(value)) for name, value in event.headers or ())
            elif isinstance(event, DataReceived):
                self._body += event.data or b""
                self._http.acknowledge_received_data(event.flow_controlled_length or 0, STREAM)
                if len(self._body) > LONGEST_ANSWER:
                    raise ValueError(f"an answer of more than {LONGEST_ANSWER} bytes")
            elif isinstance(event, StreamReset | ConnectionTerminated) and "grpc-status" not in self._headers:
                raise CsiError(UNAVAILABLE, f"the driver gave the call up (HTTP/2 error {event.error_code})")
            elif isinstance(event, StreamEnded):
                self._over = True
        self._flush()

    def _message(self) -> bytes:
        status = self._headers.get("grpc-status", "")
        if not status:
            raise ValueError(f"no grpc-status (HTTP status {self._headers.get(':status')})")
        if status != "0":
            number = int(status) if status.isdigit() else 2
            name = NAMES[number] if number < len(NAMES) else status
            raise CsiError(name, unquote(self._headers.get("grpc-message", "")))
        if len(self._body) < 5:
            raise ValueError("success without a message")
        compressed, length = struct.unpack(">BI", self._body[:5])
        if compressed or len(self._body) != 5 + length:
            raise ValueError("a message that is compressed or not whole")
        return self._body[5:]


# -- protobuf's wire format: (number << 3 | type), then a varint (type 0) or a length and bytes (type 2) ---------------


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    """An empty text is left out, which means the same."""
    return _field(field, value.encode()) if value else b""


def _map(field: int, values: Mapping[str, str]) -> bytes:
    return b"".join(_field(field, _text(1, name) + _text(2, value)) for name, value in values.items())


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Each field's number and value. Raises ValueError for what is no message."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _read_varint(data, at)
            yield key >> 3, value
            continue
        size, at = _read_varint(data, at) if kind == 2 else ({1: 8, 5: 4}.get(kind, -1), at)
        if size < 0 or at + size > len(data):
            raise ValueError("a broken protobuf message")
        yield key >> 3, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a broken protobuf message")
