"""One unary gRPC call on a unix socket, without grpcio.

A gRPC call is one HTTP/2 stream with a protobuf message each way. The callers here send small messages a few times an
hour, so those are written by hand (common/protobuf.py) and h2 does HTTP/2. The usual library, grpcio, brings threads
that do not go with gevent, 7 MB for each architecture and version of Python, and some 15 MB of memory in each process
that loads it; h2 is pure Python and costs 110 KB in the package. The tests put servers made with grpcio and protobuf
behind this client, so both sides do not share one misunderstanding.

Each call has a connection of its own: a server that was restarted is simply found again. A call that runs out of time
is cancelled, which says nothing about the server: it may go on and succeed later (spec 05, trap 24).

Source: "gRPC over HTTP2" and "Status codes and their use in gRPC", grpc.io.
"""

from __future__ import annotations

import logging
import socket
import struct
import time
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

logging.getLogger("hpack").setLevel(logging.INFO)  # below it, each header is told in several lines

LONGEST_ANSWER = 1 << 20
CHUNK = 64 * 1024
STREAM = 1  # the only one of a connection
CLOSE_SECONDS = 0.1

NAMES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
# Statuses that a caller may tell apart.
UNAVAILABLE, DEADLINE_EXCEEDED, INTERNAL = "UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL"


class GrpcError(Exception):
    """The server refused, failed, or could not be asked. `status` is the name of the gRPC status, `text` the rest."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(f"{status}: {text}" if text else status)
        self.status, self.text = status, text


def call(socket_path: str, method: str, request: bytes, seconds: float, who: str = "server") -> bytes:
    """The message that `/package.Service/Method` answers. Raises GrpcError, after `seconds` at the latest.

    `who` names the server in errors that it did not send itself.
    """
    end = time.monotonic() + seconds
    late = f"the {who} at {socket_path} did not answer within {seconds:g} s"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(seconds)
            sock.connect(socket_path)
            return _Call(sock, end, who).run(method, request)
    except TimeoutError as error:
        raise GrpcError(DEADLINE_EXCEEDED, late) from error
    except GrpcError as error:
        # The server counts too, and may be the first to say so, in words that name nobody.
        if error.status == DEADLINE_EXCEEDED and end - time.monotonic() < CLOSE_SECONDS:
            raise GrpcError(DEADLINE_EXCEEDED, late) from error
        raise
    except OSError as error:
        raise GrpcError(UNAVAILABLE, f"no {who} at {socket_path}: {error.strerror or error}") from error
    except (ProtocolError, ValueError) as error:
        raise GrpcError(INTERNAL, f"what answers at {socket_path} does not speak gRPC: {error}") from error


class _Call:
    """One unary call on one connection ("gRPC over HTTP2")."""

    def __init__(self, sock: socket.socket, end: float, who: str) -> None:
        self._sock, self._end, self._who = sock, end, who
        self._http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._headers: dict[str, str] = {}
        self._body = b""
        self._over = False

    def run(self, path: str, request: bytes) -> bytes:
        """The message of the answer. Raises GrpcError, OSError, ProtocolError, ValueError."""
        left = max(1, int((self._end - time.monotonic()) * 1000))
        self._http.initiate_connection()
        self._http.send_headers(
            STREAM,
            [
                (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"),
                ("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", f"{left}m"),
            ],
        )  # fmt: skip
        self._send(struct.pack(">BI", 0, len(request)) + request)
        while not self._over:
            self._receive()
        return self._message()

    def _send(self, data: bytes) -> None:
        """The request, in frames as large as the server takes, and as soon as it takes them."""
        while not self._over:
            room = min(self._http.local_flow_control_window(STREAM), self._http.max_outbound_frame_size)
            if room:
                self._http.send_data(STREAM, data[:room], end_stream=len(data) <= room)
                data = data[room:]
            self._flush()
            if not data:
                return
            if not room:
                self._receive()

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
            raise GrpcError(UNAVAILABLE, f"the {self._who} ended the connection before it had answered")
        for event in self._http.receive_data(data):
            if isinstance(event, ResponseReceived | TrailersReceived):
                self._headers.update((str(name), str(value)) for name, value in event.headers or ())
            elif isinstance(event, DataReceived):
                self._body += event.data or b""
                self._http.acknowledge_received_data(event.flow_controlled_length or 0, STREAM)
                if len(self._body) > LONGEST_ANSWER:
                    raise ValueError(f"an answer of more than {LONGEST_ANSWER} bytes")
            elif isinstance(event, StreamReset | ConnectionTerminated) and "grpc-status" not in self._headers:
                raise GrpcError(UNAVAILABLE, f"the {self._who} gave the call up (HTTP/2 error {event.error_code})")
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
            raise GrpcError(name, unquote(self._headers.get("grpc-message", "")))
        if len(self._body) < 5:
            raise ValueError("success without a message")
        compressed, length = struct.unpack(">BI", self._body[:5])
        if compressed or len(self._body) != 5 + length:
            raise ValueError("a message that is compressed or not whole")
        return self._body[5:]
