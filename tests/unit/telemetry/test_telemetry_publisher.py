"""When what is published, and what happens when nobody takes it (spec 07 §9)."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import gevent
import gevent.event
import pytest

from common.model.status import ContainerStatus, TaskStatus
from common.model.task import Attachment, Container, Task
from services.telemetry import publisher as publishing
from services.telemetry.core.book import Book, TaskEntry
from services.telemetry.core.requests import Sender
from services.telemetry.core.samples import Counters
from services.telemetry.mailbox import Mailbox
from services.telemetry.publisher import Publisher

EBS = {"volumeId": "vol-1", "volumeName": "data", "sourceVolumeHostPath": "one"}


class Desk:
    """A publisher with its mailboxes."""

    def __init__(self, metrics: bool = True, seconds: float = 20.0) -> None:
        self.book = Book(metrics)
        self.boxes = Mailbox(wait_seconds=0.0), Mailbox(wait_seconds=0.0)
        self.publisher = Publisher(self.book, lambda: Sender("c", "arn:i"), *self.boxes, seconds)

    def watch(self, name: str, *attachments: Attachment, health: str = "") -> None:
        """A running task of one container."""
        container = Container(name="app", docker_id=name, known=ContainerStatus.RUNNING, health_check_type=health)
        self.book.apply(Task(arn=f"arn/{name}", family="web", version="1", containers=(container,),
                             attachments=attachments, known=TaskStatus.RUNNING))  # fmt: skip

    def sample(self, *seconds: int) -> None:
        """Every container is read at these seconds."""
        for _, container in self.book:
            for second in seconds:
                container.queue.append(Counters(second * 10**9, second * 10**8, 5 << 20))

    def said(self, box: int = 0) -> list[dict[str, Any]]:
        """Take everything out of a mailbox: the inner requests."""
        found = []
        while len(self.boxes[box]):
            found.append(json.loads(self.boxes[box].next())["message"])
            self.boxes[box].sent()
        return found


SERVICE_CONNECT = Attachment(arn="a", type="serviceconnectdetail", properties={"ContainerName": "app"})


def test_service_connect_is_asked_at_every_third_tick_and_not_at_the_start(monkeypatch: pytest.MonkeyPatch):
    """Case 35: ticks 3 and 6; the immediate publish does not count."""
    desk, seen = Desk(seconds=0.01), list[bool]()
    monkeypatch.setattr(desk.publisher, "publish", seen.append)
    stopping = gevent.event.Event()
    running = gevent.spawn(desk.publisher.run, stopping)
    while len(seen) < 8:
        gevent.sleep(0.005)
    stopping.set()
    running.join(1)
    assert seen[:8] == [False, False, False, True, False, False, True, False]


def test_an_idle_instance_says_so_and_has_no_health():
    """Case 25: one request without tasks; the empty health message makes no request."""
    desk = Desk()
    desk.publisher.publish(False)
    (message,) = desk.said()
    assert message["metadata"]["idle"] and message["metadata"]["fin"] and "taskMetrics" not in message
    assert desk.said(1) == []


def test_ticks_are_fixed_points_in_time(monkeypatch: pytest.MonkeyPatch):
    """Trap 18: whatever a publish and the machine take, the next tick is not later for it."""
    desk, clock, waited = Desk(), [100.0], list[float]()

    class Stopping(gevent.event.Event):
        def wait(self, timeout: float | None = None) -> bool:  # type: ignore[override]
            waited.append(timeout or 0.0)
            clock[0] += (timeout or 0.0) + 0.25  # it woke late
            return len(waited) == 4

    monkeypatch.setattr(publishing.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(desk.publisher, "publish", lambda _: None)
    desk.publisher.run(Stopping())
    assert waited == [20.0, 19.75, 19.75, 19.75]


def test_each_message_has_an_id_of_its_own():
    """Trap 21: metrics and health of one tick, and two ticks, share none."""
    desk = Desk()
    desk.watch("one", health="docker")
    desk.sample(1, 2)
    desk.publisher.publish(False)
    desk.sample(3)
    desk.publisher.publish(False)
    ids = {message["metadata"]["messageId"] for message in (*desk.said(), *desk.said(1))}
    assert len(ids) == 4 and all(uuid.UUID(id_).version == 4 and id_ == str(uuid.UUID(id_)) for id_ in ids)


def test_nothing_is_said_before_the_second_sample():
    """Case 26, and case 9."""
    desk = Desk()
    desk.watch("one")
    desk.sample(1)
    desk.publisher.publish(False)
    assert desk.said() == []
    desk.sample(2)
    desk.publisher.publish(False)
    (message,) = desk.said()
    assert message["taskMetrics"][0]["containerMetrics"][0]["memoryStatsSet"]["sampleCount"] == 2


def fifteen_of_twenty(volume_id: str, path: str, seconds: float) -> tuple[int, int]:
    """A driver that knows one volume."""
    assert (volume_id, path, seconds) == ("vol-1", "/mnt/ecs/ebs/one", 1.0)
    return 15 << 30, 20 << 30


def test_without_metrics_a_service_connect_task_is_told_of_at_third_ticks(monkeypatch: pytest.MonkeyPatch):
    """Spec 07 §9.4: not idle, nothing at ordinary ticks; then the task, its proxy's data and its volumes."""
    desk = Desk(metrics=False)
    desk.watch("one", SERVICE_CONNECT, Attachment(arn="b", type="amazonebs", properties=EBS), health="docker")

    def scrape(entry: TaskEntry) -> None:
        assert entry.service_connect is not None
        entry.service_connect.replace([{"generalMetrics": [], "metricType": "1"}])

    monkeypatch.setattr(publishing, "_scrape_one", scrape)
    desk.publisher = Publisher(desk.book, lambda: Sender("c", "arn:i"), *desk.boxes, volume_use=fifteen_of_twenty)
    desk.publisher.publish(False)
    assert desk.said() == [] and len(desk.said(1)) == 1
    desk.publisher.publish(True)
    (message,) = desk.said()
    (task,) = message["taskMetrics"]
    assert list(task) == ["serviceConnectMetricsWrapper", "taskArn", "taskDefinitionFamily", "taskDefinitionVersion",
                          "volumeMetrics"]  # fmt: skip
    assert task["volumeMetrics"][0]["utilized"] == {
        "max": 16106127360, "min": 16106127360, "sampleCount": 1, "sum": 16106127360,
    }  # fmt: skip


