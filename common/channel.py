"""A WebSocket to AWS: dial, handshake, whole messages, close (RFC 6455; spec 02 §1.3 to §1.6, spec 07 §12.2).

The sessions with ACS and with the telemetry backend both use it; it does not know what their messages mean.
websocket-client does the framing. Dialling and the handshake are done here, because the proxy rules, the exact set of
headers and the reading of a refusal are the reference's. How a connection ended matters to both, so every end is an
`Ended` with a close code: 1006 for a stream that just ended, 0 for anything that broke. What is sent is one text frame:
a receiver sees no difference to the fragments of 32 KiB that the reference makes (RFC 6455 §5.4).
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import socket
import struct
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

import gevent
import websocket

from common.errors import Temporary
from common.proxy import open_socket
from common.sigv4 import DEFAULT_PORTS, host_of
from common.trust import plain, tls_context

log = logging.getLogger(__name__)

USER_AGENT = "Go-http-client/1.1"  # what the reference's WebSocket dialler says, not the agent's own
DIAL_SECONDS = 30.0  # TCP, proxy, TLS and upgrade together
READ_SECONDS = WRITE_SECONDS = 180.0
HEAD_BYTES = 64 << 10
REFUSAL_BYTES = 1024  # of a refused handshake (spec 02 §1.3)
REFUSAL_SECONDS = 2.0
MESSAGE_BYTES = 64 << 20  # far above anything that AWS sends; a bound for our own memory
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
TEXT, BINARY, CONTINUATION = websocket.ABNF.OPCODE_TEXT, websocket.ABNF.OPCODE_BINARY, websocket.ABNF.OPCODE_CONT
CLOSE, PING, PONG = websocket.ABNF.OPCODE_CLOSE, websocket.ABNF.OPCODE_PING, websocket.ABNF.OPCODE_PONG

NORMAL, GOING_AWAY, PROTOCOL_ERROR, NO_STATUS, NO_CLOSE_FRAME, TOO_BIG, INTERNAL_ERROR = (
    1000, 1001, 1002, 1005, 1006, 1009, 1011,
)  # fmt: skip  # RFC 6455 §7.4.1
ORDERLY = (NORMAL, GOING_AWAY, NO_CLOSE_FRAME, INTERNAL_ERROR)  # the next connection follows at once (both sessions)


class DialFailed(Temporary):
    """No connection could be made; the text says why."""


class Refused(DialFailed):
    """The server answered the upgrade with `status`; `body` is the beginning of what it said, `date` its clock."""

    def __init__(self, host: str, status: int, reason: str, body: bytes, date: str) -> None:
        shown = body.decode("utf-8", "replace")
        super().__init__(_unable(host, f"websocket: bad handshake ({status} {reason})".replace(" )", ")"), shown))
        self.status, self.body, self.date = status, body, date


class Ended(Temporary):
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
        self._closing = False
        sock.settimeout(WRITE_SECONDS)

    @property
    def closing(self) -> bool:
        """Whether a close frame was sent or received: nothing can be sent any more."""
        return self._closing

    # -- receiving -----------------------------------------------------------------------------

    def receive(self) -> bytes:
        """The next message. Raises Ended, also after READ_SECONDS without one.

        A ping is answered and does not count.
        """
        with gevent.Timeout(READ_SECONDS, self._end(f"nothing was received for {READ_SECONDS:.0f} s")):
            return self._message()

    def _message(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            frame = self._frame()
            data = frame.data if isinstance(frame.data, bytes) else frame.data.encode()
            if frame.opcode == PING:
                self._answer(PONG, data)
            elif frame.opcode == CLOSE:
                raise self._closed_by_peer(data)
            elif frame.opcode != PONG:
                self._check_order(frame.opcode, bool(parts))
                parts.append(data)
                size += len(data)
                if size > MESSAGE_BYTES:
                    self.close(TOO_BIG, "message too big")
                    raise Ended(f"the server sent a message above {MESSAGE_BYTES} bytes")
                if frame.fin:
                    return b"".join(parts)

    def _check_order(self, opcode: int, continues: bool) -> None:
        if (opcode == CONTINUATION) != continues:
            self.close(PROTOCOL_ERROR, "")
            raise Ended("the server sent fragments out of order")
        if opcode == BINARY:
            log.error("the server sent a binary message; it is read as text")

    def _frame(self) -> websocket.ABNF:
        try:
            return self._frames.recv_frame()
        except websocket.WebSocketConnectionClosedException as error:
            raise self._end("the server ended the connection without a close frame", NO_CLOSE_FRAME) from error
        except websocket.WebSocketTimeoutException as error:
            raise self._end(f"nothing was received for {READ_SECONDS:.0f} s") from error
        except websocket.WebSocketException as error:
            self.close(PROTOCOL_ERROR, "")
            raise self._end(f"the server broke the WebSocket protocol: {error}") from error
        except (OSError, AttributeError) as error:
            # AttributeError: the socket was closed by another greenlet between two reads.
            raise self._end(f"the connection broke: {error}") from error

    def _end(self, what: str, code: int = 0) -> Ended:
        return Ended(self._ended_by_us) if self._ended_by_us else Ended(what, code)

    def _closed_by_peer(self, data: bytes) -> Ended:
        code = struct.unpack("!H", data[:2])[0] if len(data) >= 2 else NO_STATUS
        try:
            text = data[2:].decode()
        except UnicodeDecodeError:
            self.close(PROTOCOL_ERROR, "")
            return Ended("the server closed the connection with a reason that is not UTF-8")
        if not self._closing:  # else it answers our own, and one each is all there may be (RFC 6455 §5.5.1)
            self._answer(CLOSE, data[:2])
            self._closing = True
        return Ended(f"the server closed the connection with code {code} {text}".rstrip(), code, text)

    # -- sending -------------------------------------------------------------------------------

    def send(self, message: str | bytes) -> None:
        """Send one message, WRITE_SECONDS at most. Raises Temporary when it cannot be written."""
        if self._closing:
            raise Temporary("the connection is being closed; nothing can be sent any more")
        self._write(TEXT, message.encode() if isinstance(message, str) else message)

    def reply(self, message: str) -> None:
        """Send one message; a failure is no more than a line in the log, as the peer will ask again."""
        try:
            self.send(message)
        except Temporary as error:
            log.warning("a reply is not sent: %s", error)

    def _write(self, opcode: int, data: bytes) -> None:
        frame = websocket.ABNF.create_frame(data, opcode).format()
        try:
            with self._write_lock:
                self._sock.sendall(frame)
        except OSError as error:
            raise Temporary(f"write failed: {error}") from error

    def _answer(self, opcode: int, data: bytes) -> None:
        """Send a control frame; when that fails, the read that follows tells why."""
        try:
            self._write(opcode, data)
        except Temporary as error:
            log.debug("a control frame is not sent: %s", error)

    # -- ending --------------------------------------------------------------------------------

    def close(self, code: int, text: str) -> None:
        """Send a close frame; nothing can be sent after it, but what comes until the peer's answer is still read."""
        if not self._closing:
            self._closing = True
            self._answer(CLOSE, struct.pack("!H", code) + text.encode())

    def cut(self, why: str) -> None:
        """End the TCP connection at once; `receive` raises Ended with `why`."""
        self._ended_by_us = self._ended_by_us or why
        self._closing = True
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            log.debug("the connection was down already")
        self._sock.close()


