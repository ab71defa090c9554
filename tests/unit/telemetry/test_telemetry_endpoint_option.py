"""The endpoint of the telemetry session may be given, as that of ACS (users of PrivateLink ask for it)."""

from __future__ import annotations

import pytest

from common.config import load
from services.telemetry.discovery import settings


@pytest.mark.parametrize(
    ("given", "used"),
    [("", ""), ("https://tcs.example", "https://tcs.example"), ("tcs.example", "https://tcs.example")],
)
def test_a_configured_telemetry_endpoint_overrides_the_discovered_one(given, used):
    """https is meant where there is no scheme; nothing given means that DiscoverPollEndpoint is asked."""
    config = load({"AWS_DEFAULT_REGION": "us-west-2", "ECS_TCS_ENDPOINT": given})
    assert settings(config, "us-west-2").override == used
