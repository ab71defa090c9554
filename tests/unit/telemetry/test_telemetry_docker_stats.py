"""The Docker stats object: from Docker, from cgroup files, over restarts, and as it is served (spec 07 §5, §7, §17)."""

import json
from pathlib import Path

import msgspec
import pytest
from msgspec import UNSET

from services.telemetry.core import cgroup1, procfs
from services.telemetry.core.dockerstats import (
    Block,
    BlockEntry,
    Cpu,
    CpuUsage,
    DockerStats,
    Interface,
    Memory,
    Rates,
    aggregate,
    from_docker,
    render,
)
from services.telemetry.core.numbers import parse_time
from services.telemetry.core.readings import Reader, Reading
from services.telemetry.core.samples import Counters, Queue, from_stats, memory_in_use, problem

EXAMPLE = json.loads((Path(__file__).parent / "data/worked_example.json").read_text())
MIB = 1 << 20
HOST = procfs.HostCpu(90002010000000, 2)


def example(index):
    return from_docker(json.dumps(EXAMPLE["samples"][index]).encode())


def test_the_three_samples_of_the_worked_example_have_its_derived_values():
    """Spec 07 §15: CPU, percentage, memory, storage and rates of three consecutive Docker objects."""
    queue = Queue()
    found = [queue.append(from_stats(example(i), 2, True)) for i in range(3)]
    assert [s.counters.cpu for s in found] == [2000000000, 2175061500, 2675388500]
    assert [s.cpu_percent for s in found[1:]] == [17.44999885559082, 49.601844787597656]
    assert [s.counters.memory for s in found] == [115343360, 118056960, 125000000]
    assert [(s.counters.read, s.counters.written) for s in found] == [
        (4194304, 1048576), (4194304, 1310720), (5242880, 1572864),
    ]  # fmt: skip
    assert [s.rx_rate for s in found[1:]] == [12305.4033203125, 495694.28125]
    assert [s.tx_rate for s in found[1:]] == [54146.76171875, 495694.28125]


def test_an_object_of_docker_comes_out_as_it_went_in():
    """Member order, omission and nulls are those of the Docker 25 object."""
    for sample in EXAMPLE["samples"]:
        text = json.dumps(sample, separators=(",", ":"))
        assert render(from_docker(text.encode())).decode() == text


def test_members_of_newer_engines_are_dropped_and_rates_are_appended():
    """os_type disappears; network_rate_stats is the last member."""
    sample = EXAMPLE["samples"][0] | {"os_type": "linux"}
    served = render(from_docker(json.dumps(sample).encode()), rates=Rates(1.5, 2.5)).decode()
    assert "os_type" not in served
    assert served.endswith('"network_rate_stats":{"rx_bytes_per_sec":1.5,"tx_bytes_per_sec":2.5}}')


def test_the_networks_of_an_awsvpc_task_replace_those_of_the_container():
    """Spec 07 §16.1."""
    networks = {"eth1": Interface(rx_bytes=5), "eth0": Interface(rx_bytes=7)}
    served = json.loads(render(example(0), networks))
    assert list(served["networks"]) == ["eth0", "eth1"] and served["networks"]["eth0"]["rx_bytes"] == 7


@pytest.mark.parametrize(
    "usage, stats, unified, mib",
    [
        (30000000, {"inactive_file": 45000000}, True, 28),
        (30 * MIB, {"cache": 20 * MIB, "rss": 10 * MIB}, False, 10),
        (30 * MIB, {"cache": 31 * MIB}, False, 30),
        (30 * MIB, {}, True, 30),
        (30 * MIB, {"inactive_file": 10 * MIB}, True, 20),
    ],
)
def test_the_memory_in_use_leaves_out_what_the_kernel_can_drop(usage, stats, unified, mib):
    """Cases 15 and 16."""
    assert memory_in_use(usage, stats, unified) >> 20 == mib


def test_block_operations_are_matched_whatever_their_case():
    """Case 17: only read and write count."""
    entries = (BlockEntry(8, 0, "READ", 500), BlockEntry(8, 0, "Write", 600), BlockEntry(8, 0, "Total", 1100))
    found = from_stats(DockerStats(blkio_stats=Block(entries)), 1, True)
    assert (found.read, found.written) == (500, 600)


def test_all_interfaces_are_added_up():
    """Case 18."""
    networks = {"eth0": Interface(1, 2, 3, 4, 5, 6, 7, 8), "eth1": Interface(10, 20, 30, 40, 50, 60, 70, 80)}
    assert from_stats(DockerStats(networks=networks), 1, True).net == (11, 22, 33, 44, 55, 66, 77, 88)
    assert from_stats(DockerStats(), 1, True).net is None


