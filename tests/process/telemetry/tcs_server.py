"""A telemetry backend for tests: DiscoverPollEndpoint and the TCS WebSocket on one loopback port.

Written on the bare socket so that a test can do what real servers do wrong: hang up without a close frame, close with
any code, say nothing, refuse the upgrade. It records everything that arrives.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import time
from dataclasses import dataclass, field

from gevent.server import StreamServer

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
ACKS = {
    "PublishMetricsRequest": "AckPublishMetric",
    "PublishHealthRequest": "AckPublishHealth",
    "PublishInstanceStatusRequest": "AckPublishInstanceStatus",
}


@dataclass
class Connection:
    """One WebSocket connection: the request that opened it, and what came over it."""

    target: str
    headers: dict[str, str]
    socket: socket.socket
    opened: float = field(default_factory=time.monotonic)
    frames: list[tuple[float, int, bytes]] = field(default_factory=list)  # time, opcode, payload
    closed: bool = False

    def send(self, text: str | bytes, opcode: int = 1, fin: bool = True) -> None:
        """Send one unmasked frame."""
        data = text.encode() if isinstance(text, str) else text
        head = bytes([(0x80 if fin else 0) | opcode])
        head += bytes([len(data)]) if len(data) < 126 else b"\x7e" + struct.pack("!H", len(data))
        self.socket.sendall(head + data)

    def close(self, code: int | None) -> None:
        """Send a close frame, with or without a code."""
        self.send(struct.pack("!H", code) if code else b"", 8)

    def drop(self) -> None:
        """End the TCP connection without a word."""
        self.socket.shutdown(socket.SHUT_RDWR)

    @property
    def closes(self) -> list[bytes]:
        """Payloads of the close frames that came."""
        return [data for _, opcode, data in self.frames if opcode == 8]


class TcsServer:
    """Listens on 127.0.0.1; `acknowledge` and `refuse` may be changed at any time."""

    def __init__(self) -> None:
        self.acknowledge = True
        self.answer_close = True
        self.refuse: tuple[int, str] | None = None
        self.api_calls: list[tuple[str, dict[str, str]]] = []
        self.connections: list[Connection] = []
        self.attempts: list[float] = []
        self._server = StreamServer(("127.0.0.1", 0), self._handle)
        self._server.start()

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """Stop listening and drop all connections."""
        self._server.stop(timeout=1)
        for connection in self.connections:
            connection.socket.close()

    def messages(self, kind: str) -> list[dict]:
        """The bodies of all messages of a type, in the order of arrival."""
        found = []
        for connection in self.connections:
            for _, opcode, data in connection.frames:
                if opcode == 1:
                    body = json.loads(data.partition(b"\r\n\r\n")[2])
                    if body["type"] == kind:
                        found.append(body["message"])
        return found

    def _handle(self, sock, _address) -> None:
        stream = sock.makefile("rb")
        line = stream.readline().decode().split()
        if len(line) < 3:
            return
        headers = {}
        while (row := stream.readline().decode().rstrip("\r\n")) != "":
            name, _, value = row.partition(":")
            headers[name] = value.strip()
        if line[0] == "POST":
            self._api(sock, stream, headers)
            return
        self.attempts.append(time.monotonic())
        if self.refuse:
            status, body = self.refuse
            sock.sendall(f"HTTP/1.1 {status} No\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            sock.close()
            return
        key = headers["Sec-WebSocket-Key"].encode()
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
        sock.sendall(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        connection = Connection(line[1], headers, sock)
        self.connections.append(connection)
        try:
            self._serve(connection, stream)
        except (OSError, ValueError, struct.error):
            connection.closed = True

    def _api(self, sock, stream, headers: dict[str, str]) -> None:
        body = stream.read(int(headers["Content-Length"])).decode()
        self.api_calls.append((body, headers))
        answer = json.dumps({"endpoint": self.url + "/acs/", "telemetryEndpoint": self.url + "/tcs/"})
        sock.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\nConnection: close\r\n\r\n{answer}".encode())
        sock.close()

    def _serve(self, connection: Connection, stream) -> None:
        while True:
            head = stream.read(2)
            if len(head) < 2:
                connection.closed = True
                return
            opcode, length = head[0] & 0xF, head[1] & 0x7F
            if length == 126:
                (length,) = struct.unpack("!H", stream.read(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", stream.read(8))
            mask = stream.read(4)
            data = stream.read(length)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(data))
            connection.frames.append((time.monotonic(), opcode, data))
            if opcode == 1 and self.acknowledge:
                kind = json.loads(data.partition(b"\r\n\r\n")[2])["type"]
                connection.send(json.dumps({"type": ACKS[kind], "message": {"message": "ok"}}))
            elif opcode == 8 and self.answer_close:
                connection.send(data[:2], 8)
                connection.drop()
                connection.closed = True
                return
