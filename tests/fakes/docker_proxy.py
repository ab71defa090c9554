"""A Unix-socket proxy in front of Docker that can delay, hang, refuse, cut, drop and reorder, per route.

    with DockerProxy(directory) as proxy:
        proxy.add(Rule("POST", r"/containers/[^/]+/start$", hang=True))
        hands = Hands(None, bus, settings=Settings(), address=proxy.address)

Rules are tried in order; the first that matches and has turns left is applied. Each request is also written down, so a
test can count calls. Works with threads and under gevent alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

DOCKER_SOCKET = "/var/run/docker.sock"
CHUNK = 65536


@dataclass
class Rule:
    """What to do with requests whose method and path (without version and query) match.

    `times` limits how often. `delay` seconds pass before anything else; `hang` never answers; `status` answers by
    itself with `message`; `cut_after` bytes of Docker's answer the connection ends; `drop` ends it without an answer,
    before the request reaches Docker, or after (`drop_after`), when Docker has done it. `body` answers 200 with this,
    and with `hang` falls silent after it. `rewrite` is given each piece of Docker's raw answer and returns what is
    passed on (see Swap).
    """

    method: str = ".*"
    path: str = ".*"
    times: int = -1
    delay: float = 0.0
    hang: bool = False
    status: int = 0
    message: str = "the proxy says no"
    cut_after: int = -1
    drop: bool = False
    drop_after: bool = False
    body: bytes | None = None
    rewrite: Callable[[bytes], bytes] | None = None
    used: int = 0

    def matches(self, method: str, path: str) -> bool:
        """Does the rule want this request, and may it still act?"""
        if self.times >= 0 and self.used >= self.times:
            return False
        return bool(re.fullmatch(self.method, method) and re.search(self.path, path))


class Swap:
    """For `Rule.rewrite` of a stream: holds back what contains `early` until something with `late` has passed."""

    def __init__(self, early: bytes, late: bytes) -> None:
        self._early, self._late = early, late
        self._rest, self._held = b"", b""
        self.swapped = 0

    def __call__(self, data: bytes) -> bytes:
        """Works on whole chunks of the chunked transfer encoding; the head of the answer passes as it is."""
        out = b""
        self._rest += data
        if self._rest.startswith(b"HTTP/"):
            head, end, self._rest = self._rest.partition(b"\r\n\r\n")
            out = head + end
        while (frame := self._frame()) is not None:
            if self._early in frame and not self._held:
                self._held = frame
                continue
            out += frame
            if self._held and self._late in frame:
                out, self._held, self.swapped = out + self._held, b"", self.swapped + 1
        return out

    def _frame(self) -> bytes | None:
        size, end, _ = self._rest.partition(b"\r\n")
        length = len(size) + len(end) + int(size, 16) + 2 if end else 0
        if not length or len(self._rest) < length:
            return None
        frame, self._rest = self._rest[:length], self._rest[length:]
        return frame


@dataclass
class Seen:
    """One request that came by; `done` when its answer was passed on, `left` when a hanging client hung up."""

    method: str
    path: str
    query: str
    version: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)
    done: bool = False
    left: bool = False

    def json(self) -> Any:
        """The request's body as JSON."""
        return json.loads(self.body)


class DockerProxy:
    """See the module's docstring."""

    def __init__(self, directory: str, upstream: str = DOCKER_SOCKET) -> None:
        self.path = os.path.join(directory, "docker-proxy.sock")
        self.address = f"unix://{self.path}"
        self.upstream = upstream
        self.requests: list[Seen] = []
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closing = threading.Event()
        self._listener: socket.socket | None = None

    def __enter__(self) -> DockerProxy:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self.refuse()

    def listen(self) -> None:
        """Accept connections (again)."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.path)
        listener.listen(128)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def refuse(self) -> None:
        """Like a daemon that died: no new connections, all present ones are cut. `listen` ends it."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.cut_all()

    def cut_all(self) -> None:
        """Cut every connection that is open now, streams included."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def add(self, rule: Rule) -> Rule:
        """Apply a rule from now on; returned so that a test can look at `used`."""
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Forget all rules; what hangs goes on hanging."""
        with self._lock:
            self._rules.clear()

    def count(self, method: str, path: str) -> int:
        """How many requests with this method and a path that matches came by."""
        return sum(1 for r in list(self.requests) if r.method == method and re.search(path, r.path))

    # -- inside ------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self._open.add(client)
        try:
            with client:
                self._one(client)
        except OSError:
            return  # one of the two hung up: that is what a proxy sees all day
        finally:
            with self._lock:
                self._open.discard(client)

    def _one(self, client: socket.socket) -> None:
        request = _read_request(client)
        if request is None:
            return
        head, seen = request
        self.requests.append(seen)
        rule = self._rule(seen)
        if rule.delay:
            self._closing.wait(rule.delay)
        if rule.hang:
            if rule.body is not None:
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + rule.body)
            seen.left = self._hang(client)
        elif rule.status or rule.body is not None:
            client.sendall(_answer(rule))
            seen.done = True
        elif not rule.drop:
            self._forward(client, head, seen, rule)

    def _rule(self, seen: Seen) -> Rule:
        with self._lock:
            for rule in self._rules:
                if rule.matches(seen.method, seen.path):
                    rule.used += 1
                    return rule
        return Rule()

    def _hang(self, client: socket.socket) -> bool:
        client.settimeout(0.2)
        while not self._closing.is_set():
            try:
                if not client.recv(CHUNK):
                    return True
            except TimeoutError:
                continue
        return False

    def _forward(self, client: socket.socket, head: bytes, seen: Seen, rule: Rule) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as docker:
            docker.connect(self.upstream)
            with self._lock:
                self._open.add(docker)
            # A client that gives up must be seen by Docker too: it ends pulls and streams.
            threading.Thread(target=_mirror_hangup, args=(client, docker), daemon=True).start()
            try:
                docker.sendall(head + seen.body)
                passed = 0
                while chunk := docker.recv(CHUNK):
                    if rule.drop_after:
                        continue
                    if rule.rewrite is not None:
                        chunk = rule.rewrite(chunk)
                    if rule.cut_after >= 0:
                        chunk = chunk[: rule.cut_after - passed]
                    client.sendall(chunk)
                    passed += len(chunk)
                    if 0 <= rule.cut_after <= passed:
                        return
                seen.done = True
            finally:
                with self._lock:
                    self._open.discard(docker)
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)


def _mirror_hangup(client: socket.socket, docker: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while client.recv(CHUNK):
            pass
    with contextlib.suppress(OSError):
        docker.shutdown(socket.SHUT_RDWR)


def _read_request(client: socket.socket) -> tuple[bytes, Seen] | None:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = client.recv(CHUNK)
        if not chunk:
            return None
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    while len(body) < length:
        body += client.recv(CHUNK)
    path, _, query = target.partition("?")
    versioned = re.match(r"/v(\d+\.\d+)(/.*)", path)
    kept = [first, *(line for line in lines if not line.lower().startswith("connection:")), "Connection: close"]
    seen = Seen(
        method=method,
        path=versioned[2] if versioned else path,
        query=query,
        version=versioned[1] if versioned else "",
        headers=headers,
        body=body,
    )
    return ("\r\n".join(kept) + "\r\n\r\n").encode("latin-1"), seen


def _answer(rule: Rule) -> bytes:
    status = rule.status or 200
    body = rule.body if rule.body is not None else json.dumps({"message": rule.message}).encode()
    head = (
        f"HTTP/1.1 {status} Proxy\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body
