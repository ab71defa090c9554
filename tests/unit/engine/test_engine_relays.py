"""The relay of Service Connect: there when it is needed, one at a time, of the image of the day (spec 04 §11)."""

from __future__ import annotations

import itertools
import time

import pytest
from msgspec.structs import replace

from common.model.agent import Instance
from common.model.status import TaskStatus as T
from common.model.task import Attachment, Container, Task
from services.engine.relays import Relays

PROXIED = Attachment(type="serviceconnectdetail", properties={"ContainerName": "sc"})
WEB = Task(arn="web", containers=(Container(name="sc"),), attachments=(PROXIED,), desired=T.RUNNING)


class Host:
    """The engine around the relays; time passes as the test says."""

    def __init__(self, stamp: tuple[int, ...] | None = (1, 1, 1)) -> None:
        self.tasks: dict[str, Task] = {"web": WEB}
        self.begun: list[Task] = []
        self.ended: list[str] = []
        self.loaded, self.loads, self.now = False, 0, 0.0
        self.stamp = stamp
        self.takes_image = True
        self.instance = Instance(region="eu-west-1")
        self.relays = Relays(
            self, lambda: list(self.tasks.values()), self._begin, lambda task, why: self.ended.append(task.arn),
            lambda: setattr(self, "loaded", True), lambda: self.loaded, lambda: self.instance, "", lambda: self.now,
        )  # fmt: skip

    def _begin(self, task: Task) -> None:
        self.begun.append(task)
        self.tasks["relay"] = task

    def load_service_connect(self) -> bool:
        """As the hands do."""
        self.loads += 1
        return self.takes_image

    def service_connect_stamp(self) -> tuple[int, ...] | None:
        """As the hands do."""
        return self.stamp

    def relay_is(self, **changes: object) -> None:
        """What has become of the relay."""
        self.tasks["relay"] = replace(self.tasks["relay"], **changes)


@pytest.fixture
def host() -> Host:
    """A host with one task that uses Service Connect."""
    return Host()


def test_one_relay_begins_when_it_is_needed(host: Host):
    """And none beside it; it learns its endpoint from ECS, or from its region."""
    host.relays.look()
    host.relays.look()
    assert len(host.begun) == 1
    told = host.begun[0].containers[0].environment
    assert (told["AWS_REGION"], told["APPMESH_XDS_ENDPOINT"]) == ("eu-west-1", "https://ecs-sc.eu-west-1.api.aws")
    host.instance = Instance(region="eu-west-1", service_connect_endpoint="https://told")
    host.relay_is(known=T.STOPPED)
    host.now = 1000.0
    host.relays.look()
    assert host.begun[1].containers[0].environment["APPMESH_XDS_ENDPOINT"] == "https://told"


def test_none_begins_without_need_or_without_the_image():
    """A host whose archive comes later starts it then."""
    host = Host(stamp=None)
    host.relays.look()
    assert (host.begun, host.loads) == ([], 0)
    host.stamp = (1, 1, 1)
    host.tasks["web"] = replace(WEB, known=T.STOPPED)
    for _ in range(2):
        host.relays.look()
    assert (host.begun, host.loads, host.loaded) == ([], 1, True)
    host.tasks["web"] = WEB
    host.relays.look()
    assert (len(host.begun), host.ended) == (1, [])


def test_a_relay_that_fails_again_and_again_is_started_at_longer_intervals(host: Host):
    """And soon again after one that ran for a while."""
    begun = []
    for _ in range(4000):
        host.relays.look()
        if "relay" in host.tasks and host.tasks["relay"].known < T.STOPPED:
            begun.append(host.now)
            host.relay_is(known=T.STOPPED)
        host.now += 1.0
    gaps = [b - a for a, b in itertools.pairwise(begun)]
    assert 10 < len(begun) < 30 and max(gaps) <= 400 and gaps[0] < 5 < gaps[-1]
    host.now += 400.0
    host.relays.look()
    host.relay_is(known=T.RUNNING, known_at=time.time() - 61)
    host.relays.look()
    host.relay_is(known=T.STOPPED)
    host.now += 400.0
    host.relays.look()
    host.relay_is(known=T.STOPPED)
    host.now += 3.0
    host.relays.look()
    assert host.tasks["relay"].known < T.STOPPED


def test_another_archive_is_loaded_when_it_has_stopped_growing(host: Host):
    """The reference loads a growing file at each write; the relay ends, and its successor has the new image."""
    host.relays.look()
    for size in (2, 3, 4):
        host.stamp = (size, size, 1)
        host.relays.look()
    assert (host.loads, host.ended) == (1, []), "that of the start replaces no relay"
    for _ in range(3):
        host.relays.look()
    assert (host.loads, host.ended) == (2, [host.begun[0].arn])
    host.relay_is(known=T.STOPPED)
    host.relays.look()
    assert len(host.begun) == 2


def test_an_archive_that_docker_refuses_leaves_the_relay_alone(host: Host):
    """As does one that is gone. Docker may have been away: it is asked again, at longer and longer intervals."""
    host.relays.look()
    host.takes_image, host.stamp = False, (9, 9, 9)
    for _ in range(600):
        host.relays.look()
        host.now += 1.0
    assert 3 < host.loads < 12 and host.ended == []
    host.stamp = None
    host.relays.look()
    assert (host.ended, len(host.begun)) == ([], 1)
    host.takes_image, host.stamp = True, (9, 9, 9)
    host.now += 700.0
    for _ in range(2):
        host.relays.look()
    assert host.ended == [host.begun[0].arn]


def test_the_archive_that_replaces_a_refused_one_does_not_wait_for_its_turn(host: Host):
    """The operator mended it; the pause was for the old one."""
    host.takes_image = False
    for _ in range(300):
        host.relays.look()
        host.now += 1.0
    loads = host.loads
    host.relays.look()
    assert host.loads == loads, "the old one has to wait"
    host.takes_image, host.stamp = True, (9, 9, 9)
    for _ in range(2):
        host.relays.look()
    assert (host.loads, host.loaded) == (loads + 1, True)


def test_an_image_that_docker_has_not_got_after_its_load_is_loaded_again(host: Host):
    """The look after the load failed, or somebody removed the image; no relay is ended for it."""
    host.relays.look()
    assert (host.loads, host.loaded, len(host.begun)) == (1, True, 1)
    host.loaded = False
    for _ in range(60):
        host.relays.look()
        host.now += 1.0
    assert (host.loads, host.loaded, host.ended) == (2, True, [])
