"""Who this container instance is, as far as create requests and metadata files need to know.

Region and cluster come from the configuration, else from what registration found out (the document that `acs` writes).
Addresses of the host come from the instance metadata service (IMDS) and are asked for once, only for metadata files.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Protocol

from common import keys
from common.errors import Temporary
from common.model.agent import Credentials, Instance
from services.engine.docker.settings import Settings

log = logging.getLogger(__name__)

READ_SECONDS = 5.0
KEPT_SECONDS = 5.0  # an unfinished answer is asked for again after this
IMDS_RETRY_SECONDS = 60.0
NOT_FOUND = 404
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
        self._addresses: dict[str, str] = {}
        self._addresses_known = False
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
        """The host's addresses by their names in the metadata file; those that IMDS does not tell are left out."""
        with self._lock:
            if not self._addresses_known and time.monotonic() - self._asked_at > IMDS_RETRY_SECONDS:
                self._ask_imds()
                self._asked_at = time.monotonic()
            return dict(self._addresses)

    def _ask_imds(self) -> None:
        """Only a value or a 404 is an answer; for the rest IMDS is asked again after IMDS_RETRY_SECONDS."""
        from common.metadata import Metadata, MetadataError  # only engines that write metadata files pay for it

        client = Metadata(disabled=self._settings.external)
        problems = []
        for name, path in IPV6_ADDRESSES if self._settings.ipv6_only else ADDRESSES:
            try:
                # Nobody there is known at once: the container that waits for its file is not kept for five attempts.
                if value := client.meta(path, unanswered=1).strip():
                    self._addresses[name] = value
            except MetadataError as error:
                if error.status != NOT_FOUND:
                    problems.append(str(error))
        self._addresses_known = client.disabled or not problems
        if problems:
            log.warning("metadata files will lack addresses of the host: %s", "; ".join(problems))
