"""The session with the telemetry backend (TCS): connect, send what waits, end in good order (spec 07 §12).

One greenlet reads; two empty the mailboxes; one tells the status of the instance. Every frame is signed when it is
sent, because credentials change. Any acknowledgement or heartbeat re-arms the heartbeat timer; none is answered. When
a timer runs out the session sends a close frame and from then on takes nothing from the mailboxes: what is left waits
there for the next connection.

At most one connection exists at a time. A session that ended the way servers end them is followed by the next at once;
twice in a row within ten seconds, after a second: a server that accepts and hangs up is not hammered. When ECS has
deregistered the instance the socket is closed directly, and the next connection follows with back-off (spec 07 §12.6).
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from urllib.parse import quote

import gevent
import gevent.event
import msgspec

from common.backoff import Backoff
from common.channel import NORMAL, ORDERLY, Channel, Ended, Refused, dial
from common.errors import Temporary
from common.keep import keep
from common.sigv4 import UNRESERVED, Keys, host_of, sign
from common.version import COMMIT, VERSION
from services.telemetry.core.doctor import RuntimeCheck
from services.telemetry.core.requests import STATUS, Sender, envelope, status_request
from services.telemetry.core.samples import PUBLISH_SECONDS
from services.telemetry.mailbox import Mailbox

log = logging.getLogger(__name__)
T = TypeVar("T")

HEARTBEAT_SECONDS, HEARTBEAT_JITTER = 60.0, 60.0
DISCONNECT_SECONDS, DISCONNECT_JITTER = 30 * 60.0, 5 * 60.0
STATUS_SECONDS = 20.0
SHORT_SESSION_SECONDS, SHORT_SESSION_PAUSE = 10.0, 1.0
RETRY_SEND_SECONDS = 1.0
EXPIRED = "ConnectionExpired: Reconnect to continue"
ALIVE = ("HeartbeatMessage", "AckPublishMetric", "AckPublishHealth", "AckPublishInstanceStatus")
EXCEPTIONS = (
    "ServerException",
    "BadRequestException",
    "ResourceValidationException",
    "InvalidParameterException",
)
RECOGNISED = (
    *ALIVE,
    *EXCEPTIONS,
    "StopTelemetrySessionMessage",
    "StartTelemetrySessionRequest",
    "PublishMetricsRequest",
    "PublishHealthRequest",
    "PublishInstanceStatusRequest",
)


class Body(msgspec.Struct):
    """The member `message` of what the backend sends; only the types are checked, nothing else is used."""

    healthy: bool | None = None
    message: str | None = None


class Envelope(msgspec.Struct):
    """A message of the backend. `message` must be there, null will do."""

    type: str
    message: Body | None


@dataclass(frozen=True)
class Timers:
    """Seconds, those of the publisher included; a test shortens them."""

    heartbeat: float = HEARTBEAT_SECONDS
    heartbeat_jitter: float = HEARTBEAT_JITTER
    disconnect: float = DISCONNECT_SECONDS
    disconnect_jitter: float = DISCONNECT_JITTER
    status: float = STATUS_SECONDS
    publish: float = PUBLISH_SECONDS


@dataclass(frozen=True)
class Outlet:
    """What a session needs from the rest: who speaks, where to, with which keys."""

    sender: Callable[[], Sender]
    endpoint: Callable[[], str]
    keys: Callable[[], Keys]
    region: str
    docker_version: Callable[[], str]
    verify: bool | str = True
    connected: Callable[[bool], None] = lambda success: None


def url_of(endpoint: str, sender: Sender, docker_version: str) -> str:
    """The URL of the WebSocket. Raises Temporary for an endpoint that is no http(s) URL."""
    query = {
        "agentHash": COMMIT,
        "agentVersion": VERSION,
        "cluster": sender.cluster,
        "containerInstance": sender.instance,
    }
    if docker_version:
        query["dockerVersion"] = docker_version
    scheme, _, rest = endpoint.partition("://")
    if scheme not in ("http", "https") or not rest:
        raise Temporary(f"wsclient: unknown scheme {scheme if rest else ''}")
    slash = "" if rest.endswith("/") else "/"
    pairs = "&".join(f"{name}={quote(value, safe=UNRESERVED)}" for name, value in query.items())
    return f"{'wss' if scheme == 'https' else 'ws'}://{rest}{slash}ws?{pairs}"


def frame(url: str, region: str, keys: Keys, body: bytes, at: float | None = None) -> bytes:
    """What goes into one WebSocket message: signed header block, empty line, JSON (spec 07 §12.3)."""
    headers = sign(url, region, keys, body, at=at) | {"Host": host_of(url)}
    lines = "".join(f"{name}: {headers[name]}\r\n" for name in sorted(headers))
    return lines.encode() + b"\r\n" + body


def _read(text: str, type_: type[T]) -> T:
    """JSON as `type_`. Raises msgspec.DecodeError for everything that it is not."""
    try:
        return msgspec.json.decode(text, type=type_)
    except RecursionError as error:
        raise msgspec.DecodeError("nested too deeply") from error


def kind_of(data: bytes) -> str:
    """The type of a message from the backend. Raises msgspec.DecodeError for what cannot be understood.

    Bytes that are no UTF-8 count as U+FFFD, as in Go.
    """
    text = data.decode("utf-8", "replace")
    try:
        return _read(text, Envelope).type
    except msgspec.DecodeError:
        bare: object = _read(text, object)
        if isinstance(bare, dict) and len(bare) == 1:
            name, reason = next(iter(bare.items()))
            if name in EXCEPTIONS and isinstance(reason, str):
                return str(name)
        raise


def explain(refused: Refused) -> str:
    """A refused upgrade in the words of the exception that its body names, when it names one (spec 07 §12.2)."""
    try:
        body: object = _read(refused.body.decode("utf-8", "replace"), object)
    except msgspec.DecodeError:
        return str(refused)
    if not isinstance(body, dict):
        return str(refused)
    if len(body) == 1:
        name, text = next(iter(body.items()))
        if name in EXCEPTIONS and isinstance(text, str):
            return f"{name}: {text}"
    kind, inner = body.get("type"), body.get("message")
    if kind in EXCEPTIONS:
        text = inner.get("message") if isinstance(inner, dict) else None
        return f"{kind}: {'null' if text is None else text}"
    return f"TCSError: Unknown error ({kind})" if kind in RECOGNISED else str(refused)


class Session:
    """Keeps one connection to the telemetry backend, for as long as the process runs."""

    def __init__(
        self, outlet: Outlet, boxes: tuple[Mailbox, ...], check: RuntimeCheck,
        changed: Callable[[bool, str], None], timers: Timers | None = None,
    ) -> None:  # fmt: skip
        self._outlet, self._boxes, self._check, self._changed = outlet, boxes, check, changed
        self._timers = timers or Timers()
        self._backoff = Backoff(1.0, 60.0, 2.0, 0.2)
        self._heartbeat: gevent.Greenlet | None = None
        self._channel: Channel | None = None

    def run(self, stopping: gevent.event.Event) -> None:
        """Connect, serve, reconnect until `stopping`; then the socket is closed directly."""
        watch = gevent.spawn(self._abort_at, stopping)
        try:
            self._go_on(stopping)
        finally:
            watch.kill(block=False)

    def _go_on(self, stopping: gevent.event.Event) -> None:
        short = False
        while not stopping.is_set():
            began = time.monotonic()
            ended = self._serve_once()
            if stopping.is_set():
                break
            brief = time.monotonic() - began < SHORT_SESSION_SECONDS
            if isinstance(ended, Ended) and ended.code in ORDERLY:
                self._backoff.reset()
                delay = SHORT_SESSION_PAUSE if brief and short else 0.0
                log.info("the telemetry session ended (%s); the next one follows", ended)
            else:
                delay = self._backoff.delay()
                log.warning("Error: lost websocket connection with ECS Telemetry service (TCS): %s; "
                            "the next attempt is in %.1f s", ended, delay)  # fmt: skip
            short = brief
            self._changed(False, str(ended))
            stopping.wait(delay)

    def drop(self, reason: str) -> None:
        """Close the socket directly, if there is one; the session goes on with back-off."""
        if self._channel is not None:
            self._channel.cut(reason)

    def _abort_at(self, stopping: gevent.event.Event) -> None:
        stopping.wait()
        if self._channel is not None:
            self._channel.cut("the agent stops")

    def _serve_once(self) -> Temporary:
        """One session; returns why it ended."""
        try:
            channel, url = self._connect()
        except Refused as refused:
            return Temporary(explain(refused))
        except Temporary as error:
            return error
        log.info("the telemetry session is open (%s)", host_of(url))
        self._channel = channel
        self._changed(True, "")
        try:
            return self._serve(channel, url)
        finally:
            self._channel = None
            channel.cut("the connection is over")

    def _connect(self) -> tuple[Channel, str]:
        connected = False
        try:
            url = url_of(self._outlet.endpoint(), self._outlet.sender(), self._outlet.docker_version())
            channel = dial(url, sign(url, self._outlet.region, self._outlet.keys()), self._outlet.verify)
            connected = True
            return channel, url
        finally:
            self._outlet.connected(connected)

    def _serve(self, channel: Channel, url: str) -> Temporary:
        timers = self._timers
        lifetime = timers.disconnect + random.uniform(0, timers.disconnect_jitter)

        def pause(seconds: float) -> bool:
            gevent.sleep(seconds)
            return not channel.closing

        helpers: list[gevent.Greenlet[..., object]] = [
            gevent.spawn_later(lifetime, channel.close, NORMAL, EXPIRED),
            gevent.spawn(keep, "telling the status of the instance", lambda: self._tell_status(channel, url), pause),
        ]
        for box in self._boxes:
            job = partial(self._empty, box, channel, url)
            helpers.append(gevent.spawn(keep, "emptying a mailbox of telemetry", job, pause))
        self._arm(channel)
        try:
            while True:
                self._handle(channel.receive(), channel)
        except Temporary as ended:
            return ended
        finally:
            self._disarm()
            gevent.killall(helpers)

    def _handle(self, data: bytes, channel: Channel) -> None:
        try:
            kind = kind_of(data)
        except msgspec.DecodeError as error:
            log.warning("a message of the telemetry backend cannot be understood (%s); it is ignored", error)
            return
        if kind in ALIVE:
            self._arm(channel)
        elif kind in EXCEPTIONS:
            log.warning("the telemetry backend reports an error: %s", data[:1024].decode("utf-8", "replace"))
        elif kind not in RECOGNISED:
            log.warning("the telemetry backend sent a message of the unknown type %s; it is ignored", kind[:80])

    def _arm(self, channel: Channel) -> None:
        self._disarm()
        seconds = self._timers.heartbeat + random.uniform(0, self._timers.heartbeat_jitter)
        self._heartbeat = gevent.spawn_later(seconds, channel.close, NORMAL, EXPIRED)

    def _disarm(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.kill(block=False)
            self._heartbeat = None

    # -- sending -------------------------------------------------------------------------------

    def _send(self, channel: Channel, url: str, body: bytes) -> None:
        channel.send(frame(url, self._outlet.region, self._outlet.keys(), body))

    def _empty(self, box: Mailbox, channel: Channel, url: str) -> None:
        while not channel.closing:
            body = box.next()
            try:
                self._send(channel, url, body)
            except Temporary as error:
                # The connection's own end is seen by the reader; without keys there is nothing to do but wait.
                log.debug("a message to the telemetry backend was not sent: %s", error)
                gevent.sleep(RETRY_SEND_SECONDS)
                continue
            box.sent()

    def _tell_status(self, channel: Channel, url: str) -> None:
        due = time.monotonic()
        while True:
            due += self._timers.status
            gevent.sleep(max(0.0, due - time.monotonic()))
            if self._check.reported or channel.closing:
                continue
            checked_at = self._check.checked_at
            inner = status_request(self._outlet.sender(), str(uuid.uuid4()), [self._check.message()], time.time())
            try:
                self._send(channel, url, envelope(STATUS, inner))
            except Temporary as error:
                log.debug("the status of the instance was not sent: %s; the next tick tries again", error)
                continue
            self._check.reported = checked_at == self._check.checked_at
