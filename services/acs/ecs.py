"""The ECS API as the agent calls it: AWS JSON 1.1 over HTTP, signed, bounded, retried by rule.

The bodies come from common.wire.ecs, byte for byte; common.sigv4 signs, botocore finds credentials, urllib3 carries.
A client built from botocore's service model could not send what the agent must send (`clientToken`, `zoneId`,
milliseconds), takes longer to start, and bounds only parts of a call. One HTTP attempt takes ATTEMPT_SECONDS at most,
whatever stalls. Retries follow the SDK of the reference (ECS agent behaviour, spec 01 §8.3, spec 02 §8.9);
callers with a back-off of their own use `attempt`.
"""

from __future__ import annotations

import logging
import random
import socket
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

import gevent
import urllib3

from common.discovery import TARGET, error_code, regional, retry_delay, worth_another
from common.errors import AgentError
from common.own_keys import OwnCredentials
from common.proxy import SOCKS, open_socket, proxy_for, proxy_login, proxy_url
from common.sigv4 import DEFAULT_PORTS, host_of, sign
from common.trust import plain, tls_context
from common.wire import jsontext
from services.acs.settings import Settings
from services.acs.words import MAYBE_SKEW_CODES, SKEW_CODES, SKEW_SECONDS, STALE_KEYS, explain, skew_of, skewed

log = logging.getLogger(__name__)

CONNECT_SECONDS = 30.0
ATTEMPT_SECONDS = 42.0  # 30 s dial, 10 s TLS, 2 s for the answer
POOL_SIZE = 16


class ApiError(AgentError):
    """A call that failed. `code` is the service's, "" when there was no readable answer; `status` is HTTP's or 0.

    `retried` tells whether the SDK of the reference would try again by itself.
    """

    def __init__(
        self, operation: str, code: str, text: str, status: int = 0, retried: bool = False, skew_seconds: float = 0.0
    ) -> None:
        self.operation, self.code, self.text, self.status, self.retried = operation, code, text, status, retried
        super().__init__(f"{operation}: {explain(operation, code, text, skew_seconds=skew_seconds)}")


class _SocksConnection(urllib3.connection.HTTPConnection):
    """Through the SOCKS proxy that the environment names; urllib3 itself would need one more package."""

    def _new_conn(self) -> socket.socket:
        return open_socket("http", self.host, self.port or 80, CONNECT_SECONDS)


