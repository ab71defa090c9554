"""A day of the telemetry process in seconds: nothing that it keeps grows (spec 07 §4, §8).

Book, queues, sampler, sources, snapshots and publisher are the real ones; virtual are the clock,
the files of the containers, the store, and a backend that is away for hours.
"""

from __future__ import annotations

import gc
import sys
import time as real_time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from common.clock import VirtualClock
from common.memory import MemoryStore
from common.model.status import ContainerStatus, TaskStatus
from common.model.task import Attachment, Container, RestartPolicy, Task
from services.telemetry import publisher as publishing
from services.telemetry import sampler as sampling
from services.telemetry import snapshots as showing
from services.telemetry import source as sourcing
from services.telemetry.core.book import Book
from services.telemetry.core.procfs import HostCpu
from services.telemetry.core.requests import Sender
from services.telemetry.core.samples import STREAM_LENGTH
from services.telemetry.files import Gone
from services.telemetry.mailbox import CAPACITY, Mailbox
from services.telemetry.publisher import Publisher
from services.telemetry.restarts import Restarts
from services.telemetry.sampler import Sampler
from services.telemetry.snapshots import Snapshots

HOURS = 24
STEP = 20  # seconds between two rounds; a round a second would say the same twenty times as slowly
RUN = 125  # readings until a container ends and is started again
STAY, SHORT = 2, 30  # tasks that run all day; minutes between two tasks that come and go


class FakeFiles:
    """The files of a container whose every reading is a little more than the last; its cgroup goes now and then."""

    opened = 0

    def __init__(self, host: Any, pid: int, docker_id: str, network: bool) -> None:
        FakeFiles.opened += 1
        self.identity, self.pid, self.count = (0, FakeFiles.opened), pid, 0

    def read(self) -> tuple[bytes, ...]:
        self.count += 1
        if self.count > RUN:
            raise Gone("it ended")
        n = self.count
        return (b"usage_usec %d\n" % (n * 1000), b"%d\n" % ((5 << 20) + n), b"anon 1\ninactive_file %d\n" % n,
                b"8:0 rbytes=%d wbytes=2\n" % n)  # fmt: skip

    def read_network(self) -> bytes:
        return b"  eth0: %d 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n" % self.count

    def read_extra(self) -> dict[str, bytes]:
        return {"memory.max": b"max\n", "memory.events": b"oom 0\n", "pids.current": b"1\n", "pids.max": b"max\n"}

    def check(self) -> None:
        """It is still the same process."""

    def close(self) -> None:
        """Nothing is open."""


class Clock(VirtualClock):
    """Whole nanoseconds, too."""

    def at(self) -> int:
        return int(self.now()) * 10**9

    def time_ns(self) -> int:
        return self.at()

    time = VirtualClock.now
    strftime, gmtime = staticmethod(real_time.strftime), staticmethod(real_time.gmtime)


CLOCK = Clock()


def task(name: str, known: TaskStatus = TaskStatus.RUNNING) -> Task:
    """A task of two containers, one with a restart policy."""
    containers = tuple(
        Container(
            name=c, docker_id=f"{name}-{c}", docker_name=f"ecs-{name}-{c}", health_check_type="docker",
            known=ContainerStatus.RUNNING if known == TaskStatus.RUNNING else ContainerStatus.STOPPED,
            restart_policy=RestartPolicy(enabled=True) if c == "again" else None,
        )
        for c in ("app", "again")
    )  # fmt: skip
    service = Attachment(arn="a", type="serviceconnectdetail", properties={"ContainerName": "app"})
    return Task(
        arn=f"arn:aws:ecs:us-west-2:1:task/c/{name}", family="web", version="1", containers=containers, known=known,
        attachments=(service,) if name == "stay0" else (),
    )  # fmt: skip


