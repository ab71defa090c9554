"""One WebSocket to ACS: dial, handshake, messages, close (RFC 6455; ECS agent behaviour, spec 02 §1.3-§1.6).

websocket-client does the framing. Dialling and the handshake are done here, because the proxy rules, the exact set of
headers and the reading of a refusal are the reference's. How a connection ended matters to the caller, so every end is
a ChannelEnded with a close code: 1006 for a stream that just ended, 0 for anything that broke.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import socket
import ssl
import struct
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

import gevent
import websocket

from common.errors import AgentError
from common.proxy import open_socket
from common.session import host_of, plain
from common.wire.acs import MAX_ERROR_BODY_BYTES, MAX_FRAME_BYTES, refusal
from services.acs.words import advise, code_in, skew_of

log = logging.getLogger(__name__)

DIAL_SECONDS = 30.0  # TCP, proxy, TLS and upgrade together
READ_SECONDS = WRITE_SECONDS = 180.0
HEAD_BYTES = 64 << 10
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
NO_CLOSE_FRAME = 1006
NO_STATUS = 1005
PROTOCOL_ERROR = 1002


class DialError(AgentError):
    """No connection could be made; the text says why, with what the server answered."""


class ChannelEnded(AgentError):
    """The connection is over. `code` is the close code, NO_CLOSE_FRAME, or 0 when it broke; `text` the close reason."""

    def __init__(self, what: str, code: int = 0, text: str = "") -> None:
        super().__init__(what)
        self.code, self.text = code, text


class Channel:
    """An open connection. One greenlet receives; any may send or close."""

    def __init__(self, sock: socket.socket, already_read: bytes = b"") -> None:
        self._sock = sock
        self._frames = websocket.WebSocket(enable_multithread=False, skip_utf8_validation=True)
        self._frames.sock, self._frames.connected = sock, True
        if already_read:
            self._frames.frame_buffer.recv_buffer.append(already_read)
        self._write_lock = threading.Lock()
        self._ended_by_us = ""
        self.closing = False
        sock.settimeout(READ_SECONDS)

    # -- receiving -----------------------------------------------------------------------------

    def receive(self) -> bytes:
        """The next message. Raises ChannelEnded."""
        parts: list[bytes] = []
        size = 0
        while True:
            frame = self._frame()
            if frame.opcode == websocket.ABNF.OPCODE_PING:
                self._write(websocket.ABNF.OPCODE_PONG, _data(frame))
            elif frame.opcode == websocket.ABNF.OPCODE_CLOSE:
                raise self._closed_by_peer(_data(frame))
            elif frame.opcode != websocket.ABNF.OPCODE_PONG:
                self._check_order(frame.opcode, bool(parts))
                if frame.opcode == websocket.ABNF.OPCODE_BINARY:
                    log.error("the control plane sent a binary message; it is read as text")
                parts.append(_data(frame))
                size += len(frame.data)
                if size > MAX_FRAME_BYTES:
                    self.close(1009, "message too big")
                    raise ChannelEnded(f"the control plane sent a message above {MAX_FRAME_BYTES} bytes")
                if frame.fin:
                    return b"".join(parts)

    def _check_order(self, opcode: int, continues: bool) -> None:
        if (opcode == websocket.ABNF.OPCODE_CONT) != continues:
            self.close(PROTOCOL_ERROR, "")
            raise ChannelEnded("the control plane sent fragments out of order")

    def _frame(self) -> websocket.ABNF:
        try:
            return self._frames.recv_frame()
        except websocket.WebSocketConnectionClosedException as error:
            raise self._end("the control plane ended the connection without a close frame", NO_CLOSE_FRAME) from error
        except websocket.WebSocketTimeoutException as error:
            raise self._end(f"nothing was received for {READ_SECONDS:.0f} s") from error
        except websocket.WebSocketException as error:
            self.close(PROTOCOL_ERROR, "")
            raise self._end(f"the control plane broke the WebSocket protocol: {error}") from error
        except (OSError, AttributeError) as error:
            # AttributeError: the socket was closed by another greenlet between two reads.
            raise self._end(f"the connection broke: {error}") from error

    def _end(self, what: str, code: int = 0) -> ChannelEnded:
        return ChannelEnded(self._ended_by_us) if self._ended_by_us else ChannelEnded(what, code)

    def _closed_by_peer(self, data: bytes) -> ChannelEnded:
        code = struct.unpack("!H", data[:2])[0] if len(data) >= 2 else NO_STATUS
        try:
            text = data[2:].decode()
        except UnicodeDecodeError:
            self.close(PROTOCOL_ERROR, "")
            return ChannelEnded("the control plane closed the connection with a reason that is not UTF-8")
        if not self.closing:  # else it answers our own, and one each is all there may be (RFC 6455 §5.5.1)
            self._write(websocket.ABNF.OPCODE_CLOSE, data[:2])
            self.closing = True
        return ChannelEnded(f"the control plane closed the connection with code {code} {text}".rstrip(), code, text)

    # -- sending -------------------------------------------------------------------------------

    def send(self, text: str) -> bool:
        """Send one message. False, with a log line, when it cannot be written; the peer will ask again."""
        if self.closing:
            log.warning("a reply is not sent because the connection is being closed")
            return False
        return self._write(websocket.ABNF.OPCODE_TEXT, text.encode())

    def _write(self, opcode: int, data: bytes) -> bool:
        frame = websocket.ABNF.create_frame(data, opcode).format()
        try:
            with self._write_lock:
                self._sock.sendall(frame)
            return True
        except OSError as error:
            log.warning("a frame could not be sent to the control plane: %s", error)
            return False

    # -- ending --------------------------------------------------------------------------------

    def close(self, code: int, text: str) -> None:
        """Send a close frame; nothing can be sent after it, but the peer's answer is still read."""
        if not self.closing:
            self._write(websocket.ABNF.OPCODE_CLOSE, struct.pack("!H", code) + text.encode())
            self.closing = True

    def cut(self, why: str) -> None:
        """End the TCP connection at once; `receive` raises ChannelEnded with `why`."""
        self._ended_by_us = self._ended_by_us or why
        self.closing = True
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            log.debug("the connection was down already")
        self._sock.close()


