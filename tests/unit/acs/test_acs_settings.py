"""What the process takes from the configuration where it depends on the machine: IPv6-only, endpoints, keys."""

from __future__ import annotations

import re
from typing import Any

import pytest

from common.config import load
from common.errors import Temporary
from common.own_keys import OwnCredentials
from common.wire.ecs import BindingRules
from services.acs.settings import from_config


def settings(**environment: str) -> Any:
    """Settings of this environment."""
    return from_config(load({"AWS_DEFAULT_REGION": "us-west-2", **environment}))


@pytest.mark.parametrize(("family", "only"), [("ipv4", False), (" IPv6 ", True)])
def test_an_ipv6_only_machine_uses_dual_stack_and_drops_ipv4_bindings(family, only):
    """Case 68; `test_routes.py` shows where the family comes from when the option says nothing."""
    found = settings(ECS_INSTANCE_IP_COMPATIBILITY=family)
    assert (found.ipv6_only, found.use_dual_stack) == (only, only)
    assert found.bindings == BindingRules(exclude_ipv6=not only, exclude_ipv4=only)
    assert settings(ECS_INSTANCE_IP_COMPATIBILITY=family, ECS_EXCLUDE_IPV6_PORTBINDING="true").bindings.exclude_ipv6


@pytest.mark.parametrize("name", ["ECS_BACKEND_HOST", "ECS_ACS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2"])
@pytest.mark.parametrize("value", ["https://host:99999", "https://[fd00::1", "host:port", "https://:443"])
def test_an_endpoint_that_is_no_url_is_an_error_that_names_its_option(name, value):
    """A traceback at every start would not tell the reader what to change."""
    with pytest.raises(Temporary, match=f"{name} is no address of a service: .*{re.escape(value)}"):
        settings(**{name: value})


@pytest.mark.parametrize(
    ("environment", "keys"),
    [
        ({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, ("a", "b", "")),
        ({"AWS_ACCESS_KEY": "a", "AWS_SECRET_KEY": "b", "AWS_SESSION_TOKEN": "t"}, ("a", "b", "t")),
        ({"AWS_ACCESS_KEY_ID": "a", "AWS_ACCESS_KEY": "x", "AWS_SECRET_KEY": "b"}, ("a", "b", "")),
    ],
)
def test_keys_in_the_environment_are_found_under_both_names(monkeypatch, environment, keys):
    """Spec 01 §2.8: the newer name wins; nothing else is asked."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert tuple(OwnCredentials(False, "default", "/none").keys()) == keys
