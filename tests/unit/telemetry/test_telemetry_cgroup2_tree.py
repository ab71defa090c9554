"""A host with cgroup v2 as a tree of files: containers are found, read and noticed when they go (spec 07 §17.1, §17.2).

The files have the lines that Linux 6.1 writes, in its order, also those that Docker does not show.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from common.memory import MemoryStore
from common.model.status import ContainerStatus, TaskStatus
from common.model.task import Container, RestartPolicy, Task
from services.telemetry.core import cgroup2
from services.telemetry.core.book import Book
from services.telemetry.core.dockerstats import DockerStats
from services.telemetry.core.readings import Reader, Reading
from services.telemetry.core.samples import from_stats
from services.telemetry.dockerd import Daemon
from services.telemetry.files import Files, Gone, Host, directories, find_process, this_host
from services.telemetry.restarts import Restarts
from services.telemetry.source import Source

ID, TASK, PID, HOST_PID = "4f7d0c3b" * 8, "fedcba9876543210fedcba9876543210", 4242, 1
PLACES = {
    "systemd": f"ecstasks.slice/ecstasks-{TASK}.slice/docker-{ID}.scope",
    "cgroupfs": f"ecstasks.slice/ecstasks-{TASK}.slice/{ID}",
    "systemd, no cgroup of the task": f"system.slice/docker-{ID}.scope",
    "cgroupfs, no cgroup of the task": f"docker/{ID}",
}
MEMORY_STAT = {
    "anon": 115959808, "file": 42991616, "kernel": 3145728, "kernel_stack": 131072, "pagetables": 524288,
    "sec_pagetables": 0, "percpu": 1152, "sock": 4096, "vmalloc": 0, "shmem": 0, "zswap": 0, "zswapped": 0,
    "file_mapped": 20971520, "file_dirty": 4096, "file_writeback": 0, "swapcached": 0, "anon_thp": 2097152,
    "file_thp": 0, "shmem_thp": 0, "inactive_anon": 114900992, "active_anon": 1058816, "inactive_file": 41943040,
    "active_file": 1048576, "unevictable": 0, "slab_reclaimable": 1500000, "slab_unreclaimable": 700000,
    "slab": 2200000, "workingset_refault_anon": 0, "workingset_refault_file": 12, "workingset_activate_anon": 0,
    "workingset_activate_file": 3, "workingset_restore_anon": 0, "workingset_restore_file": 0,
    "workingset_nodereclaim": 0, "pgscan": 40, "pgsteal": 38, "pgscan_kswapd": 40, "pgscan_direct": 0,
    "pgsteal_kswapd": 38, "pgsteal_direct": 0, "pgfault": 51234, "pgmajfault": 7, "pgrefill": 9, "pgactivate": 256,
    "pgdeactivate": 0, "pglazyfree": 0, "pglazyfreed": 0, "zswpin": 0, "zswpout": 0, "thp_fault_alloc": 1,
    "thp_collapse_alloc": 0,
}  # fmt: skip
FILES = {
    "cpu.stat": "usage_usec 4350123\nuser_usec 3262592\nsystem_usec 1087530\ncore_sched.force_idle_usec 0\n"
                "nr_periods 31\nnr_throttled 2\nthrottled_usec 1500\nnr_bursts 0\nburst_usec 0\n",
    "memory.current": "160000000\n",
    "memory.max": "536870912\n",
    "memory.stat": "".join(f"{name} {value}\n" for name, value in MEMORY_STAT.items()),
    "memory.events": "low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\noom_group_kill 0\n",
    "io.stat": "259:0 rbytes=4194304 wbytes=1310720 rios=10 wios=20 dbytes=0 dios=0\n253:1 \n",
    "pids.current": "7\n",
    "pids.max": "max\n",
    "cgroup.procs": f"{PID + 1}\n{PID}\n",
}  # fmt: skip
NET_DEV = (
    "Inter-|   Receive                                                |  Transmit\n"
    " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls\n"
    "    lo: 500 5 0 0 0 0 0 0 500 5 0 0 0 0 0 0\n"
    "  eth0: 1012345 915 7 0 0 0 0 0 2054321 1530 9 0 0 0 0 0\n"
)
Make = Callable[..., Host]


def write(path: Path, text: str) -> None:
    """With the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A host with the container in one of the places."""

    def build(place: str, namespace: str = "container", **files: str) -> Host:
        root, proc = tmp_path / "cgroup", tmp_path / "proc"
        write(root / "cgroup.controllers", "cpuset cpu io memory hugetlb pids\n")
        for name, text in (FILES | files).items():
            write(root / place / name, text)
        for pid, started in ((PID, 100), (PID + 1, 200)):
            write(proc / str(pid) / "cgroup", f"0::/{place}\n")
            write(proc / str(pid) / "stat", f"{pid} (a) b) S " + " ".join(["0"] * 18) + f" {started} 0\n")
            write(proc / str(pid) / "net/dev", NET_DEV)
        write(proc / "self/ns/net", "")
        for pid in (PID, PID + 1):
            (proc / str(pid) / "ns").mkdir(exist_ok=True)
            if namespace == "container":
                write(proc / str(pid) / "ns/net", "")
            else:
                os.link(proc / "self/ns/net", proc / str(pid) / "ns/net")
        write(proc / "meminfo", "MemTotal:       8000000 kB\nMemFree: 1 kB\n")
        write(proc / "stat", "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 1\ncpu1 1 1\nintr 5\n")
        return this_host(str(root), str(proc))

    return build


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_container_is_found_in_the_places_of_both_drivers(make: Make, place: str):
    """By the id alone; its oldest process is its own."""
    host = make(place)
    assert host.unified and find_process(host, ID, TASK) == PID
    assert find_process(host, "another", TASK) is None


@pytest.mark.parametrize("below", ["init", "init.scope", "docker/" + "5e" * 32])
def test_a_container_that_moves_its_processes_into_cgroups_of_its_own_is_read_whole(make: Make, below: str):
    """Docker in a container, or systemd: its own cgroup has no process and the figures of all of them."""
    place = PLACES["systemd"]
    host = make(place)
    write(Path(host.root) / place / "cgroup.procs", "")
    write(Path(host.root) / place / below / "cgroup.procs", f"{PID + 1}\n{PID}\n")
    write(Path(host.root) / place / below / "memory.current", "1\n")
    write(Path(host.proc) / str(PID) / "cgroup", f"0::/{place}/{below}\n")
    assert find_process(host, ID, TASK) == PID
    files = Files(host, PID, ID, True)
    assert files.read() == tuple(FILES[name].encode() for name in cgroup2.FILES)
    files.close()


def test_on_v1_too_the_whole_container_is_read(make: Make):
    """By controller, each with the path that it has."""
    host = make(PLACES["systemd"])._replace(unified=False)
    write(Path(host.proc) / str(PID) / "cgroup", f"5:memory:/docker/{ID}/init\n4:cpu,cpuacct:/docker/{ID}\n1:pids:/x\n")
    root = f"{host.root}/"
    assert directories(host, PID, ID) == {
        "memory": f"{root}memory/docker/{ID}", "cpu": f"{root}cpu/docker/{ID}", "cpuacct": f"{root}cpuacct/docker/{ID}",
        "pids": f"{root}pids/x",
    }  # fmt: skip


def test_a_restart_before_the_first_reading_keeps_what_an_earlier_run_saved(make: Make):
    """The total goes on from it (spec 07 §7: unchanged if there is none)."""
    place = PLACES["systemd"]
    host, restarts, saved = make(place), Restarts(MemoryStore()), DockerStats(id=ID, num_procs=3)
    restarts.save(ID, 5, saved)
    policy = RestartPolicy(enabled=True)
    one = Container(name="c", docker_id=ID, known=ContainerStatus.RUNNING, restart_policy=policy)
    book = Book()
    book.apply(Task(arn=f"a/{TASK}", family="f", containers=(one,), known=TaskStatus.RUNNING))
    ((entry, watched),) = book
    source = Source(host, Daemon(), restarts, entry, watched, 0.0)
    assert source._find() and watched.before is not None
    source._lose()
    kept = Path(host.root) / place
    kept.rename(kept.with_suffix(".old"))
    make(place)
    assert source._find()
    source.close()
    assert watched.restart_seen_at > 5 and watched.before is not None and watched.before.num_procs == 3
    assert restarts.get(ID)[1] is not None


def test_the_files_give_the_numbers_of_the_worked_example(make: Make):
    """Spec 07 §17.6, with the lines that Docker leaves out and those that kernels before 6 do not have."""
    host = make(PLACES["systemd"])
    files = Files(host, PID, ID, True)
    reading = Reading(10**18, files.read(), files.read_network(), host.cpu())
    reader = Reader(True, 2, host.memory)
    stats = reader.stats(reading, files.read_extra(), "/name", "id")
    assert reader.counters(reading) == from_stats(stats, 2, True)
    counters = reader.counters(reading)
    assert counters[1:6] == (2175061500, 118056960, 4194304, 1310720, (1012345, 915, 0, 0, 2054321, 1530, 0, 0))
    memory, usage, throttling = stats.memory_stats, stats.cpu_stats.cpu_usage, stats.cpu_stats.throttling_data
    assert (memory.usage, memory.limit, memory.failcnt) == (160000000, 536870912, 1)
    assert set(memory.stats or ()) < set(MEMORY_STAT) | {"workingset_refault", "workingset_activate"}
    assert {name: memory.stats[name] for name in memory.stats if name in MEMORY_STAT} == {
        name: value for name, value in MEMORY_STAT.items() if name in memory.stats
    }
    assert memory.stats["workingset_refault"] == 0, "Linux 5.9 split it; Docker shows the old name"
    assert (usage.usage_in_kernelmode, usage.usage_in_usermode) == (1087530000, 3262592000)
    assert (throttling.periods, throttling.throttled_periods, throttling.throttled_time) == (31, 2, 1500000)
    assert (stats.pids_stats.current, stats.pids_stats.limit) == (7, (1 << 64) - 1)
    assert [(e.op, e.value) for e in stats.blkio_stats.io_service_bytes_recursive or ()] == [
        ("read", 4194304), ("write", 1310720),
    ]  # fmt: skip
    files.close()


def test_the_network_of_the_host_is_not_read(make: Make):
    """The namespace of the process is our own: its table would show the host's interfaces."""
    files = Files(make(PLACES["cgroupfs"], "host"), PID, ID, True)
    assert files.read_network() == b""
    files.close()


