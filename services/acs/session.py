"""The session with ACS: connect, read, keep alive, connect again (ECS agent behaviour, spec 02 §3).

One connection at a time. The reader decodes frames and answers heartbeats itself; everything else goes into the inbox
of `Handlers`, so that a handler that waits (for Redis, say) never makes the server believe that this agent is dead.
What follows the end of a connection is decided by `verdict`, a pure function with its own table of tests.
"""

from __future__ import annotations

import enum
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote_plus, urlsplit

import gevent
import gevent.event

from common.backoff import Backoff
from common.channel import NORMAL, ORDERLY, Channel, Ended, Refused, dial
from common.discovery import Discovery
from common.errors import AgentError
from common.own_keys import OwnCredentials
from common.sigv4 import sign
from common.version import COMMIT, VERSION
from common.wire import acs
from services.acs.settings import Settings
from services.acs.words import advise, code_in, skew_of

log = logging.getLogger(__name__)

INACTIVE = "InactiveInstanceException"
TEXT_OF_AGE = "ConnectionExpired: Reconnect to continue"


@dataclass(frozen=True)
class Timings:
    """Seconds; each timer with a spread runs for its value plus a random part of the spread."""

    heartbeat: float = 60.0
    heartbeat_spread: float = 60.0
    backoff_reset: float = 60.0
    backoff_reset_spread: float = 60.0
    age: float = 1800.0
    age_spread: float = 300.0
    close_wait: float = 5.0  # for the server's close frame after ours; the reference waits without limit
    inactive: float = 3600.0
    retry_start: float = 0.25
    retry_maximum: float = 120.0


class Next(enum.Enum):
    """What follows the end of a connection."""

    AT_ONCE = "reconnect at once, back-off reset"
    BACK_OFF = "reconnect after the next back-off delay"
    INACTIVE = "the instance is deregistered: wait long"


def verdict(error: AgentError) -> Next:
    """What follows a failed connect or an ended connection (spec 02 §3.2)."""
    if isinstance(error, Ended):
        if error.code in ORDERLY:
            return Next.AT_ONCE
        return Next.INACTIVE if INACTIVE in error.text else Next.BACK_OFF
    return Next.INACTIVE if INACTIVE in str(error) else Next.BACK_OFF


def endpoint_url(endpoint: str, cluster: str, instance_arn: str, docker_version: str, send_credentials: bool) -> str:
    """The URL as it goes onto the request line, spaces as + (spec 02 §1.2)."""
    scheme = urlsplit(endpoint).scheme
    if scheme not in ("https", "http"):
        raise AgentError(f"wsclient: unknown scheme {scheme}")
    parameters = {
        "agentHash": COMMIT,
        "agentVersion": VERSION,
        "clusterArn": cluster,
        "containerInstanceArn": instance_arn,
        "dockerVersion": f"DockerVersion: {docker_version}" if docker_version else None,
        "protocolVersion": "2",
        "sendCredentials": "true" if send_credentials else "false",
        "seqNum": "1",
    }
    base = endpoint + ("" if endpoint.endswith("/") else "/") + "ws?"
    given = [(name, value) for name, value in parameters.items() if value is not None]
    return base + "&".join(f"{name}={quote_plus(value)}" for name, value in given)


def explain(refused: Refused) -> str:
    """A refused handshake in the words of the exception that its body names, when it names one, and what to do."""
    text = acs.refusal(refused.body) or str(refused)
    advice = advise("Poll", code_in(text), text, skew_seconds=skew_of(refused.date))
    return f"{text} ({advice})" if advice else text


class Receiver(Protocol):
    """Takes recognised messages, heartbeats excepted."""

    def put(self, channel: Channel, frame: acs.Frame) -> None:
        """Take over; does not wait."""