def _data(frame: websocket.ABNF) -> bytes:
    return frame.data if isinstance(frame.data, bytes) else frame.data.encode()


# -- dialling ----------------------------------------------------------------------------------


def dial(url: str, headers: Mapping[str, str], context: ssl.SSLContext | None) -> Channel:
    """Connect to `url` (http or https) and upgrade. Raises DialError; takes DIAL_SECONDS at most."""
    host = urlsplit(url).hostname or ""
    late = DialError(f"websocket client: unable to dial {host}: no connection within {DIAL_SECONDS:.0f} s")
    sock: socket.socket | None = None
    try:
        with gevent.Timeout(DIAL_SECONDS, late):
            sock = _connect(url, context)
            return Channel(sock, _upgrade(sock, url, headers))
    except (OSError, ValueError, DialError) as error:
        if sock is not None:
            sock.close()
        if isinstance(error, DialError):
            raise
        raise DialError(f"websocket client: unable to dial {host}: {plain(error, host)}") from error


def _connect(url: str, context: ssl.SSLContext | None) -> socket.socket:
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    sock = open_socket(parts.scheme, host, parts.port or (443 if secure else 80), DIAL_SECONDS)
    try:
        if secure:
            assert context is not None
            return context.wrap_socket(sock, server_hostname=host)
        return sock
    except BaseException:
        sock.close()
        raise


def _upgrade(sock: socket.socket, url: str, headers: Mapping[str, str]) -> bytes:
    """Do the handshake; answers what was read beyond it. Raises DialError."""
    parts = urlsplit(url)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [f"GET {parts.path or '/'}{'?' + parts.query if parts.query else ''} HTTP/1.1", f"Host: {host_of(url)}"]
    lines += [f"{name}: {value}" for name, value in headers.items() if name.lower() != "host"]
    lines += ["Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    status, reason, answer, rest = _read_head(sock)
    if status != 101:
        raise _refused(sock, parts.netloc, status, reason, answer, rest)
    accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
    upgraded = answer.get("upgrade", "").lower() == "websocket" and "upgrade" in answer.get("connection", "").lower()
    if not upgraded or answer.get("sec-websocket-accept") != accept:
        raise DialError(f"websocket client: unable to dial {parts.netloc}: the answer is no WebSocket upgrade")
    return rest


def _read_head(sock: socket.socket) -> tuple[int, str, dict[str, str], bytes]:
    """Status, reason, headers in lower case, and what follows the head."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(4096)
        if not more:
            raise DialError("the connection was ended during the handshake")
        data += more
        if len(data) > HEAD_BYTES:
            raise DialError("the answer to the handshake is too long")
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = first.split(" ", 2)
    if len(fields) < 2 or not fields[1].isdigit():
        raise DialError("the answer to the handshake is not HTTP")
    pairs = (line.partition(":") for line in lines)
    return int(fields[1]), fields[2] if len(fields) > 2 else "", {n.lower(): v.strip() for n, _, v in pairs}, rest


def _refused(
    sock: socket.socket, host: str, status: int, reason: str, headers: Mapping[str, str], rest: bytes
) -> DialError:
    length = headers.get("content-length", "")
    wanted = min(int(length), MAX_ERROR_BODY_BYTES) if length.isdigit() else MAX_ERROR_BODY_BYTES
    body = rest
    sock.settimeout(2.0)
    while len(body) < wanted:
        try:
            more = sock.recv(wanted - len(body))
        except OSError:
            break  # what came so far has to do
        if not more:
            break
        body += more
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _first_chunk(body)
    body = body[:MAX_ERROR_BODY_BYTES]
    shown = body.decode("utf-8", "replace")
    text = refusal(body) or f"websocket client: unable to dial {host} response: {shown}: {status} {reason}".strip()
    advice = advise("Poll", code_in(text), text, skew_seconds=skew_of(headers.get("date", "")))
    return DialError(f"{text} ({advice})" if advice else text)


def _first_chunk(body: bytes) -> bytes:
    size, _, rest = body.partition(b"\r\n")
    try:
        return rest[: int(size.partition(b";")[0], 16)]
    except ValueError:
        return body
