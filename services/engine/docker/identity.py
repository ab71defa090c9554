"""Who this container instance is, as far as create requests and metadata files need to know.

Region and cluster come from the configuration, else from what registration found out (the document that `acs` writes).
Addresses of the host come from the instance metadata service (IMDS) and are asked for once, only for metadata files.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import urllib.error
import urllib.request
from typing import Any, Protocol

from common import keys
from common.errors import Temporary
from common.model.agent import Credentials, Instance
from services.engine.docker.settings import Settings

log = logging.getLogger(__name__)

READ_SECONDS = 5.0
KEPT_SECONDS = 5.0  # an unfinished answer is asked for again after this
IMDS_SECONDS = 2.0
IMDS_RETRY_SECONDS = 60.0
IMDS = "http://169.254.169.254"
ADDRESSES = (("HostPrivateIPv4Address", "local-ipv4"), ("HostPublicIPv4Address", "public-ipv4"))
IPV6_ADDRESSES = (("HostIPv6Address", "ipv6"),)


class Reader(Protocol):
    """The part of common.bus.Store that is used here."""

    def get(self, kind: Any, id_: str, deadline_seconds: float | None = None) -> Any:
        """A document, or None."""


class Identity:
    """Region, cluster, instance and role credentials."""

    def __init__(self, settings: Settings, durable: Reader, volatile: Reader) -> None:
        self._settings, self._durable, self._volatile = settings, durable, volatile
        self._instance, self._read_at = Instance(), float("-inf")
        self._addresses: dict[str, str] | None = None
        self._asked_at = float("-inf")
        self._lock = threading.Lock()

    def instance(self) -> Instance:
        """The instance document; an empty one while there is none."""
        complete = bool(self._instance.arn and self._instance.region)
        if complete or time.monotonic() - self._read_at < KEPT_SECONDS:
            return self._instance
        try:
            found = self._durable.get(keys.INSTANCE, keys.INSTANCE_ID, READ_SECONDS)
        except Temporary as error:
            log.warning("the container instance is not known: %s", error)
            return self._instance
        self._read_at = time.monotonic()
        self._instance = found or Instance()
        return self._instance

    def forget(self) -> None:
        """Read the document again at the next question."""
        self._instance, self._read_at = Instance(), float("-inf")

    @property
    def region(self) -> str:
        """The agent's region, "" when it is not known."""
        return self._settings.region or self.instance().region

    @property
    def cluster(self) -> str:
        """The cluster as configured, name or ARN; `default` when it is not."""
        return self._settings.cluster or self.instance().cluster or "default"

    def credentials(self, id_: str) -> Credentials | None:
        """Role credentials by id."""
        if not id_:
            return None
        try:
            found: Credentials | None = self._volatile.get(keys.CREDENTIALS, id_, READ_SECONDS)
        except Temporary as error:
            log.warning("role credentials cannot be looked up: %s", error)
            return None
        return found

    def addresses(self) -> dict[str, str]:
        """The host's addresses by their names in the metadata file; those that IMDS does not have are left out."""
        with self._lock:
            if self._addresses is None and time.monotonic() - self._asked_at > IMDS_RETRY_SECONDS:
                self._asked_at = time.monotonic()
                self._addresses = self._ask_imds()
            return dict(self._addresses or {})

    def _ask_imds(self) -> dict[str, str] | None:
        if self._settings.external or os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
            return {}
        base = (os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or IMDS).rstrip("/") + "/latest"
        try:
            token = _fetch("PUT", f"{base}/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "300"})
        except OSError as error:
            log.warning("metadata files will lack the host's addresses: IMDS at %s does not answer: %s", base, error)
            return None
        wanted = IPV6_ADDRESSES if self._settings.ipv6_only else ADDRESSES
        found = {}
        for name, path in wanted:
            try:
                value = _fetch("GET", f"{base}/meta-data/{path}", {"X-aws-ec2-metadata-token": token})
            except OSError as error:
                log.debug("IMDS has no %s: %s", path, error)
                continue
            if value:
                found[name] = value
        return found


def _fetch(method: str, url: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(url, method=method, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # IMDS is link-local: never by a proxy
    with opener.open(request, timeout=IMDS_SECONDS) as answer:
        text: str = answer.read(65536).decode(errors="replace").strip()
        return text
