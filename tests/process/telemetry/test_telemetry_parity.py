"""The same container at the same moment: our object from its files is Docker's object (spec 07 §17).

A paused container stands still, so every figure that is not a time can be compared to the digit. Where the host counts
in both cgroup versions, the files of v2 are read live as well. `make test-vm` runs this on a host with cgroup v2 only,
with both cgroup drivers; tests/unit has files taken there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.memory import MemoryStore
from services.telemetry.core.book import Book
from services.telemetry.core.dockerstats import DockerStats, from_docker, render
from services.telemetry.core.readings import Reader, Reading
from services.telemetry.core.samples import from_stats
from services.telemetry.dockerd import Daemon
from services.telemetry.files import Files, Host, find_process, this_host
from services.telemetry.restarts import Restarts
from services.telemetry.sampler import Sampler
from tests.process.telemetry.conftest import Containers, stats_of, task_of

pytestmark = pytest.mark.docker
WORK = """
dd if=/dev/zero of=/out bs=1M count=2 conv=fsync; i=0; while [ $i -lt 9000 ]; do i=$((i+1)); done; exec sleep 3600
"""
MOVING = ("read", "preread", "precpu_stats")  # times, and what was a second before
UNIFIED = Path("/sys/fs/cgroup/unified")


class Pair:
    """One container, watched by our sampler and asked for at Docker."""

    def __init__(self, containers: Containers, host: Host, **host_config: object) -> None:
        self.client, self.docker_id = containers.client, containers.start(WORK, **host_config)
        self.sampler = Sampler(Book(), host, Daemon(), Restarts(MemoryStore()), False, 1.0)
        task = task_of(containers.describe(self.docker_id))
        difference = self.sampler.book.apply(task)
        self.sampler.follow(self.sampler.book.tasks.get(task.arn), difference)

    def docker(self) -> dict[str, Any]:
        """What Docker's API answers."""
        return stats_of(self.client, self.docker_id)

    def ours(self) -> DockerStats:
        """What we make of the files."""
        self.sampler.round()
        stats = self.sampler.sources[self.docker_id].latest()
        assert stats is not None
        return stats


def still(stats: dict[str, Any]) -> dict[str, Any]:
    """The object without what moves while the container stands still, and without what newer engines add."""
    shown = {name: value for name, value in stats.items() if name not in (*MOVING, "os_type")}
    shown["cpu_stats"] = {name: v for name, v in shown["cpu_stats"].items() if name != "system_cpu_usage"}
    return shown


def shown(stats: DockerStats) -> dict[str, Any]:
    """As the endpoint serves it."""
    return dict(json.loads(render(stats)))


@pytest.fixture
def work_done(eventually: Callable[..., object]) -> Callable[[Pair], None]:
    """Waits until the container has nothing left to do, then stops it in its tracks."""

    def pause(pair: Pair) -> None:
        pid = pair.client.inspect_container(pair.docker_id)["State"]["Pid"]

        def asleep() -> bool:
            return b"3600" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")

        eventually(asleep, seconds=20, pause=0.2)
        pair.client.pause(pair.docker_id)

    return pause


LIMITS = [{}, {"mem_limit": "48m", "pids_limit": 50, "cpu_period": 10000, "cpu_quota": 1000}]


@pytest.mark.parametrize("limits", LIMITS, ids=["free", "limited"])
def test_every_figure_of_a_paused_container_is_that_of_docker(containers: Containers, work_done, limits, eventually):
    """CPU by kind and by core, throttling, memory with every counter, block I/O, processes, network: the same JSON."""
    pair = Pair(containers, this_host(), **limits)
    work_done(pair)
    seen: list[tuple[dict[str, Any], DockerStats, dict[str, Any]]] = []

    def nothing_moved() -> bool:
        """The host may still send a packet or write a page back."""
        before, ours, after = pair.docker(), pair.ours(), pair.docker()
        seen.append((before, ours, after))
        return still(before) == still(after)

    try:
        eventually(nothing_moved, seconds=30, pause=0.1)
        before, ours, after = seen[-1]
        docker = from_docker(json.dumps(before).encode())
        assert still(shown(ours)) == still(shown(docker))
        assert json.dumps(still(shown(ours)), sort_keys=False) == json.dumps(still(shown(docker)), sort_keys=False)
        assert ours.cpu_stats.cpu_usage.total_usage > 0 and ours.memory_stats.usage
        low, high = before["cpu_stats"]["system_cpu_usage"], after["cpu_stats"]["system_cpu_usage"]
        assert low <= ours.cpu_stats.system_cpu_usage <= high
        # What goes to the backend is the same, too.
        host = this_host()
        (container,) = next(iter(pair.sampler.book.tasks.values())).containers.values()
        assert container.queue.last is not None
        from_files = container.queue.last.counters
        assert from_files == from_stats(docker, host.cpus, host.unified)._replace(at=from_files.at)
        if limits:
            assert ours.memory_stats.limit == 48 << 20 and ours.cpu_stats.throttling_data.periods > 0
    finally:
        pair.client.unpause(pair.docker_id)
        pair.sampler.close()


@pytest.mark.skipif(not (UNIFIED / "cgroup.procs").exists(), reason="this host does not count in both versions")
def test_the_cpu_time_in_the_files_of_v2_is_that_of_docker_too(containers: Containers, work_done, eventually):
    """The hybrid layout: the same container has a cgroup of v2 beside those of v1, with the kernel's own cpu.stat."""
    host = this_host()._replace(unified=True, root=str(UNIFIED))
    pair = Pair(containers, host)
    work_done(pair)
    try:
        pid = find_process(host, pair.docker_id, "no-task")
        if pid is None:
            pytest.skip("the engine makes no cgroup of v2 here")
        files = Files(host, pid, pair.docker_id, True)
        reader = Reader(True, host.cpus, host.memory)

        def both() -> tuple[DockerStats, dict[str, Any]] | None:
            """The same moment, as far as nothing moved between the two readings."""
            reading = Reading(1, files.read(), files.read_network(), host.cpu())
            ours, docker = reader.stats(reading, files.read_extra(), "/n", "i"), pair.docker()
            theirs = docker["cpu_stats"]["cpu_usage"]["total_usage"]
            return (ours, docker) if ours.cpu_stats.cpu_usage.total_usage // 1000 == theirs // 1000 else None

        ours, docker = eventually(both, pause=0.1)
        files.close()
        assert ours.cpu_stats.cpu_usage.total_usage > 0
        assert set(ours.networks or ()) == set(docker["networks"])
    finally:
        pair.client.unpause(pair.docker_id)
        pair.sampler.close()
