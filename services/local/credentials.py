"""Credentials for task roles: the caller's own AWS credentials when there are any, else fixed dummies. Memory only.

The standard chain of botocore is asked, without the instance metadata service (a laptop has none, and asking costs
seconds). It runs in its own greenlet with a deadline, because a profile may assume a role over the network.
"""

from __future__ import annotations

import datetime
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import botocore.session
import gevent
from botocore.credentials import create_credential_resolver
from botocore.exceptions import BotoCoreError
from msgspec import Struct

from common.clock import Clock

log = logging.getLogger("local.credentials")
# What stands in for keys where nobody has any; `ecs-local` also gives these to the agent for its own signing.
DUMMY_ACCESS_KEY = "ASIALOCALDUMMYACCESS"
DUMMY_SECRET_KEY = "local-dummy-secret-key"
DUMMY_TOKEN = "local-dummy-session-token"
PLACEHOLDERS = frozenset({DUMMY_ACCESS_KEY, "local"})  # "local": the process tree's own stand-in
LIFETIME_SECONDS = 6 * 3600  # IAM roles for tasks: credentials last six hours
REFRESH_BEFORE_SECONDS = 15 * 60
RESOLVE_DEADLINE_SECONDS = 10.0


class Keys(Struct, frozen=True):
    """Keys and the Unix time at which they end (None: they do not say)."""

    access_key: str
    secret_key: str
    token: str
    expires: float | None = None

    def __repr__(self) -> str:
        return f"Keys({self.access_key[:4]}…)"


DUMMIES = Keys(DUMMY_ACCESS_KEY, DUMMY_SECRET_KEY, DUMMY_TOKEN)


def callers_keys() -> Keys | None:
    """The keys of the standard chain without instance metadata; None when it finds none or only placeholders."""
    session = botocore.session.Session()
    resolver = create_credential_resolver(session)
    resolver.remove("iam-role")
    if os.environ.get("AWS_ACCESS_KEY_ID") in PLACEHOLDERS:
        resolver.remove("env")  # what the agent signs with here; a profile of the caller's may still be there
    found = resolver.load_credentials()
    if found is None:
        return None
    frozen = found.get_frozen_credentials()
    if not frozen.access_key or not frozen.secret_key:
        return None
    expires = getattr(found, "_expiry_time", None)  # botocore keeps a refreshable credential's end nowhere public
    at = expires.timestamp() if isinstance(expires, datetime.datetime) else None
    return Keys(frozen.access_key, frozen.secret_key, frozen.token or "", at)


class RoleCredentials:
    """Gives each task's role its credentials and knows when they must be sent again."""

    def __init__(self, clock: Clock, find: Callable[[], Keys | None] = callers_keys) -> None:
        self._clock, self._find = clock, find
        self._keys, self._expires = DUMMIES, 0.0

    @property
    def expires(self) -> float:
        """Unix time at which what was handed out last ends; 0 before the first."""
        return self._expires

    def due(self) -> bool:
        """Whether what was handed out should be replaced now."""
        return self._clock.now() >= self._expires - REFRESH_BEFORE_SECONDS

    def refresh(self) -> None:
        """Ask the chain. A failure is logged, and dummies are used until the next time."""
        now, found = self._clock.now(), None
        try:
            with gevent.Timeout(RESOLVE_DEADLINE_SECONDS):
                found = self._find()
        except (BotoCoreError, OSError, ValueError, gevent.Timeout) as error:
            log.warning(
                "the caller's AWS credentials cannot be read (%s); tasks get dummy credentials. "
                "Check the AWS_* variables and ~/.aws.",
                error,
            )
        self._keys = found or DUMMIES
        lifetime_end = now + LIFETIME_SECONDS
        self._expires = min(found.expires, lifetime_end) if found and found.expires else lifetime_end
        if self._expires <= now + REFRESH_BEFORE_SECONDS:  # nearly over already: do not ask in a tight loop
            self._expires = now + REFRESH_BEFORE_SECONDS + 60

    def for_role(self, role_arn: str, credentials_id: str) -> Mapping[str, Any]:
        """IAMRoleCredentials of spec 02 §2.5 for a role; refreshes first when that is due."""
        if self.due():
            self.refresh()
        end = datetime.datetime.fromtimestamp(int(self._expires), datetime.UTC)
        return {
            "credentialsId": credentials_id,
            "roleArn": role_arn,
            "accessKeyId": self._keys.access_key,
            "secretAccessKey": self._keys.secret_key,
            "sessionToken": self._keys.token,
            "expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def new_credentials_id() -> str:
    """A fresh credentialsId; whoever knows it can read the credentials on this machine."""
    return str(uuid.uuid4())
