"""A small control plane for tests: ECS JSON API, ACS WebSocket and instance metadata on one loopback port.

It records what the agent sends and does what a test scripts: errors for API calls, refused handshakes, garbage,
silence, resets. It speaks HTTP and WebSocket by hand (RFC 6455), because a test must be able to break both.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import gevent
import gevent.event
from gevent.server import StreamServer

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
ACCOUNT, REGION = "123456789012", "us-west-2"
MAC = "0e:00:00:00:00:01"
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10

METADATA = {
    "meta-data/mac": MAC,
    "meta-data/instance-id": "i-0123456789abcdef0",
    f"meta-data/network/interfaces/macs/{MAC}/vpc-id": "vpc-0abc",
    "meta-data/placement/availability-zone-id": "usw2-az1",
    "meta-data/placement/region": REGION,
    "dynamic/instance-identity/document": json.dumps({"instanceId": "i-0123456789abcdef0", "region": REGION}),
    "dynamic/instance-identity/signature": "c2lnbmF0dXJl",
}

Answer = tuple[int, dict[str, Any]] | None  # HTTP status and body; None answers as usual


def arn(kind: str, rest: str) -> str:
    """An ARN of the test account."""
    return f"arn:aws:ecs:{REGION}:{ACCOUNT}:{kind}/{rest}"


def error(code: str, text: str = "", status: int = 400) -> Answer:
    """An error of the service."""
    return status, {"__type": code, "message": text}


@dataclass
class Call:
    """One API call as it arrived."""

    at: float
    operation: str
    body: dict[str, Any]
    headers: dict[str, str]
    raw: str


@dataclass
class Connection:
    """One ACS connection: what came, and ways to send and to break things."""

    sock: socket.socket
    query: dict[str, str]
    request_line: str
    headers: dict[str, str]
    at: float = field(default_factory=time.monotonic)
    received: list[tuple[str, Any]] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    close_frame: bytes | None = None  # payload of the agent's close frame
    ended: bool = False

    def frame(self, opcode: int, data: bytes, fin: bool = True) -> None:
        """Send any frame."""
        size = len(data)
        if size < 126:
            length = bytes([size])
        else:
            length = b"\x7e" + struct.pack("!H", size) if size <= 0xFFFF else b"\x7f" + struct.pack("!Q", size)
        self.sock.sendall(bytes([(0x80 if fin else 0) | opcode]) + length + data)

    def text(self, text: str) -> None:
        """Send a text message as it is."""
        self.frame(TEXT, text.encode())

    def push(self, type_: str, message: dict[str, Any]) -> None:
        """Send an ACS message."""
        self.text(json.dumps({"type": type_, "message": message}))

    def close(self, code: int | None = 1000, text: str = "") -> None:
        """Send a close frame (an empty one for None)."""
        self.frame(CLOSE, b"" if code is None else struct.pack("!H", code) + text.encode())

    def fin(self) -> None:
        """End the stream in an orderly way, without a close frame."""
        self.sock.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Break the TCP connection."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def replies(self, type_: str) -> list[Any]:
        """The messages of one type that the agent sent."""
        return [message for t, message in self.received if t == type_]


class ControlPlane:
    """Listens on 127.0.0.1:`port` (0 = any)."""

    def __init__(self, port: int = 0) -> None:
        self.instance_arn = arn("container-instance", f"default/{uuid.uuid4().hex}")
        self.cluster_arn = arn("cluster", "default")
        self.calls: list[Call] = []
        self.connections: list[Connection] = []
        self.refusals: deque[tuple[int, str]] = deque()  # status and body for the next handshakes
        self.faults: dict[str, Callable[[dict[str, Any]], Answer]] = {}
        self.metadata = dict(METADATA)
        self.asked: list[str] = []  # paths of instance metadata, in the order of the questions
        self.advertised = ""  # base URL of the sessions in DiscoverPollEndpoint, when it is not `url`
        self.in_flight = self.most_in_flight = 0
        self.gate = gevent.event.Event()  # SubmitTaskStateChange waits for it
        self.gate.set()
        self._server = StreamServer(("127.0.0.1", port), self._serve)

    def start(self) -> ControlPlane:
        """Listen."""
        self._server.start()
        return self

    def stop(self) -> None:
        """Stop listening and end every connection."""
        self._server.stop(timeout=0.2)
        for connection in self.connections:
            connection.sock.close()

    @property
    def url(self) -> str:
        """Base URL of all its parts."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def live(self) -> Connection | None:
        """The open ACS connection."""
        return self.connections[-1] if self.connections and not self.connections[-1].ended else None

    def bodies(self, operation: str) -> list[dict[str, Any]]:
        """The bodies of the calls of one operation."""
        return [call.body for call in self.calls if call.operation == operation]

    def payload(self, *tasks: dict[str, Any], **extra: Any) -> str:
        """Send a payload on the open connection; answers its message id."""
        message_id = str(uuid.uuid4())
        assert self.live is not None
        message = {"clusterArn": self.cluster_arn, "containerInstanceArn": self.instance_arn, "messageId": message_id}
        self.live.push("PayloadMessage", {**message, "tasks": list(tasks), **extra})
        return message_id

    # -- HTTP ----------------------------------------------------------------------------------

    def _serve(self, sock: socket.socket, _: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = b""
        try:
            while True:
                while b"\r\n\r\n" not in data:
                    more = sock.recv(65536)
                    if not more:
                        return
                    data += more
                head, _, data = data.partition(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {n.strip().lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}
                length = int(headers.get("content-length", 0))
                while len(data) < length:
                    more = sock.recv(65536)
                    if not more:
                        return  # the agent was killed in the middle of a request
                    data += more
                body, data = data[:length], data[length:]
                if self._request(sock, first, headers, body):
                    return
        except OSError:
            return
        finally:
            sock.close()

    def _request(self, sock: socket.socket, first: str, headers: dict[str, str], body: bytes) -> bool:
        """Answer one request; True when the connection is over."""
        method, target, _ = first.split(" ", 2)
        path = urlsplit(target).path
        if path.startswith("/latest/"):
            self._metadata(sock, path.removeprefix("/latest/").strip("/"))
        elif method == "GET" and path == "/acs/ws":
            return self._acs(sock, first, target, headers)
        else:
            self._api(sock, headers, body.decode())
        return False

    def _respond(self, sock: socket.socket, status: int, body: bytes, extra: str = "") -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
        sock.sendall(head.encode() + body)

    def _metadata(self, sock: socket.socket, path: str) -> None:
        self.asked.append(path)
        if path == "api/token":
            self._respond(sock, 200, b"token")
        elif path in self.metadata:
            self._respond(sock, 200, self.metadata[path].encode())
        else:
            self._respond(sock, 404, b"")

    def _api(self, sock: socket.socket, headers: dict[str, str], raw: str) -> None:
        operation = headers.get("x-amz-target", "").rpartition(".")[2]
        body = json.loads(raw or "{}")
        self.calls.append(Call(time.monotonic(), operation, body, headers, raw))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if operation == "SubmitTaskStateChange":
                self.gate.wait()
            fault = self.faults.get(operation)
            answer = fault(body) if fault else None
            status, out = answer if answer else (200, self._answer(operation, body))
        finally:
            self.in_flight -= 1
        self._respond(sock, status, json.dumps(out).encode(), "Content-Type: application/x-amz-json-1.1\r\n")

    def _answer(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        if operation == "DiscoverPollEndpoint":
            base = self.advertised or self.url
            found = {"endpoint": "/acs/", "telemetryEndpoint": "/tcs/", "serviceConnectEndpoint": "/sc/"}
            return {member: base + path for member, path in found.items()}
        if operation == "RegisterContainerInstance":
            return {
                "containerInstance": {
                    "containerInstanceArn": body.get("containerInstanceArn") or self.instance_arn,
                    "status": "ACTIVE",
                    "attributes": body.get("attributes", []),
                }
            }
        return {"acknowledgment": "ok"}

    # -- ACS -----------------------------------------------------------------------------------

    def _acs(self, sock: socket.socket, first: str, target: str, headers: dict[str, str]) -> bool:
        query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
        connection = Connection(sock, query, first, headers)
        self.connections.append(connection)
        if self.refusals:
            status, body = self.refusals.popleft()
            connection.ended = True
            self._respond(sock, status, body.encode())
            return True
        accept = base64.b64encode(hashlib.sha1((headers["sec-websocket-key"] + GUID).encode()).digest()).decode()
        sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            + f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        try:
            self._read_frames(connection)
        except OSError:
            pass  # the test broke the connection
        finally:
            connection.ended = True
        return True

    def _read_frames(self, connection: Connection) -> None:
        def exactly(size: int) -> bytes:
            data = b""
            while len(data) < size:
                more = connection.sock.recv(size - len(data))
                if not more:
                    raise OSError("the agent ended the stream")
                data += more
            return data

        while True:
            first, second = exactly(2)
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", exactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", exactly(8))
            mask = exactly(4)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(exactly(size)))
            opcode = first & 0x0F
            if opcode == CLOSE:
                connection.close_frame = data
                return
            if opcode == TEXT:
                frame = json.loads(data)
                connection.raw.append(data.decode())
                connection.received.append((frame["type"], frame["message"]))
            elif opcode == PONG:
                connection.received.append(("pong", data))


def task(name: str = "app", desired: str = "RUNNING", task_id: str = "", **extra: Any) -> dict[str, Any]:
    """A task of one container, as ACS sends it."""
    container = {
        "name": name,
        "image": "busybox:1",
        "essential": True,
        "cpu": 0,
        "memory": 32,
        "command": ["sleep", "60"],
        "overrides": "{}",
        "dockerConfig": {"config": "{}", "hostConfig": "{}", "version": "1.17"},
    }
    return {
        "arn": arn("task", f"default/{task_id or uuid.uuid4().hex}"),
        "desiredStatus": desired,
        "family": "web",
        "version": "1",
        "overrides": "{}",
        "containers": [container],
        **extra,
    }
