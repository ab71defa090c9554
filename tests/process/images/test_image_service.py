"""The process `images` on real Redis and real Docker: a full disk, and a Docker that is away."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import gevent
import pytest

from common import keys
from common.bus import Bus, Change
from common.config import load
from common.model.agent import DockerFacts, ImageReference
from common.model.messages import Command
from common.process import Context
from services.images import service
from tests.fakes import images
from tests.process.images.conftest import shell

pytestmark = pytest.mark.docker


@pytest.fixture
def context(run_dir: Path, redis_servers: object, monkeypatch: pytest.MonkeyPatch) -> Context:
    """With marks that every disk exceeds, and looks at it without a pause."""
    monkeypatch.setattr(service, "CHECK_SECONDS", 0.1)
    config = load({
        "ECS_IMAGE_CLEANUP_DISK_HIGH_PERCENT": "2", "ECS_IMAGE_CLEANUP_DISK_LOW_PERCENT": "1",
        "ECS_IMAGE_PULL_BEHAVIOR": "prefer-cached",
    })  # fmt: skip
    return Context("images", config, str(run_dir), logging.getLogger("images"))


def test_a_full_disk_is_noticed_in_the_directory_that_the_engine_tells(context: Context, run_dir, eventually, caplog):
    """Before the engine has told it, nothing happens; then the young image goes, also under `prefer-cached`."""
    caplog.set_level(logging.INFO)
    name = f"pressure{time.time_ns()}/busybox:1"
    image_id = images.make(name, name)
    bus = Bus(str(run_dir))
    reference = ImageReference(revision=1, image_id=image_id, names=(name,), pulled_at=time.time())
    bus.durable.commit(Change().save(keys.IMAGE, image_id, reference))
    process = gevent.spawn(service.serve, context)
    try:
        eventually(lambda: "has not told yet" in caplog.text)
        assert shell("images", "-q", name)
        facts = DockerFacts(revision=1, root_dir=str(run_dir))
        bus.durable.commit(Change().save(keys.FACTS, keys.FACTS_ID, facts))
        eventually(lambda: not shell("images", "-q", name))
        commands = bus.durable.consumer(keys.COMMANDS, "t", Command)
        told: Any = eventually(lambda: commands.read(0.2))
        # Once for each look at the disk until the engine has read it; there is no engine here.
        assert {(e.message.image_id, e.message.name) for e in told} == {(image_id, name)}
        beat = run_dir / "images.beat"
        eventually(lambda: "removed since the start: 1 images" in beat.read_text(errors="replace"))
    finally:
        context.stopping.set()
        process.join(5)
        images.remove(name)
    assert process.value == 0


def test_a_docker_that_is_away_ends_the_cycle_with_one_sentence(context: Context, run_dir, monkeypatch, caplog):
    """No traceback; the next one is tried as usual."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{run_dir}/none.sock")
    service.Service(context).cycle()
    assert "Cannot connect to the Docker daemon" in caplog.text and "Traceback" not in caplog.text
