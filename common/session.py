"""What every connection to AWS shares: Signature Version 4, the rules for TLS, plain words for what fails; and the
WebSocket of telemetry (spec 02 §1, spec 07 §12). The session with ACS has a channel of its own in services.acs.

`connect` builds nothing but the connection: TCP (through a proxy when the environment names one), TLS, and an upgrade
request that carries an AWS Signature Version 4 over an empty body. It has one deadline for all of it. The `Channel` it
returns sends and receives whole text messages; it does not know what they mean. What is sent is one text frame: a
receiver sees no difference to the fragments of 32 KiB that the reference makes (RFC 6455 §5.4).

The signer is written out here because botocore's costs 9 MB of memory in a process that needs nothing else of it; the
test vectors of the specification hold for both. Signature, TLS rules and proxies (common.proxy) are the same for every
connection that this product makes to AWS, WebSocket or API call, so they are here once.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
import struct
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

import gevent
import websocket

from common.errors import Temporary
from common.proxy import open_socket

SERVICE = "ecs"
USER_AGENT = "Go-http-client/1.1"  # what the reference's WebSocket dialler says, not the agent's own
HANDSHAKE_SECONDS = 30.0  # TCP, proxy, TLS and upgrade together
SILENCE_SECONDS = 180.0  # read and write deadline
ERROR_BODY_BYTES = 1024  # of a refused upgrade, at most this much is read
UNRESERVED = "-_.~"
DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
# TLS 1.2 suites of the reference (spec 02 §1.4), and the two that a server with an ECDSA certificate needs; those of
# TLS 1.3 are not restricted.
CIPHERS = (
    "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-SHA256:ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-SHA:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:AES128-GCM-SHA256:"
    "AES128-SHA256:AES128-SHA:AES256-GCM-SHA384:AES256-SHA"
)

NORMAL, GOING_AWAY, NO_CODE, ABNORMAL, INTERNAL_ERROR = 1000, 1001, 1005, 1006, 1011  # RFC 6455 §7.4.1


class Keys(NamedTuple):
    """AWS credentials to sign with; `token` is empty without a session."""

    access_key: str
    secret_key: str
    token: str = ""

    def __repr__(self) -> str:
        return f"Keys({self.access_key!r})"


class Refused(Temporary):
    """The server answered the upgrade request with something else; `body` holds its first 1024 bytes."""

    def __init__(self, text: str, status: int, body: str) -> None:
        super().__init__(text)
        self.status, self.body = status, body


class Closed(Temporary):
    """The session ended: `code` is that of the close frame, 1005 for one without, 1006 when there was none."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"websocket: close {code}" + (f": {reason}" if reason else ""))
        self.code, self.reason = code, reason


def service_url(endpoint: str, query: Mapping[str, str]) -> str:
    """`<endpoint>/ws?<query>` with ws or wss as scheme, query sorted by name and percent-encoded (a space is %20).

    Raises Temporary for a scheme that is neither http nor https.
    """
    scheme, _, rest = endpoint.partition("://")
    if scheme not in ("http", "https") or not rest:
        raise Temporary(f"wsclient: unknown scheme {scheme if rest else ''}")
    slash = "" if rest.endswith("/") else "/"
    pairs = "&".join(f"{quote(k, safe=UNRESERVED)}={quote(v, safe=UNRESERVED)}" for k, v in sorted(query.items()))
    return f"{'wss' if scheme == 'https' else 'ws'}://{rest}{slash}ws?{pairs}"


