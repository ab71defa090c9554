"""The keys with which this process signs (spec 01 §5.4).

Keys in the environment come first in both modes and need no library, so botocore (9 MB) is only loaded where they are
not set: then its chain answers, and after it the file that an operator rotates, read again every minute. botocore
refreshes what expires. Nothing is written or logged but the name of the source.
"""

from __future__ import annotations

import configparser
import logging
import os
import threading
import time
from typing import TYPE_CHECKING

import gevent

from common.errors import Temporary
from common.session import Keys

if TYPE_CHECKING:
    from botocore.credentials import Credentials

log = logging.getLogger(__name__)

ROTATING_FILE = "/rotatingcreds/credentials"
ROTATING_SECONDS = 60.0
LOOKUP_SECONDS = 30.0
METADATA_SECONDS, METADATA_ATTEMPTS = 2, 3


class OwnKeys:
    """Answers keys that are valid now; asks the sources again when they had none."""

    def __init__(self, external: bool, profile: str, path: str = ROTATING_FILE) -> None:
        self._external, self._profile, self._path = external, profile, path
        self._lock = threading.Lock()
        self._found: Credentials | None = None
        self._rotating: tuple[float, Keys] | None = None

    def keys(self) -> Keys:
        """Raises Temporary when no source has keys or the answer takes longer than 30 s."""
        key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
        if key and secret:
            return Keys(key, secret, os.environ.get("AWS_SESSION_TOKEN") or "")
        slow = Temporary(f"the sources of AWS credentials did not answer within {LOOKUP_SECONDS:.0f} s")
        with self._lock, gevent.Timeout(LOOKUP_SECONDS, slow):
            return self._keys()

    def _keys(self) -> Keys:
        from botocore.exceptions import BotoCoreError

        if self._rotating is not None and time.monotonic() < self._rotating[0]:
            return self._rotating[1]
        self._rotating = None
        try:
            if self._found is None:
                order = (self._rotated, self._external_chain) if self._external else (self._chain, self._rotated)
                for source in order:
                    if keys := source():
                        return keys
                raise Temporary(
                    "no valid providers in chain: give the instance a role with the policy "
                    "AmazonEC2ContainerServiceforEC2Role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                )
            return self._frozen(self._found)
        except (BotoCoreError, OSError, configparser.Error) as error:
            self._found = None
            raise Temporary(f"the AWS credentials of this agent cannot be had: {error}") from error

    def _chain(self, names: tuple[str, ...] = ()) -> Keys | None:
        from botocore.credentials import create_credential_resolver
        from botocore.session import Session

        session = Session()
        session.set_config_variable("metadata_service_timeout", METADATA_SECONDS)
        session.set_config_variable("metadata_service_num_attempts", METADATA_ATTEMPTS)
        for provider in create_credential_resolver(session).providers:
            found = provider.load() if not names or provider.METHOD in names else None
            if found is not None:
                log.info("telemetry signs with credentials from: %s", found.method)
                self._found = found
                return self._frozen(found)
        return None

    def _external_chain(self) -> Keys | None:
        return self._chain(("shared-credentials-file", "iam-role"))

    def _rotated(self) -> Keys | None:
        parser = configparser.RawConfigParser()
        if not parser.read(self._path) or not parser.has_section(self._profile):
            return None
        section = parser[self._profile]
        key, secret = section.get("aws_access_key_id", ""), section.get("aws_secret_access_key", "")
        if not key or not secret:
            return None
        keys = Keys(key, secret, section.get("aws_session_token", ""))
        self._rotating = (time.monotonic() + ROTATING_SECONDS, keys)
        return keys

    @staticmethod
    def _frozen(found: Credentials) -> Keys:
        frozen = found.get_frozen_credentials()
        return Keys(frozen.access_key or "", frozen.secret_key or "", frozen.token or "")
