"""Calls of the ECS API on behalf of a request: task protection (with the task's role) and tags (with the agent's own).

botocore is imported in the first call: most agents never make one, and it costs 30 MB and 0.2 s. The session keeps
the service model; a client is made for each call (2 ms), so keys are always those of the moment.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gevent

from common.discovery import error_code
from common.proxy import through_proxy
from common.trust import verification
from common.version import COMMIT, VERSION

if TYPE_CHECKING:
    from common.own_keys import OwnCredentials

log = logging.getLogger(__name__)

ATTEMPTS = 3


class EcsError(Exception):
    """ECS answered with an error. `status` is HTTP's; `request_id` is "" when ECS sent none."""

    def __init__(self, code: str, message: str, status: int, request_id: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status, self.request_id = code, message, status, request_id


class NoAnswer(Exception):
    """The deadline passed."""


@dataclass(frozen=True)
class Keys:
    """Access key, secret and session token to sign with."""

    access_key: str
    secret_key: str
    token: str

    def __repr__(self) -> str:
        return "Keys(...)"


class Ecs:
    """Makes calls; knows the region and the address of ECS from the configuration."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.region = str(config["AWS_DEFAULT_REGION"] or "")
        self.url = _with_scheme(str(config["ECS_BACKEND_HOST"] or ""))
        self.family = str(config["ECS_DETAILED_OS_FAMILY"] or "")
        self.ipv6_only = str(config["ECS_INSTANCE_IP_COMPATIBILITY"] or "").lower() == "ipv6"
        self.verify = verification()
        self._sources = bool(config["ECS_EXTERNAL"]), str(config["ECS_ALTERNATE_CREDENTIAL_PROFILE"] or "default")
        self._own: OwnCredentials | None = None
        self._session: Any = None

    def call(self, operation: str, body: Mapping[str, Any], region: str, deadline_seconds: float,
             keys: Keys | None = None, agent_suffix: str = "") -> dict[str, Any]:  # fmt: skip
        """The answer to `operation`, a method of the botocore client; signed with the agent's keys unless given others.

        Raises EcsError when ECS refuses, NoAnswer at the deadline, Temporary without keys, and what botocore raises
        (BotoCoreError) otherwise.
        """
        # The bare Timeout is no Exception: botocore would catch one and try again.
        timeout = gevent.Timeout(deadline_seconds)
        timeout.start()
        try:
            return self._call(operation, body, region, keys, agent_suffix)
        except gevent.Timeout as error:
            if error is not timeout:
                raise
            raise NoAnswer(f"no answer within {deadline_seconds:.1f} s") from None
        finally:
            timeout.close()

    def _call(self, operation: str, body: Mapping[str, Any], region: str, keys: Keys | None,
              agent_suffix: str) -> dict[str, Any]:  # fmt: skip
        client = self._client(region, keys, agent_suffix)
        seen: dict[str, Any] = {}
        client.meta.events.register("before-parse.ecs", lambda response_dict, **_: seen.update(response_dict))
        try:
            answer: dict[str, Any] = getattr(client, operation)(**body)
        except _client_error() as error:
            raise _ecs_error(error, seen) from error
        return answer

    def _client(self, region: str, keys: Keys | None, agent_suffix: str) -> Any:
        from botocore.config import Config
        from botocore.session import Session

        if self._session is None:
            self._session = Session()
        config = Config(
            connect_timeout=4.0,
            read_timeout=4.0,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            user_agent=self._user_agent() + agent_suffix,
            use_dualstack_endpoint=True if self.ipv6_only and not self.url else None,
            # Bodies go out as they are: ECS, not the client, judges values such as a negative time.
            parameter_validation=False,
        )
        keys = keys or self._own_keys()
        return through_proxy(
            lambda proxies: self._session.create_client(
                "ecs", region_name=region or self.region, endpoint_url=self.url or None,
                verify=None if self.verify else False, config=config.merge(Config(proxies=proxies)),
                aws_access_key_id=keys.access_key, aws_secret_access_key=keys.secret_key,
                aws_session_token=keys.token or None,
            )
        )  # fmt: skip

    def _own_keys(self) -> Keys:
        """The agent's own, from the sources that all its processes ask. Raises Temporary when none has any."""
        if self._own is None:
            from common.own_keys import OwnCredentials

            self._own = OwnCredentials(*self._sources)
        found = self._own.keys()
        return Keys(found.access_key, found.secret_key, found.token)

    def _user_agent(self) -> str:
        system = f"linux; {self.family}" if self.family else "linux"
        return f"Amazon ECS Agent - v{VERSION} ({COMMIT}) ({system}) (+http://aws.amazon.com/ecs/)"


def _with_scheme(host: str) -> str:
    return host if not host or host.startswith(("http://", "https://")) else f"https://{host}"


def _client_error() -> Any:
    from botocore.exceptions import ClientError

    return ClientError


def _ecs_error(error: Any, seen: Mapping[str, Any]) -> Exception:
    """The reference's reading of an error answer, which differs from botocore's where the body says little."""
    metadata = error.response.get("ResponseMetadata", {})
    headers = {k.lower(): v for k, v in dict(seen.get("headers") or metadata.get("HTTPHeaders") or {}).items()}
    status = int(seen.get("status_code") or metadata.get("HTTPStatusCode") or 0)
    try:
        body = json.loads(bytes(seen.get("body") or b"") or b"{}")
    except ValueError as problem:
        return ValueError(f"deserialization failed, failed to decode response body, {problem}")
    body = body if isinstance(body, dict) else {}
    code = error_code(headers.get("x-amzn-errortype", ""), body)
    message = body.get("message") or body.get("Message") or ""
    if not message and not _is_modelled(code):
        message = "UnknownError"
    request_id = headers.get("x-amzn-requestid") or headers.get("x-amz-requestid") or ""
    return EcsError(code or "UnknownError", str(message), status, str(request_id))


# The exceptions of UpdateTaskProtection, GetTaskProtection and ListTagsForResource in the ECS API reference.
MODELLED = frozenset((
    "AccessDeniedException", "ClientException", "ClusterNotFoundException", "InvalidParameterException",
    "ResourceNotFoundException", "ServerException", "UnsupportedFeatureException",
))  # fmt: skip


def _is_modelled(code: str) -> bool:
    return code in MODELLED
