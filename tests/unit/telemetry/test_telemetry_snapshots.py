"""The stats documents that the endpoint reads: what is written when, and what is announced (spec 07 §16.1)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from common import keys
from common.bus import Change
from common.errors import Temporary
from common.keys import STATS
from common.memory import MemoryStore
from common.model.agent import TaskStats
from common.model.status import ContainerStatus, TaskStatus
from common.model.task import Container, Task
from services.telemetry.core.book import Book, Network
from services.telemetry.core.dockerstats import DockerStats, Interface
from services.telemetry.core.samples import Counters
from services.telemetry.snapshots import Snapshots


class Store(MemoryStore):
    """Counts what is written; `away` refuses everything."""

    def __init__(self) -> None:
        super().__init__()
        self.puts, self.away = list[list[str]](), False

    def put(self, values: Mapping[str, bytes], deadline_seconds: float | None = None) -> None:
        if self.away:
            raise Temporary("away")
        self.puts.append(sorted(values))
        super().put(values)

    def announced(self) -> list[tuple[str, str]]:
        return [(e["i"], e["w"]) for e in self.streams.get(keys.FEED, {}).values()]


class Source:
    """Has what the test says was read last."""

    def __init__(self) -> None:
        self.stats: DockerStats | None = None

    def latest(self) -> DockerStats | None:
        return self.stats


class Desk:
    """The book, its sources, and the documents."""

    def __init__(self) -> None:
        self.book, self.store, self.sources = Book(), Store(), dict[str, Source]()
        sampler: Any = self
        self.snapshots = Snapshots(self.book, sampler, self.store)

    def watch(self, name: str, *containers: str, **more: Any) -> None:
        running = tuple(Container(name=c, docker_id=c, known=ContainerStatus.RUNNING) for c in containers)
        self.book.apply(Task(arn=name, family="f", containers=running, known=TaskStatus.RUNNING, **more))
        self.sources |= {c: self.sources.get(c, Source()) for c in containers}

    def read(self, docker_id: str, second: int) -> None:
        for _, container in self.book:
            if container.docker_id == docker_id:
                container.queue.append(Counters(second * 10**9, net=(second * 100,) * 8))
                self.sources[docker_id].stats = DockerStats(id=docker_id, num_procs=second)

    def shown(self, arn: str) -> dict[str, Any]:
        document = self.store.get(STATS, arn)
        assert document is not None
        return {c.docker_id: json.loads(c.rendered) for c in document.containers}


@pytest.fixture
def desk() -> Desk:
    """Two tasks, not read yet."""
    made = Desk()
    made.watch("one", "a", "b")
    made.watch("two", "c")
    made.snapshots._write()
    return made


def test_a_watched_container_is_null_until_it_was_read(desk: Desk):
    """Announced at once; rates come with the second reading."""
    assert desk.shown("one") == {"a": None, "b": None}
    assert desk.store.announced() == [("one", "save"), ("two", "save")]
    desk.read("a", 1)
    desk.snapshots._write()
    assert desk.shown("one")["a"]["num_procs"] == 1 and "network_rate_stats" not in desk.shown("one")["a"]
    desk.read("a", 2)
    desk.snapshots._write()
    document = desk.store.get(STATS, "one")
    assert document is not None
    rates = b'"network_rate_stats":{"rx_bytes_per_sec":100,"tx_bytes_per_sec":100}'
    assert rates in document.containers[0].rendered, "whole numbers have no fraction (spec 06 §2, case 52)"
    assert len(desk.store.announced()) == 2


def test_only_tasks_with_new_readings_are_written(desk: Desk):
    """With polling most seconds have none; a write that failed is made up for."""
    desk.store.puts.clear()
    desk.read("c", 1)
    desk.snapshots._write()
    desk.snapshots._write()
    assert desk.store.puts == [[STATS.key("two")]]
    desk.read("a", 2)
    desk.store.away = True
    desk.snapshots._write()
    desk.store.away = False
    desk.snapshots._write()
    assert desk.store.puts[1:] == [[STATS.key("one")]]


def test_every_container_of_an_awsvpc_task_shows_the_network_of_the_task(desk: Desk):
    """Also the pause container; a new reading of the network alone is written, too."""
    desk.watch("net", "x", "p", network_mode="awsvpc")
    entry = desk.book.tasks["net"]
    entry.network = Network()
    desk.read("x", 1)
    desk.read("p", 1)
    desk.snapshots._write()
    entry.network.interfaces = {"eth1": Interface(7)}
    entry.network.queue.append(Counters(10**9, net=(7,) * 8))
    desk.snapshots._write()
    assert all(stats["networks"]["eth1"]["rx_bytes"] == 7 for stats in desk.shown("net").values())


def test_documents_of_an_earlier_run_go_when_all_tasks_are_known(desk: Desk):
    """Until then a document of a task that is not in the book yet may be that of one that runs."""
    known: list[int] = []
    desk.store.commit(of_an_earlier_run())
    desk.snapshots = Snapshots(desk.book, desk.snapshots._sampler, desk.store, lambda: bool(known))
    desk.snapshots._write()
    assert desk.store.get(STATS, "earlier") is not None
    known.append(1)
    desk.snapshots._write()
    assert desk.store.get(STATS, "earlier") is None and desk.store.get(STATS, "one") is not None


def of_an_earlier_run() -> Change:
    """A document of a task that is not in the book."""
    return Change().save(STATS, "earlier", TaskStats(revision=1, arn="earlier"))


def test_what_goes_is_announced_and_a_new_server_gets_everything(desk: Desk):
    """A container that comes or goes changes what is tracked; a server that lost its data must not stay empty."""
    desk.watch("one", "a")
    desk.book.forget("two")
    desk.snapshots._write()
    assert desk.store.announced()[2:] == [("one", "save"), ("two", "delete")]
    assert desk.shown("one") == {"a": None} and desk.store.get(STATS, "two") is None
    desk.store.lose_everything()
    desk.snapshots.announce_again()
    desk.snapshots._write()
    assert desk.shown("one") == {"a": None} and desk.store.announced() == [("one", "save")]
