"""Real containers: our numbers are Docker's numbers (spec 07 §17), and they survive what containers do."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from common.errors import Temporary
from common.memory import MemoryStore
from common.model.status import ContainerType
from common.model.task import RestartPolicy, Task
from services.telemetry import netns, source
from services.telemetry.core.book import Book
from services.telemetry.core.dockerstats import render
from services.telemetry.core.metrics import report
from services.telemetry.dockerd import Daemon
from services.telemetry.files import Host, this_host
from services.telemetry.restarts import Restarts
from services.telemetry.sampler import Sampler
from services.telemetry.source import Source
from tests.process.telemetry.conftest import Containers, stats_of, task_of

pytestmark = pytest.mark.docker
WORK = "dd if=/dev/zero of=/out bs=1M count=20; i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; exec sleep 3600"
INTERVAL_SECONDS = 0.3  # of polls, and of readings in the namespace of an awsvpc task


class Bench:
    """Book and sampler without the process around them."""

    def __init__(self, host: Host, polling: bool = False) -> None:
        self.book, self.store = Book(), MemoryStore()
        self.restarts = Restarts(self.store)
        self.sampler = Sampler(self.book, host, Daemon(), self.restarts, polling, INTERVAL_SECONDS)

    def watch(self, task: Task) -> None:
        """The engine saved this task."""
        difference = self.book.apply(task)
        self.sampler.follow(self.book.tasks.get(task.arn), difference)

    def source(self, docker_id: str) -> Source:
        """The source of a container."""
        return self.sampler.sources[docker_id]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between attempts to find or to ask; those of the product are in the unit tests."""
    monkeypatch.setattr(source, "PAUSES", (0.2, 2.0, 2.0, 0.5))


@pytest.fixture
def bench() -> Iterator[Bench]:
    """On this host."""
    made = Bench(this_host())
    yield made
    made.sampler.close()


def latest(bench: Bench, docker_id: str) -> dict:
    """Sample now; the stats object as JSON."""
    bench.sampler.round()
    stats = bench.source(docker_id).latest()
    return json.loads(render(stats)) if stats else {}


