"""Credentials for Amazon ECR: GetAuthorizationToken, cached (ECS agent behaviour, spec 03 §6.4).

Tokens live 12 hours; one is used until 30 to 60 minutes before its end. The cache is shared by all tasks and keyed by
who asks and for which registry, so that a task never gets a token that another task's role paid for.
"""

from __future__ import annotations

import base64
import logging
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common.model.agent import Credentials
from common.model.task import RegistryAuth
from common.proxy import through_proxy
from common.trust import verification
from services.engine.docker.auth import Auth

log = logging.getLogger(__name__)

CACHED_TOKENS = 100
EARLY_SECONDS, EARLY_JITTER_SECONDS = 1800.0, 1800.0
CALL_SECONDS = 5.0


class EcrError(Exception):
    """ECR gave no token; the text is the cause on the wire. Trying again would not help."""


@dataclass(frozen=True)
class _Token:
    auth: Auth
    expires_at: float


Fetch = Callable[[RegistryAuth, str, Credentials | None], list[dict[str, Any]]]


class EcrTokens:
    """Docker credentials for ECR registries."""

    def __init__(self, region: Callable[[], str], fetch: Fetch | None = None, ipv6_only: bool = False) -> None:
        self._region, self._fetch = region, fetch or self._ask
        self._ipv6_only = ipv6_only
        self._lock = threading.Lock()
        self._tokens: OrderedDict[str, _Token] = OrderedDict()

    def for_registry(self, wanted: RegistryAuth, credentials: Credentials | None) -> Auth:
        """A token for `wanted`; `credentials` are the execution role's, None = the instance role. Raises EcrError."""
        who = f"{credentials.credentials_id}{credentials.role_arn}" if credentials else ""
        region = wanted.region or self._region()
        key = f"{who}-{region}-{wanted.registry_id}-{wanted.endpoint_override}"
        cached = self._cached(key)
        if cached is not None:
            return cached
        token = self._token(self._fetch(wanted, region, credentials))
        with self._lock:
            self._tokens[key] = token
            while len(self._tokens) > CACHED_TOKENS:
                self._tokens.popitem(last=False)
        return token.auth

    def _cached(self, key: str) -> Auth | None:
        with self._lock:
            token = self._tokens.get(key)
            if token is None:
                return None
            if time.time() < token.expires_at - EARLY_SECONDS - random.uniform(0, EARLY_JITTER_SECONDS):
                self._tokens.move_to_end(key)
                return token.auth
            del self._tokens[key]
            return None

    def _token(self, data: list[dict[str, Any]]) -> _Token:
        if len(data) != 1:
            raise EcrError(f"unexpected number of results in AuthorizationData ({len(data)})")
        try:
            decoded = base64.b64decode(data[0]["authorizationToken"]).decode()
        except (KeyError, ValueError) as error:
            raise EcrError(f"the authorization token of ECR cannot be read: {type(error).__name__}") from error
        user, _, password = decoded.partition(":")
        auth = {"username": user, "password": password, "serveraddress": str(data[0].get("proxyEndpoint") or "")}
        expires = data[0].get("expiresAt")
        return _Token(auth, expires.timestamp() if expires is not None else time.time())

    def _ask(self, wanted: RegistryAuth, region: str, credentials: Credentials | None) -> list[dict[str, Any]]:
        import boto3  # only engines that pull from ECR pay for it
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        from services.engine.resources.aws import refusal

        endpoint = wanted.endpoint_override
        if endpoint and "://" not in endpoint:
            endpoint = f"https://{endpoint}"
        keys: dict[str, Any] = {}
        if credentials is not None:
            keys = {
                "aws_access_key_id": credentials.access_key_id,
                "aws_secret_access_key": credentials.secret_access_key,
                "aws_session_token": credentials.session_token or None,
            }
        config = Config(
            connect_timeout=CALL_SECONDS,
            read_timeout=CALL_SECONDS,
            retries={"mode": "standard"},
            use_dualstack_endpoint=True if self._ipv6_only and not endpoint else None,
        )
        try:
            session, verify = boto3.session.Session(), None if verification() else False
            client = through_proxy(
                lambda proxies: session.client(
                    "ecr", region_name=region, endpoint_url=endpoint or None, verify=verify,
                    config=config.merge(Config(proxies=proxies)), **keys,
                )
            )  # fmt: skip
            ids = {"registryIds": [wanted.registry_id]} if wanted.registry_id else {}
            return list(client.get_authorization_token(**ids).get("authorizationData") or ())
        except ClientError as error:
            raise EcrError(str(refusal(error, "ecr"))) from error
        except (BotoCoreError, ValueError, OSError) as error:
            raise EcrError(str(error)) from error