def host_of(url: str) -> str:
    """The Host header of `url`: with the port only when it is not the scheme's own."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return host if parts.port in (None, DEFAULT_PORTS.get(parts.scheme)) else f"{host}:{parts.port}"


def sign(
    url: str,
    region: str,
    keys: Keys,
    payload: bytes = b"",
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    at: float | None = None,
    service: str = SERVICE,
) -> dict[str, str]:
    """The headers that sign a request (AWS Signature Version 4): Authorization, X-Amz-Date, X-Amz-Security-Token.

    Host is always signed; `headers` are further ones to sign. `at` is the Unix time to sign for. A space in the query
    of `url` may be written as + or as %20: it is signed as %20, which is what the service reads out of both.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
    signed = {"host": host_of(url), "x-amz-date": stamp}
    if keys.token:
        signed["x-amz-security-token"] = keys.token
    signed |= {name.lower(): " ".join(value.split()) for name, value in (headers or {}).items()}
    names = ";".join(sorted(signed))
    parts = urlsplit(url)
    canonical = "\n".join((
        method,
        quote(parts.path or "/", safe="/-_.~%"),
        _canonical_query(parts.query),
        "".join(f"{name}:{signed[name]}\n" for name in sorted(signed)),
        names,
        hashlib.sha256(payload).hexdigest(),
    ))  # fmt: skip
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = _signing_key(keys.secret_key, stamp[:8], region, service)
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    result = {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}",
        "X-Amz-Date": stamp,
    }
    if keys.token:
        result["X-Amz-Security-Token"] = keys.token
    return result


def _canonical_query(query: str) -> str:
    pairs = sorted(parse_qsl(query, keep_blank_values=True))  # reads '+' as the space that it is on the request line
    return "&".join(f"{quote(k, safe=UNRESERVED)}={quote(v, safe=UNRESERVED)}" for k, v in pairs)


def _signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def tls_context(verify: bool | str = True) -> ssl.SSLContext:
    """TLS 1.2 or later with the reference's ciphers and the system's roots (SSL_CERT_FILE, SSL_CERT_DIR).

    `verify` is False for no check of certificates, or the path of a CA bundle that counts too. Raises OSError, naming
    the file, for a bundle that cannot be used.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif isinstance(verify, str):
        try:
            context.load_verify_locations(verify)
        except OSError as error:  # an SSLError is one too
            text = f"the CA bundle {verify} (AWS_CA_BUNDLE) cannot be used: {error.strerror or error}"
            raise OSError(text) from error
    return context


def plain(error: BaseException, host: str) -> str:
    """A failed connection in plain words; what to do when it is the certificate of `host`."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ssl.SSLCertVerificationError):
        reason = getattr(seen, "reason", None)
        seen = reason if isinstance(reason, BaseException) else seen.__cause__ or seen.__context__
    if seen is None:
        return str(error)
    return (
        f"the certificate of {host} is not trusted: {seen.verify_message or seen}. For a private CA, name the file "
        "with its certificate in AWS_CA_BUNDLE; -k (ecs-agent) switches the check off"
    )


def connect(
    url: str, region: str, keys: Keys, verify: bool | str = True, seconds: float = HANDSHAKE_SECONDS
) -> Channel:
    """Open the WebSocket `url` (ws or wss) with a signed upgrade request, within `seconds`.

    Raises Refused when the server does not upgrade, Temporary for everything else that can go wrong on the way.
    """
    host = host_of(url)
    try:
        with gevent.Timeout(seconds, TimeoutError(f"no connection within {seconds:.0f} s")):
            return _dial(url, region, keys, verify)
    except websocket.WebSocketBadStatusException as error:
        body = (error.resp_body or b"")[:ERROR_BODY_BYTES].decode("utf-8", "replace")
        text = f"websocket client: unable to dial {host} response: {body}: websocket: bad handshake"
        raise Refused(text, error.status_code, body) from error
    except (OSError, ValueError, websocket.WebSocketException) as error:
        raise Temporary(f"websocket client: unable to dial {host} response: : {plain(error, host)}") from error