def test_an_empty_object_is_no_sample():
    """What the daemon emits for a stopped container, and v1 without CPU numbers (spec 07 §4.3)."""
    assert "not running" in problem(DockerStats(), True, 2)
    assert problem(example(0), True, 2) == ""
    assert problem(example(0), False, 2) == "no cpu core usage reported"


# -- restarts --------------------------------------------------------------------------------------


def test_counters_go_on_over_a_restart_and_gauges_do_not():
    """Case 50 and the table of spec 07 §7."""
    old = DockerStats(
        read="2026-06-01T10:00:00Z",
        cpu_stats=Cpu(CpuUsage(9, (4, 5), 3, 6)),
        memory_stats=Memory(usage=100, max_usage=500, failcnt=2),
        blkio_stats=Block((BlockEntry(8, 0, "Read", 5), BlockEntry(8, 16, "Read", 1))),
        networks={"eth0": Interface(rx_bytes=10), "eth1": Interface(rx_bytes=99)},
    )
    new = DockerStats(
        read="2026-06-01T10:00:05Z",
        cpu_stats=Cpu(CpuUsage(1, (1, 0, 2), 1, 0), 77, 2),
        memory_stats=Memory(usage=7, max_usage=60, failcnt=1, limit=1000),
        blkio_stats=Block((BlockEntry(8, 32, "Read", 2), BlockEntry(8, 0, "Read", 3)), io_queue_recursive=()),
        networks={"eth0": Interface(rx_bytes=3), "eth2": Interface(rx_bytes=4)},
    )
    found = aggregate(new, old, old)
    assert found.cpu_stats.cpu_usage == CpuUsage(10, (5, 5, 2), 4, 6)
    assert (found.cpu_stats.system_cpu_usage, found.cpu_stats.online_cpus) == (77, 2)
    assert found.memory_stats == Memory(usage=7, max_usage=500, failcnt=3, limit=1000)
    assert found.blkio_stats.io_service_bytes_recursive == (
        BlockEntry(8, 0, "Read", 8), BlockEntry(8, 16, "Read", 1), BlockEntry(8, 32, "Read", 2),
    )  # fmt: skip
    assert found.networks == {"eth0": Interface(rx_bytes=13), "eth2": Interface(rx_bytes=4)}
    assert (found.preread, found.precpu_stats) == (old.read, old.cpu_stats)


def test_what_is_saved_at_a_restart_can_be_read_again():
    """The document holds the JSON of the stats object."""
    assert from_docker(render(example(1))) == example(1)


def test_without_an_earlier_sample_the_predecessor_is_zero():
    """An agent restart lost the queue, not the saved usage."""
    found = aggregate(example(1), example(0), None)
    assert found.preread == "0001-01-01T00:00:00Z" and found.precpu_stats == Cpu()
    assert found.cpu_stats.cpu_usage.total_usage == 8350123000


# -- cgroup v2 -------------------------------------------------------------------------------------

CPU_STAT = b"usage_usec 4350123\nuser_usec 3262592\nsystem_usec 1087530\n"
MEMORY_STAT = b"anon 115959808\nfile 42991616\ninactive_anon 0\ninactive_file 41943040\nactive_file 1048576\nzswap 3\n"
IO_STAT = b"259:0 rbytes=4194304 wbytes=1310720 rios=10 wios=20 dbytes=0 dios=0\n"
NET_DEV = (
    b"Inter-|   Receive                                                |  Transmit\n"
    b" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls\n"
    b"    lo: 500 5 0 0 0 0 0 0 500 5 0 0 0 0 0 0\n"
    b"  eth0: 1012345 915 7 0 0 0 0 0 2054321 1530 9 0 0 0 0 0\n"
)
EXTRA2 = {"memory.max": b"536870912\n", "memory.events": b"oom 0\n", "pids.current": b"7\n", "pids.max": b"max\n"}
AT = parse_time("2026-06-01T10:00:01.503217845Z")
FILES2 = (CPU_STAT, b"160000000\n", MEMORY_STAT, IO_STAT)


def whole(unified: bool, files: tuple[bytes, ...], extra: dict[str, bytes], net_dev: bytes = b"", memory: int = 0):
    """The stats object of one reading."""
    return Reader(unified, 2, memory).stats(Reading(AT, files, net_dev, HOST), extra, "/name", "id")


def quick(unified: bool, files: tuple[bytes, ...], net_dev: bytes = b"") -> Counters:
    """The counters of one reading."""
    return Reader(unified, 2, 0).counters(Reading(AT, files, net_dev, HOST))


