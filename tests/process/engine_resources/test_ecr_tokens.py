"""Registry credentials from Amazon ECR, with the real client (spec 03 §6.4)."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest

from common.model.agent import Credentials
from common.model.task import RegistryAuth
from services.engine.docker import ecr
from services.engine.docker.ecr import EcrError, EcrTokens
from tests.fakes.aws import FakeAws

ROLE = Credentials(
    credentials_id="e-1", task_arn="t", role_type="TaskExecution", role_arn="r", access_key_id="AKIDEXEC",
    secret_access_key="k", session_token="s",
)  # fmt: skip


def token(text: bytes = b"AWS:secret", seconds: float = 12 * 3600.0) -> dict[str, object]:
    """One element of the answer."""
    return {
        "authorizationToken": base64.b64encode(text).decode(),
        "proxyEndpoint": "https://1.dkr.ecr.eu-west-1.amazonaws.com",
        "expiresAt": time.time() + seconds,
    }


def test_the_token_is_asked_for_with_the_execution_role_in_the_registrys_region(cloud: FakeAws) -> None:
    """By registry id, once: the second pull takes it from the cache; the instance role has a cache entry of its own."""
    cloud.tokens = [token()]
    tokens = EcrTokens(lambda: "us-west-2")
    wanted = RegistryAuth(type="ecr", registry_id="123456789012", region="eu-west-1", use_execution_role=True)
    expected = {
        "username": "AWS",
        "password": "secret",
        "serveraddress": "https://1.dkr.ecr.eu-west-1.amazonaws.com",
    }
    assert [tokens.for_registry(wanted, ROLE) for _ in range(2)] == [expected, expected]
    (call,) = cloud.asked("GetAuthorizationToken")
    assert (call.access_key, call.region, call.arguments) == (
        "AKIDEXEC",
        "eu-west-1",
        {"registryIds": ["123456789012"]},
    )
    tokens.for_registry(RegistryAuth(type="ecr", registry_id="123456789012"), None)
    call = cloud.asked("GetAuthorizationToken")[-1]
    assert (call.access_key, call.region) == ("AKIDINSTANCE", "us-west-2")


def test_a_token_that_ends_soon_is_not_kept(cloud: FakeAws) -> None:
    """It is used until 30 to 60 minutes before its end."""
    cloud.tokens = [token(seconds=1700.0)]
    tokens = EcrTokens(lambda: "us-west-2")
    for _ in range(2):
        tokens.for_registry(RegistryAuth(type="ecr"), ROLE)
    assert [call.arguments for call in cloud.asked("GetAuthorizationToken")] == [{}, {}]


def test_a_refusal_keeps_the_name_of_the_exception_and_is_final(
    cloud: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the console shows; a service that does not answer is given up as well."""
    cloud.refuse["GetAuthorizationToken"] = (400, "AccessDeniedException", "not authorized")
    with pytest.raises(EcrError, match=r"AccessDeniedException.*not authorized"):
        EcrTokens(lambda: "us-west-2").for_registry(RegistryAuth(type="ecr"), ROLE)
    assert len(cloud.asked("GetAuthorizationToken")) == 1
    cloud.refuse.clear()
    cloud.hold["GetAuthorizationToken"] = 5.0
    monkeypatch.setattr(ecr, "CALL_SECONDS", 0.1)
    with pytest.raises(EcrError, match=r"[Tt]imeout"):
        EcrTokens(lambda: "us-west-2").for_registry(RegistryAuth(type="ecr"), ROLE)


@pytest.mark.parametrize(("answer", "count"), [([], 0), (None, 0), ([token(), token()], 2)])
def test_anything_but_one_token_is_an_error_that_says_how_many(cloud: FakeAws, answer: Any, count: int) -> None:
    """botocore leaves out a list that the answer lacks (spec 03 §6.4)."""
    cloud.tokens = answer
    with pytest.raises(EcrError, match=rf"unexpected number of results in AuthorizationData \({count}\)"):
        EcrTokens(lambda: "us-west-2").for_registry(RegistryAuth(type="ecr"), ROLE)


def test_an_endpoint_of_the_task_definition_gets_a_scheme(cloud: FakeAws) -> None:
    """endpointOverride is a host name; without a scheme https is meant, which this server does not speak."""
    cloud.tokens = [token()]
    address = cloud.environment["AWS_ENDPOINT_URL_ECR"]
    plain = RegistryAuth(type="ecr", endpoint_override=address)
    assert EcrTokens(lambda: "us-west-2").for_registry(plain, ROLE)["username"] == "AWS"
    bare = RegistryAuth(type="ecr", endpoint_override=address.removeprefix("http://"))
    with pytest.raises(EcrError, match="https://"):
        EcrTokens(lambda: "us-west-2").for_registry(bare, ROLE)
