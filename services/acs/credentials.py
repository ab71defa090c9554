"""The agent's own credentials, with which it signs its calls.

The chain is botocore's (environment, web identity, shared configuration, SSO, process, container, instance role), with
the reference's addition: a file that an operator rotates, read again every minute. In external mode the order differs
(ECS agent behaviour, spec 01 §5.4). Refreshing is botocore's; every look-up is bounded by LOOKUP_SECONDS.
"""

from __future__ import annotations

import configparser
import logging
import threading
import time
from collections.abc import Callable

import gevent
from botocore.credentials import Credentials, EnvProvider, create_credential_resolver
from botocore.exceptions import BotoCoreError

from common.errors import Temporary
from common.session import Keys

log = logging.getLogger(__name__)

ROTATING_FILE = "/rotatingcreds/credentials"
ROTATING_SECONDS = 60.0
LOOKUP_SECONDS = 30.0
METADATA_SECONDS, METADATA_ATTEMPTS = 2, 3
# Providers of botocore that external mode uses after the environment and the rotating file.
EXTERNAL = ("shared-credentials-file", "iam-role")

Source = Callable[[], Credentials | None]


class OwnCredentials:
    """Answers the keys to sign with; asks the chain again when it had nothing."""

    def __init__(self, external: bool, profile: str, path: str = ROTATING_FILE) -> None:
        self._profile, self._path = profile, path
        self._external = external
        self._lock = threading.Lock()
        self._found: Credentials | None = None
        self._found_until = float("inf")

    def keys(self) -> Keys:
        """Keys that are valid now. Raises Temporary when no source has any."""
        with self._lock:
            timeout = Temporary(f"the credentials sources did not answer within {LOOKUP_SECONDS:.0f} s")
            with gevent.Timeout(LOOKUP_SECONDS, timeout):
                return self._keys()

    def _keys(self) -> Keys:
        if self._found is None or time.monotonic() > self._found_until:
            self._found = self._look_up()
        try:
            frozen = self._found.get_frozen_credentials()
        except (BotoCoreError, OSError) as error:
            self._found = None
            raise Temporary(f"the AWS credentials of this agent cannot be refreshed: {error}") from error
        return Keys(frozen.access_key or "", frozen.secret_key or "", frozen.token or "")

    def forget(self) -> None:
        """Ask the chain again at the next call: the keys were refused."""
        with self._lock:
            self._found = None

    def _look_up(self) -> Credentials:
        problems = []
        for source in self._sources():
            try:
                found = source()
            except (BotoCoreError, OSError, configparser.Error, ValueError) as error:
                problems.append(str(error))
                continue
            if found is not None:
                rotating = found.method == "rotating-file"
                self._found_until = time.monotonic() + ROTATING_SECONDS if rotating else float("inf")
                log.info("the agent signs its calls with credentials from: %s", found.method)
                return found
        detail = f" ({'; '.join(problems)})" if problems else ""
        raise Temporary(
            f"no valid providers in chain: there are no AWS credentials for this agent{detail}. Give the instance a "
            "role with the policy AmazonEC2ContainerServiceforEC2Role, or set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )

    def _sources(self) -> list[Source]:
        environment: Source = EnvProvider().load
        if self._external:
            return [environment, self._rotating, *(lambda name=name: self._from_chain(name) for name in EXTERNAL)]
        return [environment, self._from_chain, self._rotating]

    def _from_chain(self, only: str = "") -> Credentials | None:
        """What botocore's chain finds, or one provider of it."""
        # Costs 0.2 s and 8 MB, which an agent with keys in its environment need not pay.
        from botocore.session import Session

        session = Session()
        session.set_config_variable("metadata_service_timeout", METADATA_SECONDS)
        session.set_config_variable("metadata_service_num_attempts", METADATA_ATTEMPTS)
        resolver = create_credential_resolver(session)
        if not only:
            return resolver.load_credentials()
        return next((p.load() for p in resolver.providers if only == p.METHOD), None)

    def _rotating(self) -> Credentials | None:
        parser = configparser.RawConfigParser()
        if not parser.read(self._path) or not parser.has_section(self._profile):
            return None
        section = parser[self._profile]
        key, secret = section.get("aws_access_key_id", ""), section.get("aws_secret_access_key", "")
        if not key or not secret:
            return None
        return Credentials(key, secret, section.get("aws_session_token") or None, method="rotating-file")
