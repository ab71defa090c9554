"""A pull that fails: what the log and the outcome say of it (spec 03 §6.4)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

from services.engine.docker import pull
from services.engine.docker.api import ApiError, Canceller, Unreachable
from services.engine.docker.pull import Failed, Registry
from services.engine.docker.settings import Settings

IMAGE = "1.dkr.ecr.us-west-2.amazonaws.com/app:latest"
URL = "https://prod-us-west-2-starport-layer-bucket.s3.us-west-2.amazonaws.com/a?X-Amz-Security-Token=TOKEN"


class Daemon:
    """Every pull fails at a layer."""

    away_seconds = 0.0

    def stream(self, *args: Any, **more: Any) -> Daemon:
        """The progress."""
        return self

    def lines(self, *args: Any) -> Iterator[dict[str, str]]:
        """With the signed URL of the layer, as Docker tells it."""
        yield {"error": f'error pulling image configuration: Get "{URL}": dial tcp: i/o timeout'}

    def close(self) -> None:
        """The end."""


def test_no_attempt_of_a_pull_tells_the_signed_url_of_a_layer(monkeypatch, caplog) -> None:
    """Each attempt that fails is logged, so each is redacted, not only the last."""
    backoff = pull.Backoff
    monkeypatch.setattr(pull, "Backoff", lambda *_: backoff(0.001, 0.001, 1.0))
    daemon: Any = Daemon()
    with caplog.at_level(logging.DEBUG), pytest.raises(Failed) as caught:
        Registry(daemon, Settings()).pull(IMAGE, dict, Canceller())
    assert f"REDACTED ECR URL related to {IMAGE}" in caught.value.error.text
    assert caplog.text.count("REDACTED ECR URL") == pull.PULL_ATTEMPTS - 1
    assert "TOKEN" not in caplog.text + str(caught.value)


class Away:
    """A daemon whose socket refuses; when it is back, it answers with an error of its own."""

    away_seconds = 0.2

    def __init__(self, back_at: float) -> None:
        self.back_at, self.calls = back_at, 0

    def call(self, *args: Any, **more: Any) -> Any:
        """A request about a manifest."""
        self.calls += 1
        if time.monotonic() < self.back_at:
            raise Unreachable("Cannot connect to the Docker daemon", refused=True)
        raise ApiError(500, "Internal Server Error", "no", "/")


@pytest.mark.parametrize("away_for", [0.1, 60.0])
def test_attempts_that_found_no_daemon_count_only_after_a_while(monkeypatch, away_for: float) -> None:
    """With live-restore a daemon may be away for longer than all attempts of a pull take."""
    backoff = pull.Backoff
    monkeypatch.setattr(pull, "Backoff", lambda *_: backoff(0.01, 0.01, 1.0, 0.0))
    began = time.monotonic()
    daemon: Any = Away(began + away_for)
    with pytest.raises(Failed) as caught:
        Registry(daemon, Settings()).digest("busybox:1", "1.30", dict, Canceller())
    assert daemon.calls >= pull.MANIFEST_ATTEMPTS + 5
    assert time.monotonic() - began < 2
    assert ("Cannot connect" in caught.value.error.text) == (away_for > 1)
