"""Every client of botocore goes through the proxy that the other clients use (spec 01 §8.4), and obeys -k (§4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import botocore.client
import pytest

from common.model.agent import Credentials
from common.model.task import RegistryAuth
from common.proxy import proxy_for
from common.trust import INSECURE
from services.endpoint.aws import Ecs, Keys
from services.engine.docker.ecr import EcrError, EcrTokens
from services.engine.resources.aws import AwsError, Client

ROLE = Credentials(
    credentials_id="e", task_arn="t", role_type="TaskExecution", access_key_id="AKIDEXEC", secret_access_key="k"
)
ECS = {
    "AWS_DEFAULT_REGION": "us-west-2", "ECS_BACKEND_HOST": "", "ECS_DETAILED_OS_FAMILY": "", "ECS_EXTERNAL": False,
    "ECS_INSTANCE_IP_COMPATIBILITY": "ipv4", "ECS_ALTERNATE_CREDENTIAL_PROFILE": "",
}  # fmt: skip


def _tokens() -> None:
    EcrTokens(lambda: "us-west-2").for_registry(RegistryAuth(type="ecr"), ROLE)


def _parameters() -> None:
    Client("ssm", "us-west-2", ROLE).call("get_parameters", Names=["a"])


def _protection() -> None:
    Ecs(ECS).call("get_task_protection", {"cluster": "c"}, "us-west-2", 5.0, Keys("a", "b", ""))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, str], Any]]:
    """What each client that is used was made with: its proxies, and how it checks certificates."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "REQUEST_METHOD", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    found: list[tuple[dict[str, str], Any]] = []

    def call(self: Any, *_: Any) -> dict[str, Any]:
        found.append((self.meta.config.proxies, self._endpoint.http_session._verify))
        return {"authorizationData": []}

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", call)
    return found


@pytest.mark.parametrize(
    ("environment", "proxies"),
    [
        ({}, {}),
        ({"HTTP_PROXY": "user:pw@10.0.0.1:3128"}, {"https": "http://user:pw@10.0.0.1:3128"}),
        ({"HTTP_PROXY": "http://a:1", "HTTPS_PROXY": "http://b:2"}, {"https": "http://b:2"}),
        ({"HTTP_PROXY": "http://a:1", "NO_PROXY": ".amazonaws.com"}, {}),
        ({"HTTP_PROXY": "http://[fd00::1:3128"}, {}),
    ],
)
@pytest.mark.parametrize("use", [_tokens, _parameters, _protection])
def test_a_client_goes_through_the_http_proxy_where_no_https_proxy_is_named(
    seen: list[Any], monkeypatch: pytest.MonkeyPatch, use: Callable[[], None], environment: Any, proxies: Any
) -> None:
    """ECR, SSM (with it Secrets Manager and S3) and task protection; the login goes along, NO_PROXY counts."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    try:
        use()
    except EcrError as error:
        assert "unexpected number of results" in str(error)  # of our empty answer
    assert [found for found, _ in seen] == [proxies]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"HTTP_PROXY": "http://a:1", "REQUEST_METHOD": "GET"}, "HTTP_PROXY is refused"),
        ({"HTTP_PROXY": "socks5://u:pw@a:1"}, "socks5://a:1 cannot be used for"),
    ],
)
@pytest.mark.parametrize("use", [_tokens, _parameters])
def test_a_proxy_that_is_refused_is_an_error_of_the_call(
    seen: list[Any], monkeypatch: pytest.MonkeyPatch, use: Callable[[], None], environment: Any, reason: str
) -> None:
    """HTTP_PROXY in a CGI program, or a SOCKS proxy: the task's reason says so, nothing else fails."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((EcrError, AwsError), match=reason):
        use()
    assert seen == []


@pytest.mark.parametrize(("use", "checked"), [(_tokens, False), (_protection, False), (_parameters, True)])
def test_the_flag_k_holds_for_ecr_and_task_protection_only(
    seen: list[Any], monkeypatch: pytest.MonkeyPatch, use: Callable[[], None], checked: bool
) -> None:
    """Secrets are never read over a connection that nobody checked."""
    monkeypatch.setenv(INSECURE, "true")
    try:
        use()
    except EcrError:
        assert seen
    assert [verify is not False for _, verify in seen] == [checked]


@pytest.mark.parametrize("value", ["http://[fd00::1:3128", "http://p:port", "http://", "http://p:0", "http://[x]:1"])
def test_a_proxy_that_cannot_be_read_means_none(value: str) -> None:
    """As in the reference: a typing error must not end the agent."""
    assert proxy_for("https", "e.x", 443, {"HTTPS_PROXY": value}) is None
