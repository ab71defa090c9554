"""A clean-up cycle against real Redis and real Docker."""

from __future__ import annotations

import io
import tarfile
import time
import uuid

import pytest

from common import docker, keys
from common.bus import Bus, Change
from common.clock import SystemClock
from common.model.agent import ImageReference
from common.model.messages import Command, ImageRemoved
from services.images.core.plan import Limits
from services.images.cycle import Cycle, docker_clients

pytestmark = pytest.mark.docker
LIMITS = Limits(60, 60, 5, 5, 60, frozenset())


@pytest.fixture
def client():
    return docker.client(docker.lowest_usable_version(), 60)


@pytest.fixture
def make_image(client):
    """Images of this test alone, by name; all are gone afterwards."""
    made = []

    def make(tag: str) -> tuple[str, str]:
        repository = f"ecs-test/{uuid.uuid4().hex[:12]}"
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            info = tarfile.TarInfo("unique")
            info.size = 32
            tar.addfile(info, io.BytesIO(uuid.uuid4().hex.encode()))
        client.import_image_from_data(data.getvalue(), repository=repository, tag=tag)
        name = f"{repository}:{tag}"
        made.append(name)
        return name, client.inspect_image(name)["Id"]

    yield make
    for name in made:
        try:
            client.remove_image(name, force=True)
        except Exception as error:
            assert "No such image" in str(error)


def exists(client, name: str) -> bool:
    return any(name in (image["RepoTags"] or []) for image in client.images())


def save(bus: Bus, *references: ImageReference) -> None:
    for reference in references:
        bus.durable.commit(Change().save(keys.IMAGE, reference.image_id, reference))


def told(bus: Bus) -> list[ImageRemoved]:
    consumer = bus.durable.consumer(keys.COMMANDS, "t", Command)
    return [e.message for _ in range(3) for e in consumer.read(0.1)]


def old(name: str, id_: str, **more) -> ImageReference:
    return ImageReference(revision=1, image_id=id_, names=(name,), pulled_at=time.time() - 3600, **more)


def test_an_unused_image_is_removed_and_the_engine_is_told(run_dir, redis_servers, client, make_image):
    """The image process owns no document: the engine drops its reference when it reads the command."""
    bus = Bus(str(run_dir))
    name, id_ = make_image("1")
    kept, kept_id = make_image("1")
    save(bus, old(name, id_), old(kept, kept_id, containers=("arn/c",)))
    Cycle(bus, LIMITS, SystemClock(), docker_clients(), untracked=False).run()
    assert not exists(client, name) and exists(client, kept)
    commands = told(bus)
    assert [(c.image_id, c.name) for c in commands] == [(id_, name)]


def test_an_image_in_use_outside_the_agent_stays(run_dir, redis_servers, client, make_image):
    """Docker's 409 is the last protection; the cycle goes on."""
    bus = Bus(str(run_dir))
    name, id_ = make_image("1")
    save(bus, old(name, id_))
    container = client.create_container(name, ["/x"])["Id"]
    try:
        Cycle(bus, LIMITS, SystemClock(), docker_clients(), untracked=False).run()
        assert exists(client, name)
    finally:
        client.remove_container(container, force=True)


def test_a_name_that_moved_to_another_image_keeps_that_image(run_dir, redis_servers, client, make_image):
    """Deleting by name would take the new image away: the old one goes by its id."""
    bus = Bus(str(run_dir))
    name, first = make_image("1")
    client.tag(first, f"{name}-kept")
    client.remove_image(name)
    newer, second = make_image("1")
    client.tag(second, name)
    client.tag(first, f"{name}-moved")
    client.remove_image(f"{name}-kept")
    client.tag(second, f"{name}-moved")  # the first image has no name now
    save(bus, old(name, first))
    Cycle(bus, LIMITS, SystemClock(), docker_clients(), untracked=False).run()
    assert exists(client, name) and exists(client, newer)
    assert first not in {image["Id"] for image in client.images(all=True)}
    assert [(c.image_id, c.name) for c in told(bus)] == [(first, "")]
    client.remove_image(f"{name}-moved")
