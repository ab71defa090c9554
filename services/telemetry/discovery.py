"""DiscoverPollEndpoint for the telemetry session: one signed POST in AWS JSON 1.1, tried again by rule.

The rules and the memory are those of common.discovery; only the way there is this process's own, because the libraries
that pool connections would cost it more memory than everything else it does.
"""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import gevent

from common.discovery import TARGET, configured_api, regional, retry_delay, user_agent, with_scheme, worth_another
from common.errors import Temporary
from common.own_keys import OwnCredentials
from common.proxy import open_socket
from common.sigv4 import DEFAULT_PORTS, Keys, host_of, sign
from common.trust import tls_context, verification

log = logging.getLogger(__name__)

ATTEMPT_SECONDS = 42.0


@dataclass(frozen=True)
class Settings:
    """How the ECS API is reached. `override` is the telemetry endpoint when the configuration names it."""

    region: str
    api: str = ""  # "" = the region's own
    override: str = ""
    verify: bool | str = True
    os_family: str = "LINUX"
    max_attempts: int = 3
    fips: bool = False
    dual_stack: bool = False


def settings(config: Mapping[str, Any], region: str) -> Settings:
    """From the configuration; `region` is that of the instance."""
    return Settings(
        region=region,
        api=configured_api(config),
        override=with_scheme(config["ECS_TCS_ENDPOINT"] or ""),
        verify=verification(config["AWS_CA_BUNDLE"]),
        os_family=config["ECS_DETAILED_OS_FAMILY"],
        max_attempts=max(1, int(config["AWS_MAX_ATTEMPTS"])),
        fips=bool(config["AWS_USE_FIPS_ENDPOINT"]),
        dual_stack=bool(config["AWS_USE_DUALSTACK_ENDPOINT"]) or config["ECS_INSTANCE_IP_COMPATIBILITY"] == "ipv6",
    )


class Caller:
    """Calls the ECS API."""

    def __init__(self, chosen: Settings, own_keys: OwnCredentials) -> None:
        self._settings, self._own_keys = chosen, own_keys

    def call(self, operation: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer, after up to `max_attempts` attempts. Raises Temporary."""
        data = json.dumps(body, separators=(",", ":")).encode()
        for number in range(1, self._settings.max_attempts + 1):
            try:
                return self._attempt(operation, data)
            except _Retryable as error:
                if number == self._settings.max_attempts:
                    raise
                log.debug("%s; it is tried again", error)
                gevent.sleep(retry_delay(number))
        raise AssertionError("unreachable: the loop returns or raises")

    def _attempt(self, operation: str, data: bytes) -> dict[str, Any]:
        chosen = self._settings
        url = (chosen.api or regional("ecs", chosen.region, chosen.fips, chosen.dual_stack)).rstrip("/") + "/"
        try:
            with gevent.Timeout(ATTEMPT_SECONDS, TimeoutError(f"no answer within {ATTEMPT_SECONDS:.0f} s")):
                status, text = self._post(operation, url, data, self._own_keys.keys())
        except (OSError, http.client.HTTPException) as error:
            raise _Retryable(f"{operation}: {url} cannot be reached: {error}") from error
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if status == 200 and isinstance(answer, dict):
            return answer
        code = str(answer.get("__type", "")).rpartition("#")[2] if isinstance(answer, dict) else ""
        message = f"{operation}: HTTP status {status} {text[:500].decode('utf-8', 'replace')}"
        raise (_Retryable if worth_another(status, code) else Temporary)(message)

    def _post(self, operation: str, url: str, data: bytes, keys: Keys) -> tuple[int, bytes]:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
        signed = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"{TARGET}.{operation}"}
        headers = {
            "Host": host_of(url),
            "User-Agent": user_agent(self._settings.os_family),
            **signed,
            **sign(url, self._settings.region, keys, data, "POST", signed),
        }
        connection = http.client.HTTPConnection(host, port)
        connection.sock = open_socket(parts.scheme, host, port)
        try:
            if parts.scheme == "https":
                context = tls_context(self._settings.verify)
                connection.sock = context.wrap_socket(connection.sock, server_hostname=host)
            connection.request("POST", parts.path or "/", data, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


class _Retryable(Temporary):
    """Worth another attempt at once."""