def test_a_volume_that_hangs_delays_no_other_and_is_left_out():
    """Cases 54 and 55: the driver is asked about all at once; the message has those that it told of."""
    names = ("hangs1", "fails", "works", "hangs2")

    def use(volume_id: str, path: str, seconds: float) -> tuple[int, int]:
        if "hangs" in path:
            gevent.sleep(1.0)  # the client's own deadline: test_a_driver_that_hangs_costs_its_deadline_and_no_more
        if volume_id != "works":
            raise OSError("DEADLINE_EXCEEDED: the driver did not answer")
        return 1, 2

    desk = Desk()
    desk.publisher = Publisher(desk.book, lambda: Sender("c", "arn:i"), *desk.boxes, volume_use=use)
    volumes = [Attachment(arn=n, type="amazonebs", properties=EBS | {"volumeId": n, "sourceVolumeHostPath": n})
               for n in names]  # fmt: skip
    desk.watch("one", *volumes)
    desk.sample(1, 2)
    began = time.monotonic()
    desk.publisher.publish(False)
    assert time.monotonic() - began < 1.9  # not one after the other
    (message,) = desk.said()
    assert [v["volumeId"] for v in message["taskMetrics"][0]["volumeMetrics"]] == ["works"]


def test_what_finds_no_room_is_part_of_the_next_message():
    """Case 46: the oldest fifteen messages stay; the samples of a dropped one are not lost (better, spec 07 §21)."""
    desk = Desk()
    desk.watch("one")
    for second in range(20):
        desk.sample(2 * second, 2 * second + 1)
        desk.publisher.publish(False)
    counts = [m["taskMetrics"][0]["containerMetrics"][0]["memoryStatsSet"]["sampleCount"] for m in desk.said()]
    assert counts == [2] * 15
    desk.publisher.publish(False)
    (message,) = desk.said()
    assert message["taskMetrics"][0]["containerMetrics"][0]["memoryStatsSet"]["sampleCount"] == 10


def test_a_message_that_waits_keeps_the_time_of_its_collection():
    """The backend takes metrics of the last five minutes; those of the outage belong to the outage."""
    desk = Desk()
    desk.watch("one")
    desk.sample(1, 2)
    desk.publisher.publish(False)
    collected = time.time()
    gevent.sleep(0.05)
    (message,) = desk.said()
    assert message["timestamp"] <= collected