# -- dialling ----------------------------------------------------------------------------------


def dial(url: str, headers: Mapping[str, str], verify: bool | str = True) -> Channel:
    """Connect to `url` (http, https, ws or wss) and upgrade, within DIAL_SECONDS; `verify` as for tls_context.

    Raises Refused when the server does not upgrade, DialFailed for everything else that can go wrong on the way.
    """
    host = host_of(url)
    late = DialFailed(_unable(host, f"no connection within {DIAL_SECONDS:.0f} s"))
    sock: socket.socket | None = None
    try:
        with gevent.Timeout(DIAL_SECONDS, late):
            sock = _connect(url, verify)
            return Channel(sock, _upgrade(sock, url, headers))
    except (OSError, ValueError, DialFailed) as error:
        if sock is not None:
            sock.close()
        if isinstance(error, DialFailed):
            raise
        raise DialFailed(_unable(host, plain(error, urlsplit(url).hostname or ""))) from error


def _unable(host: str, cause: str, body: str = "") -> str:
    return f"websocket client: unable to dial {host} response: {body}: {cause}"


def _connect(url: str, verify: bool | str) -> socket.socket:
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme in ("https", "wss")
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    sock = open_socket("https" if secure else "http", host, port, DIAL_SECONDS)
    try:
        return tls_context(verify).wrap_socket(sock, server_hostname=host) if secure else sock
    except BaseException:
        sock.close()
        raise


def _upgrade(sock: socket.socket, url: str, headers: Mapping[str, str]) -> bytes:
    """Do the handshake; returns what was read beyond it. Raises DialFailed."""
    parts, host = urlsplit(url), host_of(url)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [f"GET {parts.path or '/'}{'?' + parts.query if parts.query else ''} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in {"User-Agent": USER_AGENT, **headers}.items()]
    lines += ["Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    status, reason, answer, rest = _read_head(sock, host)
    if status != 101:
        raise Refused(host, status, reason, _refusal(sock, answer, rest), answer.get("date", ""))
    accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
    upgraded = answer.get("upgrade", "").lower() == "websocket" and "upgrade" in answer.get("connection", "").lower()
    if not upgraded or answer.get("sec-websocket-accept") != accept:
        raise DialFailed(_unable(host, "the answer is no WebSocket upgrade"))
    return rest


def _read_head(sock: socket.socket, host: str) -> tuple[int, str, dict[str, str], bytes]:
    """Status, reason, headers in lower case, and what follows the head."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(4096)
        if not more:
            raise DialFailed(_unable(host, "the connection was ended during the handshake"))
        data += more
        if len(data) > HEAD_BYTES:
            raise DialFailed(_unable(host, "the answer to the handshake is too long"))
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = first.split(" ", 2)
    if len(fields) < 2 or not fields[1].isdigit():
        raise DialFailed(_unable(host, "the answer to the handshake is not HTTP"))
    pairs = (line.partition(":") for line in lines)
    return int(fields[1]), fields[2] if len(fields) > 2 else "", {n.lower(): v.strip() for n, _, v in pairs}, rest


def _refusal(sock: socket.socket, headers: Mapping[str, str], rest: bytes) -> bytes:
    """The first REFUSAL_BYTES of the body, as far as they come soon."""
    length = headers.get("content-length", "")
    wanted = min(int(length), REFUSAL_BYTES) if length.isdigit() else REFUSAL_BYTES
    body = rest
    sock.settimeout(REFUSAL_SECONDS)
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
    return body[:REFUSAL_BYTES]


def _first_chunk(body: bytes) -> bytes:
    size, _, rest = body.partition(b"\r\n")
    try:
        return rest[: int(size.partition(b";")[0], 16)]
    except ValueError:
        return body