def _dial(url: str, region: str, keys: Keys, verify: bool | str) -> Channel:
    parts = urlsplit(url)
    secure = parts.scheme == "wss"
    name, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
    sock = open_socket("https" if secure else "http", name, port)
    try:
        if secure:
            sock = tls_context(verify).wrap_socket(sock, server_hostname=name)
        headers = [f"{name}: {value}" for name, value in sign(url, region, keys).items()]
        connection = websocket.WebSocket(skip_utf8_validation=True)
        connection.connect(
            url,
            socket=sock,
            host=host_of(url),
            header=[f"User-Agent: {USER_AGENT}", *headers],
            suppress_origin=True,
            redirect_limit=0,
        )
        if connection.getstatus() != 101:
            raise websocket.WebSocketException(f"handshake status {connection.getstatus()}")
    except BaseException:
        sock.close()
        raise
    return Channel(connection)


class Channel:
    """An open WebSocket: whole messages in both directions. One greenlet receives; any may send.

    `send` and `receive` raise Closed or Temporary when the connection is gone. After `close` nothing can be sent, but
    what the server still says can be received until its own close arrives.
    """

    def __init__(self, connection: websocket.WebSocket) -> None:
        self._connection = connection
        self._closing = False
        self._parts: list[bytes] = []
        connection.settimeout(SILENCE_SECONDS)

    @property
    def closing(self) -> bool:
        """Whether a close frame was sent or received: nothing can be sent any more."""
        return self._closing

    def send(self, text: str | bytes) -> None:
        """Send one text message; waits at most 180 s for the network to take it."""
        if self._closing:
            raise Temporary("the session is being closed; nothing can be sent any more")
        self._write(websocket.ABNF.OPCODE_TEXT, text.encode() if isinstance(text, str) else text)

    def receive(self, seconds: float = SILENCE_SECONDS) -> bytes:
        """The next message. Raises Closed at the end of the session and Temporary after `seconds` without a message.

        A ping is answered and does not count: the deadline runs from the last message.
        """
        with gevent.Timeout(seconds, Temporary(f"read timeout: no message within {seconds:.0f} s")):
            while True:
                opcode, fin, data = self._frame()
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    raise self._closed(data)
                if opcode == websocket.ABNF.OPCODE_PING:
                    self._answer(websocket.ABNF.OPCODE_PONG, data)
                elif opcode != websocket.ABNF.OPCODE_PONG:
                    self._parts.append(data)
                    if fin:
                        message, self._parts = b"".join(self._parts), []
                        return message

    def close(self, code: int, reason: str) -> None:
        """Send a close frame; the server's answer ends `receive` with Closed. A dead connection is no error."""
        if not self._closing:
            self._closing = True
            self._answer(websocket.ABNF.OPCODE_CLOSE, struct.pack("!H", code) + reason.encode())

    def abort(self) -> None:
        """Close the socket at once, without a close frame."""
        self._closing = True
        self._connection.shutdown()

    def _frame(self) -> tuple[int, bool, bytes]:
        try:
            frame = self._connection.recv_frame()
            return frame.opcode, bool(frame.fin), frame.data if isinstance(frame.data, bytes) else frame.data.encode()
        except websocket.WebSocketConnectionClosedException as error:
            raise Closed(ABNORMAL, "unexpected EOF") from error
        except (OSError, AttributeError, websocket.WebSocketException) as error:
            # AttributeError: the library lost its socket to `abort` while it was reading.
            raise Temporary(f"read failed: {error}") from error

    def _closed(self, data: bytes) -> Closed:
        code = struct.unpack("!H", data[:2])[0] if len(data) >= 2 else NO_CODE
        if not self._closing:
            self._closing = True
            self._answer(websocket.ABNF.OPCODE_CLOSE, data[:2])
        return Closed(code, data[2:].decode("utf-8", "replace"))

    def _write(self, opcode: int, data: bytes) -> None:
        try:
            with gevent.Timeout(SILENCE_SECONDS, TimeoutError(f"not sent within {SILENCE_SECONDS:.0f} s")):
                self._connection.send(data, opcode)
        except (OSError, AttributeError, websocket.WebSocketException) as error:
            raise Temporary(f"write failed: {error}") from error

    def _answer(self, opcode: int, data: bytes) -> None:
        """Send a control frame; when that fails, the read that follows tells why."""
        try:
            self._write(opcode, data)
        except Temporary:
            return
