"""Where the telemetry backend is: DiscoverPollEndpoint, remembered for 12 hours (spec 02 §1.1, spec 01 §7.1, §8).

One signed POST in AWS JSON 1.1. An answer that is too old is still used while the API cannot be asked.
"""

from __future__ import annotations

import http.client
import json
import logging
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import gevent

from common.errors import Temporary
from common.own_keys import OwnCredentials
from common.proxy import open_socket
from common.session import Keys, host_of, sign, tls_context
from common.trust import verification
from common.version import COMMIT, VERSION

log = logging.getLogger(__name__)

TARGET = "AmazonEC2ContainerServiceV20141113.DiscoverPollEndpoint"
CACHE_SECONDS = 12 * 3600.0
ATTEMPTS = 3
ATTEMPT_SECONDS = 42.0
RETRIED_STATUS = (500, 502, 503, 504)
RETRIED_CODES = re.compile(r"Throttl|TooManyRequests|LimitExceeded|SlowDown|RequestTimeout|PriorRequestNotComplete")
# Beginning of the region's name -> DNS suffixes of its partition: ordinary, dual-stack (AWS General Reference).
PARTITIONS = (
    ("cn-", "amazonaws.com.cn", "api.amazonwebservices.com.cn"),
    ("us-isob-", "sc2s.sgov.gov", "api.aws.scloud"),
    ("us-isof-", "csp.hci.ic.gov", "api.aws.hci.ic.gov"),
    ("eu-isoe-", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"),
    ("us-iso-", "c2s.ic.gov", "api.aws.ic.gov"),
    ("eusc-", "amazonaws.eu", "api.amazonwebservices.eu"),
    ("", "amazonaws.com", "api.aws"),
)


@dataclass(frozen=True)
class Settings:
    """How the ECS API is reached. `override` is the telemetry endpoint when the configuration names it."""

    region: str
    api: str = ""
    override: str = ""
    verify: bool | str = True
    os_family: str = "LINUX"


def settings(config: Mapping[str, Any], region: str, ipv6_only: bool = False) -> Settings:
    """From the configuration; `region` is that of the instance."""
    api = ""
    if not config["AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"]:
        api = config["ECS_BACKEND_HOST"] or config["AWS_ENDPOINT_URL_ECS"] or config["AWS_ENDPOINT_URL"]
    dual_stack = bool(config["AWS_USE_DUALSTACK_ENDPOINT"]) or ipv6_only
    return Settings(
        region=region,
        api=_with_scheme(api or regional(region, bool(config["AWS_USE_FIPS_ENDPOINT"]), dual_stack)),
        override=_with_scheme(config["ECS_TCS_ENDPOINT"] or ""),
        verify=verification(config["AWS_CA_BUNDLE"]),
        os_family=config["ECS_DETAILED_OS_FAMILY"],
    )


def _with_scheme(url: str) -> str:
    return url if not url or re.match(r"https?://", url) else f"https://{url}"


def regional(region: str, fips: bool, dual_stack: bool) -> str:
    """The public endpoint of the ECS API in a region."""
    _, suffix, dual = next(row for row in PARTITIONS if region.startswith(row[0]))
    return f"https://{'ecs-fips' if fips else 'ecs'}.{region}.{dual if dual_stack else suffix}"


class Discovery:
    """Answers the telemetry endpoint."""

    def __init__(self, chosen: Settings, own_keys: OwnCredentials) -> None:
        self._settings, self._own_keys = chosen, own_keys
        self._cached: tuple[float, str, str] | None = None  # monotonic time, instance ARN, endpoint

    def endpoint(self, cluster: str, instance: str) -> str:
        """The endpoint's URL. Raises Temporary when it cannot be learned and was never known."""
        if self._settings.override:
            return self._settings.override
        known = self._cached if self._cached and self._cached[1] == instance else None
        if known and time.monotonic() - known[0] < CACHE_SECONDS:
            return known[2]
        try:
            found = self._ask({"cluster": cluster, "containerInstance": instance, "zoneId": ""})
        except Temporary as error:
            if known is None:
                raise
            log.warning("the telemetry endpoint cannot be looked up (%s); the one known so far is used", error)
            return known[2]
        if not found:
            raise Temporary("no telemetry endpoint returned; nil")
        self._cached = (time.monotonic(), instance, found)
        return found

    def _ask(self, body: dict[str, str]) -> str:
        data = json.dumps(body, separators=(",", ":")).encode()
        for number in range(1, ATTEMPTS + 1):
            try:
                return self._attempt(data)
            except _Retryable as error:
                if number == ATTEMPTS:
                    raise
                log.debug("%s; it is tried again", error)
                gevent.sleep(random.random() * 2.0**number)
        raise AssertionError("unreachable: the loop returns or raises")

    def _attempt(self, data: bytes) -> str:
        url = self._settings.api.rstrip("/") + "/"
        try:
            with gevent.Timeout(ATTEMPT_SECONDS, TimeoutError(f"no answer within {ATTEMPT_SECONDS:.0f} s")):
                status, text = self._post(url, data, self._own_keys.keys())
        except (OSError, http.client.HTTPException) as error:
            raise _Retryable(f"DiscoverPollEndpoint: {url} cannot be reached: {error}") from error
        try:
            answer = json.loads(text)
        except ValueError:
            answer = {}
        if status == 200 and isinstance(answer, dict):
            return str(answer.get("telemetryEndpoint") or "")
        code = str(answer.get("__type", "")).rpartition("#")[2] if isinstance(answer, dict) else ""
        message = f"DiscoverPollEndpoint: HTTP status {status} {text[:500].decode('utf-8', 'replace')}"
        raise (_Retryable if status in RETRIED_STATUS or RETRIED_CODES.search(code) else Temporary)(message)

    def _post(self, url: str, data: bytes, keys: Keys) -> tuple[int, bytes]:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if secure else 80)
        signed = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": TARGET}
        family = f"; {self._settings.os_family}" if self._settings.os_family else ""
        headers = {
            "Host": host_of(url),
            "User-Agent": f"Amazon ECS Agent - v{VERSION} ({COMMIT}) (linux{family}) (+http://aws.amazon.com/ecs/)",
            **signed,
            **sign(url, self._settings.region, keys, data, "POST", signed),
        }
        connection = http.client.HTTPConnection(host, port)
        connection.sock = open_socket(parts.scheme, host, port)
        try:
            if secure:
                connection.sock = tls_context(self._settings.verify).wrap_socket(connection.sock, server_hostname=host)
            connection.request("POST", parts.path or "/", data, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


class _Retryable(Temporary):
    """Worth another attempt at once."""