def test_cgroup_v2_files_give_the_object_of_the_daemon():
    """Spec 07 §17.6: the fixture is sample 2 of the worked example, read from files."""
    found = whole(True, FILES2, EXTRA2, NET_DEV, 8 << 30)
    served = json.loads(render(found))
    daemon = EXAMPLE["samples"][1]
    for name in ("read", "pids_stats", "blkio_stats", "cpu_stats", "networks", "num_procs", "storage_stats"):
        assert served[name] == daemon[name], name
    assert {k: v for k, v in served["memory_stats"].items() if k != "stats"} == {
        "usage": 160000000, "limit": 536870912,
    }  # fmt: skip
    assert served["memory_stats"]["stats"]["inactive_file"] == 41943040
    assert served["memory_stats"]["stats"]["pgfault"] == 0 and "zswap" not in served["memory_stats"]["stats"]
    assert list(served["memory_stats"]["stats"]) == sorted(served["memory_stats"]["stats"])


def test_the_quick_reading_of_v2_is_that_of_the_whole_object():
    """The two ways through the numbers must never differ."""
    assert quick(True, FILES2, NET_DEV) == from_stats(whole(True, FILES2, EXTRA2, NET_DEV), 2, True)
    assert quick(True, (b"", b"", b"", b"")) == Counters(AT)


def test_an_unlimited_cgroup_has_the_memory_of_the_machine_as_its_limit():
    """Above MemTotal the daemon shows MemTotal; `max` of pids is 2^64 - 1."""
    found = whole(True, FILES2, EXTRA2 | {"memory.max": b"max\n"}, b"", 8 << 30)
    assert found.memory_stats.limit == 8 << 30
    assert found.pids_stats.limit == (1 << 64) - 1
    assert found.networks is UNSET


# -- cgroup v1 -------------------------------------------------------------------------------------

MEMORY_STAT1 = (
    b"cache 20971520\nrss 10485760\nrss_huge 0\nshmem 0\nmapped_file 1\ndirty 0\npgfault 10\n"
    b"hierarchical_memory_limit 33554432\ntotal_cache 20971520\ntotal_rss 10485760\n"
)
THROTTLE = (
    b"259:0 Read 4096\n259:0 Write 8192\n259:0 Sync 1\n259:0 Async 2\n259:0 Discard 0\n259:0 Total 12288\nTotal 12288\n"
)
FILES1 = (b"123456789\n", b"31457280\n", MEMORY_STAT1, b"", THROTTLE)
EXTRA1 = dict.fromkeys(cgroup1.EXTRA_FILES, b"") | {
    "cpuacct/cpuacct.usage_percpu": b"100000000 23456789 \n",
    "cpuacct/cpuacct.stat": b"user 9\nsystem 3\n",
    "cpu/cpu.stat": b"nr_periods 4\nnr_throttled 2\nthrottled_time 55\n",
    "memory/memory.max_usage_in_bytes": b"31457999\n",
    "memory/memory.failcnt": b"0\n",
    "memory/memory.limit_in_bytes": b"33554432\n",
    "pids/pids.current": b"1\n",
    "pids/pids.max": b"max\n",
    cgroup1.THROTTLED: b"259:0 Read 1\n259:0 Total 1\nTotal 1\n",
}


def test_cgroup_v1_files_give_the_object_of_the_daemon():
    """Spec 07 §17.3: per-CPU usage, ticks, throttling files for block I/O, lists that are [] and not null."""
    served = json.loads(render(whole(False, FILES1, EXTRA1, NET_DEV, 8 << 30)))
    assert served["cpu_stats"]["cpu_usage"] == {
        "total_usage": 123456789, "percpu_usage": [100000000, 23456789], "usage_in_kernelmode": 30000000,
        "usage_in_usermode": 90000000,
    }  # fmt: skip
    assert served["cpu_stats"]["throttling_data"] == {"periods": 4, "throttled_periods": 2, "throttled_time": 55}
    assert served["pids_stats"] == {"current": 1}
    assert served["blkio_stats"]["io_service_bytes_recursive"][1] == {
        "major": 259, "minor": 0, "op": "Write", "value": 8192,
    }  # fmt: skip
    assert len(served["blkio_stats"]["io_service_bytes_recursive"]) == 6
    assert served["blkio_stats"]["io_queue_recursive"] == []
    assert served["memory_stats"]["max_usage"] == 31457999 and "failcnt" not in served["memory_stats"]
    assert served["networks"]["eth0"]["rx_errors"] == 0