class Day:
    """Everything of the process that keeps something."""

    def __init__(self) -> None:
        self.durable, self.volatile = MemoryStore("durable"), MemoryStore("volatile")
        self.book = Book()
        self.restarts = Restarts(self.durable)
        host: Any = SimpleNamespace(cpu=lambda: HostCpu(5, 2), unified=True, cpus=2, memory=1 << 33)
        self.sampler = Sampler(self.book, host, None, self.restarts, False, 10.0)  # type: ignore[arg-type]
        self.snapshots = Snapshots(self.book, self.sampler, self.volatile)
        self.boxes = Mailbox(wait_seconds=0.0), Mailbox(wait_seconds=0.0)
        self.publisher = Publisher(self.book, lambda: Sender("default", "arn:i"), *self.boxes)
        self.published = 0

    def tell(self, one: Task) -> None:
        """A task document, as Service._task takes it."""
        difference = self.book.apply(one)
        self.sampler.follow(self.book.tasks.get(one.arn), difference)

    def round(self) -> None:
        """What happens at each sampling."""
        self.sampler.round()
        self.snapshots._write()

    def drain(self) -> None:
        """The backend takes everything."""
        for box in self.boxes:
            while len(box):
                box.next()
                box.sent()
                self.published += 1

    def sizes(self) -> dict[str, int]:
        """How much is kept where."""
        for stream in self.volatile.streams.values():
            stream.clear()  # in Redis these have a length limit
        for stream in self.durable.streams.values():
            stream.clear()
        return {
            "book": len(self.book.tasks),
            "containers": sum(len(e.containers) for e in self.book.tasks.values()),
            "sources": len(self.sampler.sources),
            "networks": len(self.sampler._networks) + len(self.sampler._reading),
            "restarts": len(self.restarts._known),
            "announced": len(self.snapshots._announced),
            "stats documents": len(self.volatile.data),
            "durable documents": len(self.durable.data),
            "revisions": len(self.volatile.revisions) + len(self.durable.revisions),
        }


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> Iterator[Day]:
    """The process at the start of the day."""
    for module in (sampling, showing, sourcing, publishing):
        monkeypatch.setattr(module, "time", CLOCK)
    monkeypatch.setattr(sourcing, "Files", FakeFiles)
    monkeypatch.setattr(sourcing, "find_process", lambda host, docker_id, task_id: 7)
    monkeypatch.setattr(publishing, "_scrape_one", lambda entry: None)
    yield Day()


def hour(day: Day, number: int) -> int:
    """One hour; returns the largest number of samples that any queue held."""
    held, backend_is_away = 0, number in (5, 6)
    for second in range(0, 3600, STEP):
        CLOCK.advance(STEP)
        if second % (SHORT * 60) == 0:
            day.tell(task(f"short{number}-{second}"))
        if second % (SHORT * 60) == 1200:
            day.tell(task(f"short{number}-{second - 1200}", TaskStatus.STOPPED))
        day.round()
        if second % 20 == 0:
            day.publisher.publish(second % 60 == 0)
            if not backend_is_away:
                day.drain()
        held = max([held, *(len(c.queue._unsent) for _, c in day.book)])
    return held


def test_a_day_leaves_nothing_behind(day: Day):
    """Tasks come and go, containers restart, the backend is away for two hours: each hour ends as the first did."""
    for i in range(STAY):
        day.tell(task(f"stay{i}"))
    hour(day, 0)
    sizes, blocks = day.sizes(), 0
    for number in range(1, HOURS):
        held = hour(day, number)
        assert held <= STREAM_LENGTH
        assert all(len(box) <= CAPACITY for box in day.boxes)
        if number in (5, 6):
            continue
        assert held <= 20 // STEP + 1 or number == 7, "what was published is not kept"
        assert day.sizes() == sizes, number
        if number == 8:
            gc.collect()
            blocks = sys.getallocatedblocks()
    gc.collect()
    assert sizes["book"] == STAY and sizes["sources"] == STAY * 2 == sizes["containers"]
    assert sizes["restarts"] == sizes["durable documents"] == STAY and sizes["stats documents"] == STAY
    assert all(c.last is not None and c.queue.appended > 4000 for _, c in day.book)
    assert all(c.before is not None and c.last.cpu_stats.cpu_usage.total_usage > 35 * 10**8  # type: ignore[union-attr]
               for _, c in day.book if c.restart_policy), "totals go on over every restart"  # fmt: skip
    assert sys.getallocatedblocks() - blocks < 2000, "the interpreter holds as much as in the eighth hour"
    # Every interval of the 22 hours with a backend has its two messages, and what the mailboxes held meanwhile.
    assert day.published >= 22 * 180 * 2 + CAPACITY
