"""A pull that fails: what the log and the outcome say of it (spec 03 §6.4)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from services.engine.docker import pull
from services.engine.docker.api import Canceller
from services.engine.docker.pull import Failed, Registry
from services.engine.docker.settings import Settings

IMAGE = "1.dkr.ecr.us-west-2.amazonaws.com/app:latest"
URL = "https://prod-us-west-2-starport-layer-bucket.s3.us-west-2.amazonaws.com/a?X-Amz-Security-Token=TOKEN"


class Daemon:
    """Every pull fails at a layer."""

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
