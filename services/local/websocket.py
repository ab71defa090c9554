"""One WebSocket of an agent: messages in, messages out, and a close that says why.

gevent-websocket does the framing. Its close() leaves out the two-byte status code, which a peer reads as a broken frame
(RFC 6455 §5.5.1), so close frames are written here; and it has no write lock, so writers are serialised here.
"""

from __future__ import annotations

import json
import logging
import socket
import struct
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore
from geventwebsocket.exceptions import WebSocketError
from geventwebsocket.websocket import Header, WebSocket

log = logging.getLogger("local.websocket")
Json = dict[str, Any]
NORMAL, GOING_AWAY, PROTOCOL_ERROR, POLICY, FAILED = 1000, 1001, 1002, 1008, 1011  # RFC 6455 §7.4.1
WRITE_DEADLINE_SECONDS = 30.0


class Closed(Exception):
    """The peer is gone; nothing more can be said."""


class Socket:
    """Wraps the WebSocket that gevent-websocket put into the WSGI environment."""

    def __init__(self, raw: WebSocket) -> None:
        self._raw, self._lock = raw, BoundedSemaphore()
        self._wire = raw.handler.socket
        self.closed = False

    def receive(self) -> str | None:
        """The next message as text; None when the peer has closed or the connection ended."""
        parts: list[bytes] = []
        while not self.closed:
            try:
                header, payload = self._raw.read_frame()
            except (WebSocketError, OSError, ValueError, AttributeError):
                # AttributeError: the library reads from the stream that a concurrent close has taken away
                self.closed = True
                return None
            if header.opcode == WebSocket.OPCODE_PING:
                self._frame(payload, WebSocket.OPCODE_PONG)
            elif header.opcode == WebSocket.OPCODE_CLOSE:
                self._answer_close(bytes(payload))
                return None
            elif header.opcode in (WebSocket.OPCODE_TEXT, WebSocket.OPCODE_BINARY, WebSocket.OPCODE_CONTINUATION):
                parts.append(bytes(payload))
                if header.fin:
                    return b"".join(parts).decode("utf-8", "replace")
        return None

    def send(self, type_: str, message: Json) -> None:
        """Send `{"type": …, "message": …}`. Raises Closed when the peer is gone or does not read for 30 s."""
        self._frame(json.dumps({"type": type_, "message": message}).encode(), WebSocket.OPCODE_TEXT)

    def close(self, code: int | None = NORMAL, reason: str = "") -> None:
        """Send a close frame with its status code (None: an empty one), then end the connection. Never raises."""
        if self.closed:
            return
        payload = b"" if code is None else struct.pack("!H", code) + reason.encode()[:123]
        try:
            self._frame(payload, WebSocket.OPCODE_CLOSE)
        except Closed as error:
            log.debug("close frame not sent: %s", error)
        self._end()

    def drop(self, reset: bool = False) -> None:
        """End the connection without a close frame; `reset` with a TCP reset instead of an orderly end."""
        if self.closed:
            return
        if not reset:
            self._end()
            return
        self.closed = self._raw.closed = True
        # Closed with a linger time of 0 the kernel sends RST; shutting down only our reading wakes our reader.
        self._wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._wire.shutdown(socket.SHUT_RD)

    def raw(self, opcode: int, data: bytes, fin: bool = True) -> None:
        """Send any frame, also one that breaks the protocol. Never raises."""
        try:
            self._frame(data, opcode, fin)
        except Closed as error:
            log.debug("nothing was sent: %s", error)

    def _answer_close(self, payload: bytes) -> None:
        """Echo the peer's code (RFC 6455 §5.5.1), or an empty frame for an empty one."""
        try:
            self._frame(payload[:2], WebSocket.OPCODE_CLOSE)
        except Closed as error:
            log.debug("close frame not answered: %s", error)
        self._end()

    def _frame(self, payload: bytes, opcode: int, fin: bool = True) -> None:
        with self._lock:
            if self.closed:
                raise Closed("the connection is closed")
            try:
                with gevent.Timeout(WRITE_DEADLINE_SECONDS):
                    self._wire.sendall(Header.encode_header(fin, opcode, b"", len(payload), 0) + payload)
            except (OSError, gevent.Timeout) as error:
                self._end()  # wakes the reader too
                raise Closed(f"cannot write to the agent: {error}") from None

    def _end(self) -> None:
        """Mark as ended for the library too, so that it writes no close frame of its own."""
        self.closed = True
        self._raw.closed = True
        try:
            self._wire.shutdown(2)
        except OSError as error:
            log.debug("connection already down: %s", error)


def decode(text: str) -> tuple[str, Json]:
    """(type, message) of a frame, ("", {}) when it is none.

    TCS frames have a signed header block and an empty line in front of the JSON (spec 07 §12.3).
    """
    head, blank, rest = text.partition("\r\n\r\n")
    try:
        envelope = json.loads(rest if blank else head)
    except ValueError:
        return "", {}
    if not isinstance(envelope, dict) or not isinstance(envelope.get("type"), str):
        return "", {}
    message = envelope.get("message")
    return envelope["type"], message if isinstance(message, dict) else {}