def test_a_cgroup_without_some_controllers_counts_as_zero(make: Make):
    """On a host that delegates only cpu and pids."""
    host = make(PLACES["cgroupfs"])
    for name in ("memory.current", "memory.stat", "memory.max", "memory.events", "io.stat"):
        (Path(host.root) / PLACES["cgroupfs"] / name).unlink()
    files = Files(host, PID, ID, False)
    reading = Reading(1, files.read(), files.read_network(), host.cpu())
    assert Reader(True, 2, 0).counters(reading)[1:] == (2175061500, 0, 0, 0, None, None)
    files.close()


def test_a_process_that_went_is_noticed_even_if_its_cgroup_stays(make: Make):
    """A cgroup that could not be removed, and is used again, must not hide that the process is another one."""
    host = make(PLACES["cgroupfs"])
    files = Files(host, PID, ID, True)
    files.check()
    (Path(host.proc) / str(PID) / "ns/net").unlink()
    with pytest.raises(Gone):
        files.check()
    files.close()
    with pytest.raises(Gone):
        Files(host, PID + 7, ID, True)


def test_long_tables_are_read_to_their_end(make: Make):
    """The kernel answers a read of a long table in pieces; net/dev of a container with very many interfaces is one."""
    host = make(PLACES["cgroupfs"])
    table = NET_DEV + "".join(f"  veth{n}: {n} 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n" for n in range(200))
    write(Path(host.proc) / str(PID) / "net/dev", table)
    files = Files(host, PID, ID, True)
    assert files.read_network() == table.encode()
    files.close()
