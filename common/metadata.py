"""The instance metadata service, version 2, with the reference's limits (ECS agent behaviour, spec 01 §5.5).

One operation takes OPERATION_SECONDS at most with all its attempts; a token is asked for once and kept; where the
service knows no tokens, requests go without. Calls never use a proxy. Every failure is a MetadataError with the HTTP
status, 0 when there was no answer.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Mapping

import gevent
import urllib3

from common.errors import AgentError
from common.tree.user_data import BLACKHOLE

log = logging.getLogger(__name__)

OPERATION_SECONDS = 5.0
CONNECT_SECONDS, READ_SECONDS = 0.25, 0.5
ATTEMPTS, PAUSE_SECONDS = 5, 1.0
TOKEN_SECONDS = 300
RETRIED_STATUS = (401, 500, 502, 503, 504)
WRAPPER_PAUSES = (1.0, 1.3, 1.69, 2.197)
SWITCHED_OFF = "instance metadata is switched off (external mode or AWS_EC2_METADATA_DISABLED)"
IPV4_ENDPOINT, IPV6_ENDPOINT = "http://169.254.169.254", "http://[fd00:ec2::254]"


class MetadataError(AgentError):
    """The metadata service did not answer with the value. `status` is the HTTP status or 0."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class Metadata:
    """A client of the metadata service; values are texts."""

    def __init__(self, environment: Mapping[str, str] = os.environ, disabled: bool = False) -> None:
        env = environment.get
        blackholed = env(BLACKHOLE, "").lower() == "true"
        self._why = "blackholed: ecs-agent was started with -blackhole-ec2-metadata" if blackholed else SWITCHED_OFF
        self.disabled = disabled or blackholed or env("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
        ipv6 = env("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "").lower() == "ipv6"
        endpoint = env("AWS_EC2_METADATA_SERVICE_ENDPOINT") or (IPV6_ENDPOINT if ipv6 else IPV4_ENDPOINT)
        self._base = endpoint.rstrip("/") + "/latest/"
        self._v1_disabled = env("AWS_EC2_METADATA_V1_DISABLED", "").lower() == "true"
        self._token, self._token_until = "", 0.0
        self._without_token = False
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        self._pool = urllib3.PoolManager(2, maxsize=8, retries=False, timeout=timeout)

    def get(self, path: str, unanswered: int = ATTEMPTS) -> str:
        """The value below /latest/. Raises MetadataError; after `unanswered` attempts when nobody answers at all."""
        if self.disabled:
            raise MetadataError(self._why)
        try:
            # gevent.Timeout is no Exception: nothing on the way can take it for an answer of the service.
            with gevent.Timeout(OPERATION_SECONDS):
                return self._attempts(path, unanswered)
        except gevent.Timeout:
            text = f"instance metadata {path}: no answer within {OPERATION_SECONDS:.0f} s"
            raise MetadataError(text) from None

    def _attempts(self, path: str, unanswered: int) -> str:
        for number in range(1, ATTEMPTS):
            try:
                return self._attempt(path)
            except MetadataError as error:
                final = error.status not in RETRIED_STATUS if error.status else number >= unanswered
                if final:
                    raise
            gevent.sleep(PAUSE_SECONDS)
        return self._attempt(path)

    def meta(self, path: str, unanswered: int = ATTEMPTS) -> str:
        """The value below /latest/meta-data/; as `get`. Raises MetadataError."""
        return self.get(f"meta-data/{path}", unanswered)

    def insist(self, path: str) -> str:
        """As `meta`, with five operations and growing pauses between them; for what the agent wants badly."""
        for pause in WRAPPER_PAUSES:
            try:
                return self.meta(path)
            except MetadataError as error:
                if self.disabled:
                    raise
                log.debug("%s; it is asked for again", error)
                gevent.sleep(pause + random.uniform(0.0, 0.2 * pause))
        return self.meta(path)

    def _attempt(self, path: str) -> str:
        token = self._current_token()
        headers = {"x-aws-ec2-metadata-token": token} if token else {}
        response = self._request("GET", path, headers)
        if response.status == 401:
            self._token, self._without_token = "", False
        if not 200 <= response.status < 300:
            raise MetadataError(f"instance metadata {path}: HTTP status {response.status}", response.status)
        return response.data.decode("utf-8", "replace")

    def _current_token(self) -> str:
        if self._without_token or (self._token and time.monotonic() < self._token_until):
            return self._token
        try:
            headers = {"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": str(TOKEN_SECONDS)}
            response = self._request("PUT", "api/token", headers)
        except MetadataError:
            return self._go_without()
        if response.status in (403, 404, 405):
            return self._go_without()
        if response.status == 400:
            raise MetadataError("instance metadata refused to give a token: HTTP status 400", 400)
        if response.status != 200:
            return ""  # this one request goes without
        self._token = response.data.decode("ascii", "replace").strip()
        self._token_until = time.monotonic() + TOKEN_SECONDS - 10
        return self._token

    def _go_without(self) -> str:
        if self._v1_disabled:
            raise MetadataError("instance metadata gives no token, and version 1 is switched off")
        self._without_token, self._token = True, ""
        return ""

    def _request(self, method: str, path: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        try:
            return self._pool.request(method, self._base + path, headers=dict(headers), redirect=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise MetadataError(f"instance metadata at {self._base} cannot be reached: {error}") from error