class Session:
    """Keeps a connection to ACS for the life of the process: `run` returns when the process is to stop."""

    def __init__(
        self,
        settings: Settings,
        credentials: OwnCredentials,
        discovery: Discovery,
        instance_arn: str,
        docker_version: str,
        receiver: Receiver,
        announce: Callable[[bool, str, bool], None],
        stopping: gevent.event.Event,
        now: Callable[[], float] = time.time,
        timings: Timings | None = None,
        heard: Callable[[], None] = lambda: None,
    ) -> None:
        """`announce` is told whether there is a session, why (not), and whether the instance is deregistered."""
        self._settings, self._credentials, self._discovery = settings, credentials, discovery
        self._arn, self._docker_version, self._receiver = instance_arn, docker_version, receiver
        self._announce, self._stopping, self._now = announce, stopping, now
        self._timings, self._heard = timings or Timings(), heard
        self._send_credentials = True
        self._backoff = Backoff(self._timings.retry_start, self._timings.retry_maximum, 1.5, 0.2)
        self._channel: Channel | None = None

    # -- loop ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Connect and read, again and again, until the process is to stop."""
        while not self._stopping.is_set():
            try:
                self._one_connection()
            except AgentError as error:
                self._after(error)
            except Exception as error:
                # Whoever looks into it needs the traceback; the session goes on as after any failed attempt.
                log.critical("an attempt to hold a session with ACS failed unexpectedly", exc_info=True)
                self._after(AgentError(f"{type(error).__name__}: {error}"))

    def stop(self) -> None:
        """End the connection; `run` returns soon after."""
        if self._channel is not None:
            self._channel.cut("the agent stops")

    def _after(self, error: AgentError) -> None:
        if self._stopping.is_set():
            return
        follows = verdict(error)
        if follows is Next.AT_ONCE:
            self._backoff.reset()
            log.info("the ACS session ended (%s); connecting again", error)
            self._announce(False, f"{error}; connecting again", False)
            return
        delay = self._timings.inactive if follows is Next.INACTIVE else self._backoff.delay()
        if follows is Next.INACTIVE:
            log.error(
                "this container instance has been deregistered (%s); tasks run on, and the agent asks again in %.0f s. "
                "Restart the agent to register anew", error, delay,
            )  # fmt: skip
        else:
            log.warning(
                "the ACS session ended or could not be made: %s; the next attempt follows in %.2f s", error, delay
            )
        self._announce(False, str(error), follows is Next.INACTIVE)
        self._stopping.wait(delay)

    def _one_connection(self) -> None:
        """Raises AgentError when it ends, for whatever reason."""
        channel = self._connect()
        self._channel = channel
        self._send_credentials = False
        log.info("Beginning Polling for updates")
        self._announce(True, "connected", False)
        heartbeat = _Deadline()
        timers: list[gevent.Greenlet[..., None]] = [
            gevent.spawn(self._watch_heartbeat, channel, heartbeat),
            gevent.spawn_later(self._drawn("backoff_reset"), self._backoff.reset),
            gevent.spawn_later(self._drawn("age"), self._retire, channel),
        ]
        try:
            while True:
                self._take(channel, channel.receive(), heartbeat)
        finally:
            for timer in timers:
                timer.kill(block=False)
            channel.cut("the connection is over")
            self._channel = None

    def _connect(self) -> Channel:
        connected = False
        try:
            endpoint = self._discovery.endpoint()
            url = endpoint_url(
                endpoint, self._settings.cluster_name, self._arn, self._docker_version, self._send_credentials
            )
            headers = sign(url, self._settings.region, self._credentials.keys(), at=self._now())
            channel = dial(url, headers, self._settings.verify)
            connected = True
            return channel
        except Refused as refused:
            raise AgentError(explain(refused)) from refused
        finally:
            self._discovery.connected(connected)

    # -- one connection ------------------------------------------------------------------------

    def _take(self, channel: Channel, data: bytes, heartbeat: _Deadline) -> None:
        try:
            frame = acs.decode(data)
        except acs.Dropped as error:
            log.warning("%s; it is dropped, the session goes on", error)
            return
        heartbeat.move(self._drawn("heartbeat"))
        if frame.type == "HeartbeatMessage":
            channel.reply(acs.heartbeat_ack(frame.message))
            self._heard()
            return
        self._receiver.put(channel, frame)

    def _drawn(self, timer: str) -> float:
        spread: float = getattr(self._timings, f"{timer}_spread")
        return float(getattr(self._timings, timer)) + random.uniform(0.0, spread)

    def _watch_heartbeat(self, channel: Channel, heartbeat: _Deadline) -> None:
        heartbeat.move(self._drawn("heartbeat"))
        while True:
            left = heartbeat.left()
            if left <= 0:
                channel.cut(f"no message came from ACS for {heartbeat.seconds:.0f} s")
                return
            gevent.sleep(left)

    def _retire(self, channel: Channel) -> None:
        channel.close(NORMAL, TEXT_OF_AGE)
        gevent.sleep(self._timings.close_wait)
        channel.cut("the control plane did not answer the close frame")


class _Deadline:
    """A point in time that moves."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._end = time.monotonic()

    def move(self, seconds: float) -> None:
        """It is `seconds` away from now on."""
        self.seconds, self._end = seconds, time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until it."""
        return self._end - time.monotonic()
