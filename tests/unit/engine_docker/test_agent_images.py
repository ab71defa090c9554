"""The images that the agent brings: loaded where the operator put their archives, and nowhere else (spec 08 §10)."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.engine.docker.agent_images import EBS_DRIVER, AgentImage
from services.engine.docker.api import Answer, ApiError, TimedOut, Unreachable
from services.engine.docker.settings import Settings

WANTED = Settings(ebs_volumes=True)


def driver(archive: Path) -> AgentImage:
    """The EBS driver in this archive."""
    return replace(EBS_DRIVER, archive=str(archive))


class Daemon:
    """Docker's answer to whatever it is asked."""

    def __init__(self, error: Exception | None = None, says: bytes = b'{"stream":"Loaded image: x"}\n') -> None:
        self.error, self.says = error, says
        self.asked: list[tuple[str, str, bytes]] = []

    def call(self, method: str, path: str, timeout: float, body: Any = b"", **more: Any) -> Answer:
        """Notes the call."""
        self.asked.append((method, path, bytes(body)))
        if self.error is not None:
            raise self.error
        return Answer(200, self.says)

    def url(self, path: str) -> str:
        """As Api's."""
        return path


def test_the_archive_is_sent_as_it_is(tmp_path: Path):
    """From the file, not through our memory."""
    archive = tmp_path / "driver.tar"
    archive.write_bytes(b"a tar" * 1000)
    docker = Daemon()
    assert driver(archive).load(docker, WANTED) is True  # type: ignore[arg-type]
    assert docker.asked == [("POST", "/images/load", b"a tar" * 1000)]
    assert driver(archive).is_here(docker, WANTED) is True  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [WANTED, Settings()])
def test_without_an_archive_or_the_option_docker_is_not_asked(tmp_path: Path, settings: Settings):
    """A start of the agent takes a fifth of a second; this must not be part of it."""
    archive = tmp_path / "driver.tar"
    if not settings.ebs_volumes:
        archive.write_bytes(b"x")
    docker = Daemon()
    assert driver(archive).load(docker, settings) is False  # type: ignore[arg-type]
    assert driver(archive).is_here(docker, settings) is False  # type: ignore[arg-type]
    assert docker.asked == []


@pytest.mark.parametrize("content", [b"x", b""])
def test_a_load_that_fails_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes):
    """The image of an earlier start may still be there; so Docker is asked (an empty file is not even sent)."""
    archive = tmp_path / "driver.tar"
    archive.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert driver(archive).load(Daemon(TimedOut("too slow")), WANTED) is False  # type: ignore[arg-type]
    assert "the image of the EBS driver is not loaded from" in caplog.text
    missing = Daemon(ApiError(404, "Not Found", "No such image", "u"))
    assert driver(archive).is_here(missing, WANTED) is False  # type: ignore[arg-type]
    with pytest.raises(ApiError):
        driver(archive).is_here(Daemon(ApiError(500, "", "broken", "u")), WANTED)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "says", [b'{"errorDetail":{"message":"bad"},"error":"bad"}', b'\n{"stream":"x"}\n{"error":"bad"}\n']
)
def test_a_refusal_that_docker_puts_into_an_answer_of_200_is_one(tmp_path: Path, says: bytes):
    """Docker 20.10 does: the head of the answer is sent before the archive is read."""
    archive = tmp_path / "driver.tar"
    archive.write_bytes(b"no tar")
    heard: list[str] = []
    assert driver(archive).load(Daemon(says=says), WANTED, heard.append) is False  # type: ignore[arg-type]
    assert heard == ["Error response from daemon: bad"]


@pytest.mark.parametrize("says", [b"", b"Loaded", b"[]", b'{"error":""}'])
def test_any_other_answer_of_200_is_a_load(tmp_path: Path, says: bytes):
    """Words for a terminal are not read."""
    archive = tmp_path / "driver.tar"
    archive.write_bytes(b"a tar")
    assert driver(archive).load(Daemon(says=says), WANTED) is True  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "error", "told"),
    [
        (b"x", None, ""),
        (b"x", ApiError(500, "", "unexpected EOF", "u"), "Error response from daemon: unexpected EOF"),
        (b"", None, "cannot mmap an empty file"),
        (b"x", TimedOut("too slow"), ""),
        (b"x", Unreachable("it restarts"), ""),
    ],
)
def test_only_a_refusal_of_the_archive_itself_is_told_as_one(
    tmp_path: Path, content: bytes, error: Exception | None, told: str
):
    """A Docker that is slow or away may take it the next time; what waits for the image goes on waiting."""
    archive = tmp_path / "driver.tar"
    archive.write_bytes(content)
    heard: list[str] = []
    assert driver(archive).load(Daemon(error), WANTED, heard.append) is (error is None and content != b"")  # type: ignore[arg-type]
    assert heard == [told]


@pytest.mark.parametrize("content", [None, "", "[]", "{"])
def test_a_digest_that_is_not_known_is_empty(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str | None):
    """And a warning; the image serves nevertheless (spec 04 §11.3)."""
    if content is not None:
        (tmp_path / "driver.metadata.json").write_text(content)
    assert driver(tmp_path / "driver.tar").digest() == ""
    assert "the digest of the image of the EBS driver is not known" in caplog.text
    (tmp_path / "driver.metadata.json").write_text('{"schemaVersion": 1, "digest": "sha256:abc"}')
    assert driver(tmp_path / "driver.tar").digest() == "sha256:abc"


def test_the_stamp_changes_with_the_archive(tmp_path: Path):
    """None without one."""
    archive = tmp_path / "driver.tar"
    stamps = [driver(archive).stamp()]
    for content in (b"a", b"ab"):
        archive.write_bytes(content)
        stamps.append(driver(archive).stamp())
    other = tmp_path / "other.tar"
    other.write_bytes(b"ba")
    other.rename(archive)
    stamps.append(driver(archive).stamp())
    assert stamps[0] is None and len(set(stamps)) == 4
