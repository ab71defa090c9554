"""Credentials for task roles: the caller's own AWS credentials when there are any, else fixed dummies. Memory only.

With ECS_LOCAL_ASSUME_TASK_ROLES the task's own role is assumed with the caller's keys instead, so that a permission
that is missing shows here. Execution roles are left alone: they trust ECS and hardly ever a developer.

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
from botocore.config import Config
from botocore.credentials import create_credential_resolver
from msgspec import Struct

from common.clock import Clock

log = logging.getLogger("local.credentials")
# What stands in for keys where nobody has any; `ecs-local` signs with these.
DUMMY_ACCESS_KEY = "ASIALOCALDUMMYACCESS"
DUMMY_SECRET_KEY = "local-dummy-secret-key"
DUMMY_TOKEN = "local-dummy-session-token"
PLACEHOLDERS = frozenset({DUMMY_ACCESS_KEY, "local"})  # "local": the process tree's own stand-in
LIFETIME_SECONDS = 6 * 3600  # IAM roles for tasks: credentials last six hours
REFRESH_BEFORE_SECONDS = 15 * 60
RESOLVE_DEADLINE_SECONDS = 10.0
RETRY_SECONDS = 60.0
REFUSED_SECONDS = 10.0  # tasks of one RunTask share the answer; someone who mends the policy does not wait
# The service's own sentence, with what AWS said.
REFUSED = (
    "ECS was unable to assume the role '{role}' that was provided for this task. Please verify that the role being "
    "passed has the proper trust relationship and permissions and that your IAM user has permissions to pass this "
    "role. ({why})"
)


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
    if PLACEHOLDERS & {os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")}:
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


def in_words(error: BaseException) -> str:
    """The text of a failure on one line."""
    if isinstance(error, gevent.Timeout):
        return f"no answer within {RESOLVE_DEADLINE_SECONDS:.0f} s"
    return " ".join(str(error).split()) or type(error).__name__


class RoleRefused(Exception):
    """The role of a task cannot be assumed; the text is a reason for the task's end."""


def assume_role(keys: Keys, role_arn: str, region: str) -> Keys:
    """Keys of the role for an hour, from STS. Raises what botocore raises."""
    client: Any = botocore.session.Session().create_client(
        "sts",
        region_name=region,
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        aws_session_token=keys.token or None,
        config=Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 2, "mode": "standard"}),
    )
    found = client.assume_role(RoleArn=role_arn, RoleSessionName="ecs-local")["Credentials"]
    ends = found["Expiration"].timestamp()
    return Keys(found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"], ends)


class RoleCredentials:
    """Gives each task's role its credentials and knows when they must be sent again.

    `assume` gives the keys of a task's role for the caller's; None when roles are not assumed.
    """

    def __init__(
        self,
        clock: Clock,
        find: Callable[[], Keys | None] = callers_keys,
        assume: Callable[[Keys, str], Keys] | None = None,
    ) -> None:
        self._clock, self._find, self._assume = clock, find, assume
        self._keys, self._expires = DUMMIES, 0.0
        self._assumed: dict[str, Keys] = {}  # by the role's ARN
        self._refused: dict[str, tuple[float, str]] = {}  # by the role's ARN: until when, why
        self.generation = 0  # rises when what was handed out is void

    def due(self) -> bool:
        """Whether what was handed out should be replaced now."""
        return self._clock.now() >= self._expires - REFRESH_BEFORE_SECONDS

    def refresh(self) -> None:
        """Ask the chain. A failure is logged, and dummies are used until the next time."""
        now, found = self._clock.now(), None
        try:
            with gevent.Timeout(RESOLVE_DEADLINE_SECONDS):
                found = self._find()
        # Whatever the chain raises: files, a process, SSO or STS may be behind it, and the session must go on.
        except (Exception, gevent.Timeout) as error:
            log.warning(
                "the caller's AWS credentials cannot be read (%s); tasks get dummy credentials. "
                "Check the AWS_* variables and ~/.aws.",
                in_words(error),
            )
        self._keys, self.generation = found or DUMMIES, self.generation + 1
        self._assumed.clear()
        self._refused.clear()
        lifetime_end = now + LIFETIME_SECONDS
        self._expires = min(found.expires, lifetime_end) if found and found.expires else lifetime_end
        self._expires = max(self._expires, self._soonest())  # nearly over already: do not ask in a tight loop

    def _soonest(self) -> float:
        """The end of credentials that are renewed in a minute."""
        return self._clock.now() + REFRESH_BEFORE_SECONDS + RETRY_SECONDS

    def retry_soon(self) -> None:
        """Something could not be renewed: refresh in a minute. What tasks have is good for a quarter of an hour."""
        self._expires = min(self._expires, self._soonest())

    def _role_keys(self, role_arn: str) -> Keys:
        """The keys of an assumed role, asked for once in each generation. Raises RoleRefused."""
        if role_arn in self._assumed:
            return self._assumed[role_arn]
        until, why = self._refused.get(role_arn, (0.0, ""))
        if self._clock.now() < until:
            raise RoleRefused(why)
        try:
            if self._keys is DUMMIES:
                raise ValueError("no AWS credentials of yours were found to assume it with")
            assert self._assume is not None
            with gevent.Timeout(RESOLVE_DEADLINE_SECONDS):
                keys = self._assume(self._keys, role_arn)
        except (Exception, gevent.Timeout) as error:
            why = REFUSED.format(role=role_arn, why=in_words(error))
            self._refused[role_arn] = self._clock.now() + REFUSED_SECONDS, why
            raise RoleRefused(why) from None
        self._assumed[role_arn] = keys
        if keys.expires is not None:
            self._expires = min(self._expires, max(keys.expires, self._soonest()))
        return keys

    def for_role(self, role_arn: str, credentials_id: str, of_task: bool = False) -> Mapping[str, Any]:
        """IAMRoleCredentials of spec 02 §2.5 for a role; refreshes first when that is due.

        `of_task`: it is the role of the task itself. Raises RoleRefused when that shall be assumed and cannot be.
        """
        if self.due():
            self.refresh()
        keys = self._role_keys(role_arn) if of_task and self._assume is not None else self._keys
        ends = self._expires if keys is self._keys else keys.expires or self._expires
        end = datetime.datetime.fromtimestamp(int(ends), datetime.UTC)
        return {
            "credentialsId": credentials_id,
            "roleArn": role_arn,
            "accessKeyId": keys.access_key,
            "secretAccessKey": keys.secret_key,
            "sessionToken": keys.token,
            "expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def new_credentials_id() -> str:
    """A fresh credentialsId; whoever knows it can read the credentials on this machine."""
    return str(uuid.uuid4())
