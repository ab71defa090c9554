"""Fixtures: a control plane in its own process, a boto3 client, a connected fake agent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.local.harness import FakeAgent, Plane


@pytest.fixture(autouse=True)
def no_certificate_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 talks to loopback over plain HTTP; certificate bundles of the environment would only get in the way."""
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    """A running control plane with empty state."""
    made = Plane(tmp_path / "local")
    made.start()
    yield made
    made.close()


@pytest.fixture
def ecs(plane: Plane) -> Any:
    """A boto3 client."""
    return plane.client()


@pytest.fixture
def agent(plane: Plane) -> FakeAgent:
    """A connected agent."""
    return FakeAgent(plane).connect()