def test_the_quick_reading_of_v1_is_that_of_the_whole_object():
    """With the throttling files, and with those of the proportional scheduler."""
    proportional = (*FILES1[:3], b"8:0 Read 77\n8:0 Write 88\n8:0 Total 165\nTotal 165\n", THROTTLE)
    for files in (FILES1, proportional):
        assert quick(False, files, NET_DEV) == from_stats(whole(False, files, EXTRA1, NET_DEV), 2, False)
    assert quick(False, FILES1).memory == 10 * MIB
    assert quick(False, (b"",) * 5) == Counters(AT)


@pytest.mark.parametrize(
    ("io_stat", "entries", "counted"),
    [
        (b"", None, (0, 0)),
        (b"259:0 \n", None, (0, 0)),
        (b"8:16 cost.usage=5\n", [(8, 16, "read", 0), (8, 16, "write", 0)], (0, 0)),
        (b"8:0 rios=1 wbytes=7 rbytes=3 dbytes=0\n9:1 rbytes=1 wbytes=2\n",
         [(8, 0, "read", 3), (8, 0, "write", 7), (9, 1, "read", 1), (9, 1, "write", 2)], (4, 9)),
    ],
)  # fmt: skip
def test_every_device_with_figures_has_two_entries(io_stat, entries, counted):
    """Kernels differ in what io.stat says of a device, and in the order; without any device the list is null."""
    files = (*FILES2[:3], io_stat)
    found = whole(True, files, EXTRA2).blkio_stats.io_service_bytes_recursive
    assert found == (None if entries is None else tuple(BlockEntry(*entry) for entry in entries))
    counters = quick(True, files)
    assert (counters.read, counters.written) == counted


# -- doing it only once ----------------------------------------------------------------------------


def test_other_files_are_read_when_the_container_did_something_and_every_ten_seconds():
    """A container that sleeps costs nothing more; what changes from outside is seen after ten seconds at the latest."""
    reader, reads = Reader(False, 2, 0), []

    def at(second: int, cpu: bytes = b"1\n") -> bool:
        before = len(reads)
        reading = Reading(AT + second * 10**9, (cpu, *FILES1[1:]), NET_DEV, HOST)
        reader.extra(reading, lambda: reads.append(second) or EXTRA1)
        return len(reads) > before

    assert [at(second) for second in range(13)] == [True, True] + [False] * 9 + [True, False]
    assert at(13, b"2\n") and at(14, b"2\n") and not at(15, b"2\n")
    assert at(-3600, b"2\n"), "the clock was set back"


def test_numbers_are_worked_out_anew_when_their_text_changes():
    """The same texts give the same objects; another text is never answered with the old numbers."""
    reader = Reader(False, 2, 0)
    first = reader.stats(Reading(AT, FILES1, NET_DEV, HOST), EXTRA1, "/n", "i")
    again = reader.stats(Reading(AT + 1, FILES1, NET_DEV, HOST), EXTRA1, "/n", "i")
    assert again.memory_stats is first.memory_stats and again.read != first.read
    changed = (b"5\n", b"99999999\n", MEMORY_STAT1.replace(b"cache 2", b"cache 3"), b"", THROTTLE.replace(b"9", b"8"))
    extra = EXTRA1 | {"pids/pids.current": b"2\n"}
    net_dev = NET_DEV.replace(b"1012345", b"2012345")
    third = Reading(AT + 2, changed, net_dev, HOST)
    assert reader.stats(third, extra, "/n", "i") == Reader(False, 2, 0).stats(third, extra, "/n", "i")
    assert reader.counters(third) == Reader(False, 2, 0).counters(third) == from_stats(
        reader.stats(third, extra, "/n", "i"), 2, False
    )  # fmt: skip


def test_only_interfaces_that_docker_made_count():
    """A tunnel or the loopback device inside a container is not in Docker's numbers."""
    text = NET_DEV + b"  tun0: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n eth1:5 1 0 2 0 0 0 0 6 1 0 3 0 0 0 0\n"
    assert procfs.network(text) == (1012350, 916, 0, 2, 2054327, 1531, 0, 3)
    assert sorted(procfs.interfaces(text)) == ["eth0", "eth1"]
    assert procfs.network(b"Inter\n face\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n") is None


def test_the_time_of_the_host_is_the_sum_of_seven_columns():
    """guest time is part of user time and must not be counted twice (proc(5))."""
    text = b"cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 1 1 1\ncpu1 1 1 1 1\nintr 5\n"
    assert procfs.host_cpu(text) == procfs.HostCpu(28 * 10_000_000, 2)
    assert procfs.total_memory(b"MemTotal:       16384 kB\nMemFree: 1 kB\n") == 16 * MIB


def test_garbage_from_docker_is_refused():
    """The fallback must not take an error text for numbers."""
    with pytest.raises(msgspec.DecodeError):
        from_docker(b'{"read": 5}')
