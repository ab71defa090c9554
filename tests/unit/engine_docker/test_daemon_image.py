"""The image of the EBS driver: loaded where the operator put its archive, and nowhere else (spec 08 §10.3)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from services.engine.docker import daemon_image
from services.engine.docker.api import ApiError, TimedOut
from services.engine.docker.settings import Settings

WANTED = Settings(ebs_volumes=True)


class Daemon:
    """Docker's answer to whatever it is asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[tuple[str, str, bytes]] = []

    def call(self, method: str, path: str, timeout: float, body: Any = b"", **more: Any) -> None:
        """Notes the call."""
        self.asked.append((method, path, bytes(body)))
        if self.error is not None:
            raise self.error


def test_the_archive_is_sent_as_it_is(tmp_path: Path):
    """From the file, not through our memory."""
    archive = tmp_path / "driver.tar"
    archive.write_bytes(b"a tar" * 1000)
    docker = Daemon()
    assert daemon_image.load(docker, WANTED, str(archive)) is True  # type: ignore[arg-type]
    assert docker.asked == [("POST", "/images/load", b"a tar" * 1000)]
    assert daemon_image.is_here(docker, WANTED, str(archive)) is True  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [WANTED, Settings()])
def test_without_an_archive_or_the_option_docker_is_not_asked(tmp_path: Path, settings: Settings):
    """A start of the agent takes a fifth of a second; this must not be part of it."""
    archive = tmp_path / "driver.tar"
    if not settings.ebs_volumes:
        archive.write_bytes(b"x")
    docker = Daemon()
    assert daemon_image.load(docker, settings, str(archive)) is False  # type: ignore[arg-type]
    assert daemon_image.is_here(docker, settings, str(archive)) is False  # type: ignore[arg-type]
    assert docker.asked == []


@pytest.mark.parametrize("content", [b"x", b""])
def test_a_load_that_fails_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes):
    """The image of an earlier start may still be there; so Docker is asked (an empty file is not even sent)."""
    archive = tmp_path / "driver.tar"
    archive.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert daemon_image.load(Daemon(TimedOut("too slow")), WANTED, str(archive)) is True  # type: ignore[arg-type]
    assert "the image of the EBS driver is not loaded from" in caplog.text
    missing = Daemon(ApiError(404, "Not Found", "No such image", "u"))
    assert daemon_image.is_here(missing, WANTED, str(archive)) is False  # type: ignore[arg-type]
    with pytest.raises(ApiError):
        daemon_image.is_here(Daemon(ApiError(500, "", "broken", "u")), WANTED, str(archive))  # type: ignore[arg-type]
