"""The agent's own credentials, with which its processes sign what they send to AWS (spec 01 §5.4).

Keys in the environment come first in every mode and need no library: botocore (9 MB, 0.2 s) is loaded only where they
are not set. Then its chain answers (web identity, shared configuration, SSO, process, container, instance role), with
the reference's addition: a file that an operator rotates, read again every minute. In external mode the order differs.
botocore refreshes what expires; every look-up is bounded by LOOKUP_SECONDS. Only the name of the source is logged.
"""

from __future__ import annotations

import configparser
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import gevent

from common.errors import Temporary
from common.host_paths import host_path
from common.sigv4 import Keys

if TYPE_CHECKING:
    from botocore.credentials import Credentials

log = logging.getLogger(__name__)

ROTATING_FILE = host_path("/rotatingcreds/credentials")  # where the reference's container sees it (spec 01 §5.4)
ROTATING_SECONDS = 60.0
LOOKUP_SECONDS = 30.0
METADATA_SECONDS, METADATA_ATTEMPTS = 2, 3
# Providers of botocore that external mode uses after the environment and the rotating file.
EXTERNAL = ("shared-credentials-file", "iam-role")


class OwnCredentials:
    """Answers the keys to sign with; asks the sources again when they had nothing."""

    def __init__(self, external: bool, profile: str, path: str = ROTATING_FILE) -> None:
        self._external, self._profile, self._path = external, profile, path
        self._lock = threading.Lock()
        self._found: Callable[[], Keys] | None = None
        self._found_until = float("inf")

    def keys(self) -> Keys:
        """Keys that are valid now. Raises Temporary when no source has any."""
        if keys := _from_environment():
            return keys
        limit = gevent.Timeout(LOOKUP_SECONDS)  # the wait for another caller's look-up counts
        try:
            with limit, self._lock:
                return self._keys()
        except gevent.Timeout as expired:
            if expired is not limit:
                raise
            text = f"the sources of AWS credentials did not answer within {LOOKUP_SECONDS:.0f} s"
            raise Temporary(text) from None

    def forget(self) -> None:
        """Ask the sources again at the next call: the keys were refused."""
        with self._lock:
            self._found = None

    def _keys(self) -> Keys:
        if self._found is None or time.monotonic() > self._found_until:
            self._found = self._look_up()
        try:
            return self._found()
        except Exception as error:  # STS that refuses, a program that prints nonsense: the chain raises what they raise
            self._found = None
            raise Temporary(f"the AWS credentials of this agent cannot be refreshed: {error}") from error

    def _look_up(self) -> Callable[[], Keys]:
        problems = []
        for name, source in self._sources():
            try:
                found = source()
            except Exception as error:
                problems.append(f"{name}: {error}")
                continue
            if found is not None:
                return found
        detail = f" ({'; '.join(problems)})" if problems else ""
        raise Temporary(
            f"no valid providers in chain: there are no AWS credentials for this agent{detail}. Give the instance a "
            "role with the policy AmazonEC2ContainerServiceforEC2Role, or set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )

    def _sources(self) -> Iterator[tuple[str, Callable[[], Callable[[], Keys] | None]]]:
        if self._external:
            yield self._path, self._rotating
            for name in EXTERNAL:
                yield name, lambda name=name: self._from_chain(name)  # type: ignore[misc]
        else:
            yield "chain", self._from_chain
            yield self._path, self._rotating

    def _from_chain(self, only: str = "") -> Callable[[], Keys] | None:
        """What botocore's chain finds, or one provider of it."""
        from botocore.credentials import create_credential_resolver
        from botocore.session import Session

        session = Session()
        session.set_config_variable("metadata_service_timeout", METADATA_SECONDS)
        session.set_config_variable("metadata_service_num_attempts", METADATA_ATTEMPTS)
        resolver = create_credential_resolver(session)
        if only:
            found = next((p.load() for p in resolver.providers if only == p.METHOD), None)
        else:
            found = resolver.load_credentials()
        if found is None:
            return None
        self._take(found.method, float("inf"))
        return lambda: _frozen(found)

    def _rotating(self) -> Callable[[], Keys] | None:
        parser = configparser.RawConfigParser()
        if not parser.read(self._path) or not parser.has_section(self._profile):
            return None
        section = parser[self._profile]
        key, secret = section.get("aws_access_key_id", ""), section.get("aws_secret_access_key", "")
        if not key or not secret:
            return None
        keys = Keys(key, secret, section.get("aws_session_token", ""))
        self._take(self._path, time.monotonic() + ROTATING_SECONDS)
        return lambda: keys

    def _take(self, name: str, until: float) -> None:
        self._found_until = until
        log.info("AWS calls are signed with credentials from: %s", name)


def _from_environment() -> Keys | None:
    # The older names are those that the reference's SDK reads too (spec 01 §2.8).
    key = os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_ACCESS_KEY")
    secret = os.environ.get("AWS_SECRET_ACCESS_KEY") or os.environ.get("AWS_SECRET_KEY")
    token = os.environ.get("AWS_SESSION_TOKEN") or os.environ.get("AWS_SECURITY_TOKEN") or ""
    return Keys(key, secret, token) if key and secret else None


def _frozen(found: Credentials) -> Keys:
    frozen = found.get_frozen_credentials()
    return Keys(frozen.access_key or "", frozen.secret_key or "", frozen.token or "")