class _SocksTlsConnection(urllib3.connection.HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return open_socket("https", self.host, self.port or 443, CONNECT_SECONDS)


class _SocksPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _SocksConnection


class _SocksTlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SocksTlsConnection


class EcsClient:
    """Thread-safe in the gevent sense: any greenlet may call, connections are pooled."""

    def __init__(self, settings: Settings, credentials: OwnCredentials, region: str = "") -> None:
        self.settings, self.credentials = settings, credentials
        self.region = region or settings.region
        url = settings.backend_host or regional("ecs", self.region, settings.use_fips, settings.use_dual_stack)
        self.url = url.rstrip("/") + "/"
        self.skew_seconds = 0.0  # what must be added to our clock
        self._pools: dict[str, urllib3.PoolManager] = {}

    def now(self) -> float:
        """Unix seconds by the control plane's clock."""
        return time.time() + self.skew_seconds

    # -- calls ---------------------------------------------------------------------------------

    def call(self, operation: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer, after up to `max_attempts` attempts. Raises ApiError, or Temporary without credentials."""
        for number in range(1, self.settings.max_attempts + 1):
            try:
                return self.attempt(operation, body)
            except ApiError as error:
                if not error.retried or number == self.settings.max_attempts:
                    raise
                delay = retry_delay(number)
                log.info("%s; it is tried again in %.1f s", error, delay)
                time.sleep(delay)
        raise AssertionError("unreachable: the loop returns or raises")

    def attempt(self, operation: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One HTTP attempt, ATTEMPT_SECONDS at most. Raises ApiError, or Temporary without credentials."""
        keys = self.credentials.keys()
        data = jsontext.dumps(body).encode()
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"{TARGET}.{operation}"}
        signed = sign(self.url, self.region, keys, data, "POST", headers, self.now())
        # The agent's name is not signed: proxies may change it.
        headers |= {"Host": host_of(self.url), **signed, "User-Agent": self.settings.user_agent}
        response = self._send(operation, data, {**headers, "Content-Length": str(len(data))})
        return self._answer(operation, response)

    def _send(self, operation: str, data: bytes, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        timeout = TimeoutError(f"no answer within {ATTEMPT_SECONDS:.0f} s")
        try:
            with gevent.Timeout(ATTEMPT_SECONDS, timeout):
                return self._pool().request("POST", self.url, body=data, headers=dict(headers))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            text = f"the control plane at {self.url} cannot be reached: {plain(_cause(error), host_of(self.url))}"
            raise ApiError(operation, "", text, retried=not _is_unknown_host(error)) from error

    def _pool(self) -> urllib3.PoolManager:
        parts = urlsplit(self.url)
        proxy = proxy_for(parts.scheme, parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme])
        name = proxy_url(proxy) if proxy else ""
        if name not in self._pools:
            self._pools[name] = pool_through(
                proxy,
                maxsize=POOL_SIZE,
                retries=False,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=ATTEMPT_SECONDS),
                ssl_context=tls_context(self.settings.verify) if parts.scheme == "https" else None,
            )
        return self._pools[name]

    def _answer(self, operation: str, response: urllib3.BaseHTTPResponse) -> dict[str, Any]:
        try:
            value = jsontext.loads(response.data.decode("utf-8", "replace") or "{}")
        except jsontext.NotJson:
            value = None
        if response.status == 200 and isinstance(value, dict):
            return value
        raise self._error(operation, response, value if isinstance(value, dict) else {})

    def _error(self, operation: str, response: urllib3.BaseHTTPResponse, value: Mapping[str, Any]) -> ApiError:
        code = error_code(response.headers.get("x-amzn-ErrorType", ""), value)
        text = str(value.get("message") or value.get("Message") or "")
        if not code:
            text = text or f"HTTP status {response.status} {response.reason or ''} without a readable error".strip()
        retried = worth_another(response.status, code) or self._correct_clock(code, response)
        if code in STALE_KEYS:
            self.credentials.forget()
        return ApiError(operation, code, text, response.status, retried, skew_of(response.headers.get("Date", "")))

    def _correct_clock(self, code: str, response: urllib3.BaseHTTPResponse) -> bool:
        """Take over the server's clock when the error is about time; True when another attempt is worth it."""
        if code not in SKEW_CODES | MAYBE_SKEW_CODES:
            return False
        if not response.headers.get("Date"):
            return code in SKEW_CODES
        skew = skew_of(response.headers["Date"])
        if code in MAYBE_SKEW_CODES and abs(skew - self.skew_seconds) < SKEW_SECONDS:
            return False
        log.warning("%s; calls are signed with the time of AWS until then", skewed(skew))
        self.skew_seconds = skew
        return True


def pool_through(proxy: SplitResult | None, **options: Any) -> urllib3.PoolManager:
    """Connections through `proxy`, or straight ones for None; `options` are those of urllib3.PoolManager."""
    if proxy is None:
        return urllib3.PoolManager(4, **options)
    if proxy.scheme in SOCKS:
        pool = urllib3.PoolManager(4, **options)
        pool.pool_classes_by_scheme = {"http": _SocksPool, "https": _SocksTlsPool}
        return pool
    login = proxy_login(proxy)
    headers = urllib3.make_headers(proxy_basic_auth=login) if login else None
    return urllib3.ProxyManager(proxy_url(proxy), 4, proxy_headers=headers, **options)


def _cause(error: BaseException) -> BaseException:
    reason = getattr(error, "reason", None)
    return reason if isinstance(reason, BaseException) else error


def _is_unknown_host(error: BaseException) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, urllib3.exceptions.NameResolutionError | socket.gaierror):
            # EAI_AGAIN is a name server that does not answer; it may answer later.
            resolver = getattr(seen, "__cause__", None) if not isinstance(seen, socket.gaierror) else seen
            return getattr(resolver, "errno", socket.EAI_NONAME) == socket.EAI_NONAME
        reason = getattr(seen, "reason", None)
        seen = reason if isinstance(reason, BaseException) else seen.__cause__
    return False


def submit_delay(number: int) -> float:
    """Seconds before retry `number` (from 1) of a Submit call that the SDK of the reference would retry itself.

    2^n times 30 to 59 ms. The reference ends at five minutes, but its retry quota makes that at most about half a
    minute in an outage; that is what we cap at (spec 02 §8.9).
    """
    return min(30.0, 2.0 ** min(number, 13) * random.uniform(0.030, 0.059))