def test_our_stats_are_those_of_docker(containers: Containers, bench: Bench, daemon, eventually: Callable[..., object]):
    """Between two readings of Docker ours lies between them; what does not move is equal; the members are the same."""
    docker_id = containers.start(WORK, mem_limit="64m")
    bench.watch(task_of(containers.describe(docker_id)))
    pid = daemon.inspect_container(docker_id)["State"]["Pid"]
    eventually(lambda: b"3600" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"), pause=0.1)
    before = stats_of(daemon, docker_id)
    ours = latest(bench, docker_id)
    after = stats_of(daemon, docker_id)
    assert set(ours) == set(after) - {"os_type"}
    assert ours["name"] == after["name"] and ours["id"] == after["id"]
    for name in ("total_usage", "usage_in_kernelmode", "usage_in_usermode"):
        low, high = (side["cpu_stats"]["cpu_usage"][name] for side in (before, after))
        assert low <= ours["cpu_stats"]["cpu_usage"][name] <= high, name
    low, high = (side["cpu_stats"]["system_cpu_usage"] for side in (before, after))
    assert low <= ours["cpu_stats"]["system_cpu_usage"] <= high
    assert set(ours["cpu_stats"]) == set(after["cpu_stats"])
    assert ours["cpu_stats"]["online_cpus"] == after["cpu_stats"]["online_cpus"]
    assert set(ours["memory_stats"]) == set(after["memory_stats"]) - {"failcnt"} | (
        {"failcnt"} if after["memory_stats"].get("failcnt") else set()
    )
    assert ours["memory_stats"]["limit"] == after["memory_stats"]["limit"] == 64 << 20
    assert abs(ours["memory_stats"]["usage"] - after["memory_stats"]["usage"]) < 4 << 20
    assert set(ours["memory_stats"]["stats"]) == set(after["memory_stats"]["stats"])
    assert ours["pids_stats"]["current"] == after["pids_stats"]["current"]
    assert ours["blkio_stats"] == after["blkio_stats"]
    assert set(ours["networks"]) == set(after["networks"])
    low, high = (side["networks"]["eth0"]["rx_bytes"] for side in (before, after))
    assert low <= ours["networks"]["eth0"]["rx_bytes"] <= high
    assert list(ours["networks"]["eth0"]) == list(after["networks"]["eth0"])


@pytest.mark.parametrize("mode", ["host", "none"])
def test_a_container_without_a_network_of_its_own_shows_none(containers: Containers, bench: Bench, mode):
    """The host's interfaces must never be taken for the container's (spec 07 §20, trap 19)."""
    docker_id = containers.start(network_mode=mode)
    described = containers.describe(docker_id)
    bench.watch(task_of(described))
    assert "networks" not in latest(bench, docker_id)


def test_the_host_network_is_recognised_even_when_the_document_does_not_say(containers: Containers, bench: Bench):
    """The namespace itself is looked at."""
    docker_id = containers.start(network_mode="host")
    bench.watch(task_of(msgspec.structs.replace(containers.describe(docker_id), network_mode="")))
    assert "networks" not in latest(bench, docker_id)


def test_a_busy_container_has_a_plausible_share_of_the_host(containers: Containers, bench: Bench):
    """One loop keeps at most one CPU busy; 100 would be all of them."""
    docker_id = containers.start("while :; do :; done")
    bench.watch(task_of(containers.describe(docker_id)))
    bench.sampler.round()
    time.sleep(1.5)
    bench.sampler.round()
    found = report(bench.book, time.time(), {}, False).tasks[0]["containerMetrics"][0]
    assert 1 < found["cpuStatsSet"]["max"] < 100 / bench.sampler.host.cpus + 10
    assert found["memoryStatsSet"]["sampleCount"] == 2 and found["cpuStatsSet"]["sampleCount"] == 1


def test_counters_go_on_when_the_restart_policy_starts_a_container_again(
    containers: Containers, bench: Bench, daemon, eventually: Callable[..., object]
):
    """The new run is found without a document that says so; its counters are added to the old ones, which are kept."""
    docker_id = containers.start(WORK)
    task = task_of(containers.describe(docker_id, restart_policy=RestartPolicy(enabled=True)))
    bench.watch(task)
    time.sleep(0.7)
    first = latest(bench, docker_id)["cpu_stats"]["cpu_usage"]["total_usage"]
    daemon.restart(docker_id, timeout=0)
    queue = bench.book.tasks[task.arn].containers[docker_id].queue
    seen = queue.appended

    def sampled_again() -> bool:
        bench.sampler.round()
        return queue.appended > seen + 1

    eventually(sampled_again, seconds=8, pause=0.2)
    again = latest(bench, docker_id)
    raw = stats_of(daemon, docker_id)["cpu_stats"]["cpu_usage"]["total_usage"]
    assert first < again["cpu_stats"]["cpu_usage"]["total_usage"] <= first + raw
    assert again["preread"] > "2000"
    seen_at, before = bench.restarts.get(docker_id)
    assert seen_at and before is not None and before.cpu_stats.cpu_usage.total_usage == first
    reloaded = Restarts(bench.store)
    reloaded.load()
    assert reloaded.get(docker_id) == (seen_at, before)
    bench.sampler.follow(None, bench.book.forget(task.arn))
    assert bench.restarts.get(docker_id) == (0, None) and not bench.sampler.sources


def test_a_container_that_ends_is_noticed_without_asking_docker(containers: Containers, bench: Bench, daemon):
    """Its cgroup is gone: no sample, no error; the last object keeps being served, and nothing holds its namespace."""
    docker_id = containers.start()
    bench.watch(task_of(containers.describe(docker_id)))
    assert latest(bench, docker_id)["cpu_stats"]
    count = next(c for _, c in bench.book).queue.appended
    daemon.kill(docker_id)
    daemon.wait(docker_id)
    bench.sampler.round()
    assert next(c for _, c in bench.book).queue.appended == count
    assert bench.source(docker_id).latest() is not None
    open_files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
    assert not [path for path in open_files if path.endswith("/net/dev") or docker_id in path]


def _is_open(fd: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize("polling", [False, True], ids=["streamed", "polled"])
def test_docker_is_asked_when_the_cgroup_is_nowhere_to_be_found(
    containers: Containers, eventually: Callable[..., object], tmp_path, polling
):
    """A cgroup mount that is somewhere else: after a second look Docker's own stats are used, a sample a second."""
    bench = Bench(this_host()._replace(root=str(tmp_path)), polling)
    docker_id = containers.start(WORK)
    bench.watch(task_of(containers.describe(docker_id)))
    source = bench.source(docker_id)

    def sampled() -> bool:
        bench.sampler.round()
        return source.container.queue.appended >= 2

    try:
        eventually(sampled, seconds=25, pause=0.3)
        stats = source.latest()
        assert stats is not None and stats.id == docker_id and stats.cpu_stats.cpu_usage.total_usage > 0
        assert stats.precpu_stats.cpu_usage.total_usage > 0 and source.pid > 0
        assert report(bench.book, time.time(), {}, False).tasks[0]["containerMetrics"][0]["networkStatsSet"]
    finally:
        bench.sampler.close()


def test_the_network_of_an_awsvpc_task_is_read_in_its_namespace(
    containers: Containers, bench: Bench, eventually: Callable[..., object]
):
    """A namespace with a veth only, as that of the task endpoints: zeros, not nothing, for all containers but pause."""
    pause_id = containers.start()
    app_id = containers.start(network_mode=f"container:{pause_id}")
    pid = containers.client.inspect_container(pause_id)["State"]["Pid"]
    assert netns.interfaces(pid) == {}
    pause = containers.describe(pause_id, "~internal~ecs~pause", type=ContainerType.CNI_PAUSE)
    task = task_of(containers.describe(app_id), pause, network_mode="awsvpc")
    bench.watch(task)
    network = bench.book.tasks[task.arn].network
    assert network is not None

    def twice() -> bool:
        bench.sampler.round()
        return network.queue.appended >= 2

    eventually(twice, seconds=10, pause=0.2)
    assert network.interfaces == {}
    found = {c["containerName"]: c for c in report(bench.book, time.time(), {}, False).tasks[0]["containerMetrics"]}
    assert found["app"]["networkStatsSet"]["rxBytes"]["sampleCount"] >= 2
    assert "networkStatsSet" not in found["~internal~ecs~pause"]
    assert "networks" not in latest(bench, app_id)


def test_a_physical_interface_counts_with_the_numbers_of_the_kernel():
    """The namespace of this process: what netlink says lies between two looks at /proc/net/dev."""

    def kernel() -> dict[str, list[int]]:
        lines = [line.partition(":") for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
        return {name.strip(): [int(word) for word in rest.split()] for name, _, rest in lines}

    before = kernel()
    found = netns.interfaces(os.getpid())
    after = kernel()
    assert "lo" not in found
    if not found:
        pytest.skip("this machine has no interface without a kind")
    for name, counters in found.items():
        assert before[name][0] <= counters.rx_bytes <= after[name][0]
        assert before[name][1] <= counters.rx_packets <= after[name][1]
        assert before[name][8] <= counters.tx_bytes <= after[name][8]


def test_reading_another_namespace_leaves_this_process_in_its_own(containers: Containers):
    """setns changes a worker thread only, also when the process does not exist."""
    before = os.readlink("/proc/self/ns/net")
    docker_id = containers.start(network_mode="none")
    netns.interfaces(containers.client.inspect_container(docker_id)["State"]["Pid"])
    with pytest.raises(OSError):
        netns.interfaces(2**22 + 1)
    assert os.readlink("/proc/self/ns/net") == before
    assert netns._pool.apply(lambda: os.readlink("/proc/thread-self/ns/net")) == before


def test_docker_answers_ping_and_inspect(containers: Containers):
    """The small client speaks to the real daemon; a container that is gone is a temporary error."""
    daemon = Daemon()
    daemon.ping()
    docker_id = containers.start()
    assert daemon.state_of(docker_id).pid > 0
    with pytest.raises(Temporary, match="status 404"):
        daemon.state_of("no-such-container")
    with pytest.raises(Temporary, match="does not answer"):
        Daemon("unix:///nonexistent.sock").ping()
