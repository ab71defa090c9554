"""The bytes of one connection: heads and bodies, read under a deadline and within limits (spec 06 §1)."""

from __future__ import annotations

import re
import time
from typing import Any

READ_SECONDS = 5.0
HEAD_BYTES = 1 << 20
BODY_BYTES = 1 << 20  # the reference has no limit (W15); the largest sensible body has a few hundred bytes
DISCARD_BYTES = 256 * 1024  # of a body that nobody read; beyond, the connection is closed instead
CHUNK_LINE_BYTES = 4096

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
HEAD_END = re.compile(rb"\r?\n\r?\n")


class Malformed(Exception):
    """The request cannot be answered; `status` goes back as text and the connection is closed."""

    def __init__(self, status: str = "400 Bad Request", detail: str = "") -> None:
        super().__init__(f"{status}: {detail}" if detail else status)
        self.status = status


class BodyError(Exception):
    """The request body could not be read to its end, or is longer than BODY_BYTES."""


class Slow(Exception):
    """The client took longer than it may, or is gone: there is nobody to answer."""


class Wire:
    """The bytes of one connection, read under a deadline."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.buffer = b""
        self.deadline = 0.0

    def more(self) -> bytes:
        """Append what arrives next to the buffer; b"" at the end of the stream. Raises Slow."""
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise Slow
        self.sock.settimeout(remaining)
        try:
            data: bytes = self.sock.recv(65536)
        except OSError as error:
            raise Slow from error
        self.buffer += data
        return data

    def take(self, count: int) -> bytes:
        """Exactly `count` bytes. Raises BodyError at the end of the stream, Slow."""
        while len(self.buffer) < count:
            if not self.more():
                raise BodyError("unexpected EOF")
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def line(self) -> bytes:
        """One line without its end."""
        while (end := self.buffer.find(b"\n")) < 0:
            if len(self.buffer) > CHUNK_LINE_BYTES:
                raise BodyError("header line too long")
            if not self.more():
                raise BodyError("unexpected EOF")
        return self.take(end + 1).rstrip(b"\r\n")

    def head(self) -> str | None:
        """The request line and the header lines; None when the client closed the connection. Raises Malformed, Slow."""
        self.deadline = time.monotonic() + READ_SECONDS
        if not self.buffer:
            if not self.more():
                return None
            self.deadline = time.monotonic() + READ_SECONDS
        searched = 0
        while True:
            end = self.buffer.find(b"\r\n\r\n", searched)
            after = end + 4
            if end < 0:
                match = HEAD_END.search(self.buffer, searched)
                end, after = match.span() if match else (-1, -1)
            if end >= 0:
                head, self.buffer = self.buffer[:end], self.buffer[after:]
                return head.decode("latin-1")
            if len(self.buffer) > HEAD_BYTES:
                raise Malformed("431 Request Header Fields Too Large")
            searched = max(0, len(self.buffer) - 3)
            if not self.more():
                return None


class Body:
    """wsgi.input: the whole body, read when asked for."""

    def __init__(self, wire: Wire, length: int, chunked: bool, expects: bool) -> None:
        self.wire, self.length, self.chunked, self.expects = wire, length, chunked, expects
        self.data: bytes | None = None
        self.broken = False

    def read(self, _size: int = -1) -> bytes:
        """The whole body. Raises BodyError when it is broken or too long, Slow when it does not come in time."""
        if self.data is None:
            self.data = self._read(BODY_BYTES)
        return self.data

    def _read(self, limit: int) -> bytes:
        if not self.chunked and not self.length:
            return b""
        self.broken = True  # until it was read to its end
        if self.length > limit:
            raise BodyError("http: request body too large")
        if self.expects:
            self.expects = False
            self.wire.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        data = self._chunks(limit) if self.chunked else self.wire.take(self.length)
        self.broken = False
        return data

    def _chunks(self, limit: int) -> bytes:
        parts, total = [], 0
        while True:
            text = self.wire.line().split(b";", 1)[0].strip()
            try:
                size = int(text, 16) if TOKEN.fullmatch(text.decode("latin-1")) else -1
            except ValueError:
                size = -1
            if size < 0:
                raise BodyError("invalid byte in chunk length")
            if size == 0:
                break
            total += size
            if total > limit:
                raise BodyError("http: request body too large")
            parts.append(self.wire.take(size))
            if self.wire.line():
                raise BodyError("malformed chunked encoding")
        while self.wire.line():
            pass
        return b"".join(parts)

    def discard(self) -> bool:
        """Get an unread body out of the way; False when the connection cannot go on."""
        if self.data is not None:
            return True
        if self.broken:
            return False
        if self.expects and (self.length or self.chunked):
            return False  # the client waits for a 100 that it will not get
        try:
            self.data = self._read(DISCARD_BYTES)
        except (BodyError, Slow):
            return False
        return True
