"""The log of runtime statistics: its lines, where they go, and when there is none."""

from __future__ import annotations

import gc
import re
from pathlib import Path

from common.config import load
from services.endpoint import runtimestats
from services.endpoint.runtimestats import RuntimeStats, of_config

DURATION = r"(?:\d+h)?(?:\d+m)?\d+(?:\.\d+)?(?:s|ms|µs|ns)"
LINE = re.compile(
    r"Time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ, FreesCount=\d+, HeapMemoryAlloc=[1-9]\d+, HeapMemoryInUse=[1-9]\d+, "
    r"HeapMemoryIdle=\d+, HeapMemoryReleased=\d+, MallocCount=\d+, StackMemoryInUse=[1-9]\d+, "
    rf"GarbageCollectionCount=(\d+), GarbageCollectionTime={DURATION}, GCCPUFraction=0\.\d{{6}}, "
    rf"GoroutineCount=[1-9]\d*, UpTime={DURATION}, ReadMemStatsOverhead={DURATION}"
)


def test_a_line_at_the_start_and_one_every_two_minutes(monkeypatch, eventually):
    """Names and order are the reference's (spec 01 §9.5); collections count from the line before."""
    monkeypatch.setattr(runtimestats, "EVERY_SECONDS", 0.01)
    lines: list[str] = []
    one = RuntimeStats([lines.append])
    one.start()
    eventually(lambda: lines)
    gc.collect()
    eventually(lambda: any(int(LINE.fullmatch(line[:-1]).group(1)) >= 1 for line in list(lines)))
    one.stop()
    assert all(LINE.fullmatch(line[:-1]) and line.endswith("\n") for line in lines)
    assert not one.alive() and one._collected not in gc.callbacks


def test_a_disk_that_refuses_costs_the_line_only(monkeypatch, eventually):
    """Standard output has it."""
    lines: list[str] = []

    def full(_text: str) -> None:
        raise OSError(28, "No space left on device")

    one = RuntimeStats([full, lines.append])
    one.start()
    eventually(lambda: lines)
    assert one.alive()
    one.stop()


def test_sizes_are_those_of_the_kernel_s_page():
    """Kilobytes become bytes; what the kernel does not tell is 0."""
    found = runtimestats.memory_bytes("Name:\tpython\nVmData:\t  200 kB\nRssAnon:\t 50 kB\n")
    assert found == {"VmData": 204800, "VmStk": 0, "RssAnon": 51200}


def test_the_size_limit_is_the_given_one_and_the_container_s_path_is_one_of_the_host(monkeypatch):
    """Half a megabyte is not none; `/log` is where the reference's container had the host's directory."""
    made: list[tuple[str, int]] = []

    class File:
        def __init__(self, path: str, rollover: str, max_bytes: int, keep: int) -> None:
            made.append((path, max_bytes))

        def write(self, line: str) -> None:
            """Nowhere."""

    monkeypatch.setattr(runtimestats, "RollingFile", File)
    monkeypatch.setattr(runtimestats.os.path, "isdir", lambda path: False)
    config = {"ECS_ENABLE_RUNTIME_STATS": True, "ECS_LOG_MAX_FILE_SIZE_MB": 0.5,
              "RuntimeStatsLogFile": load({})["RuntimeStatsLogFile"]}  # fmt: skip
    assert of_config(config) is not None
    assert made == [("/var/log/ecs/agent-runtime-stats.log", 500_000)]


def test_the_switch_decides_and_the_file_is_the_configured_one(tmp_path: Path):
    """Off by default, as in the reference."""
    assert of_config(load({})) is None
    values = {"ECS_ENABLE_RUNTIME_STATS": True, "ECS_LOG_MAX_FILE_SIZE_MB": 5.0,
              "RuntimeStatsLogFile": str(tmp_path / "stats.log")}  # fmt: skip
    one = of_config(values)
    assert one is not None
    one.sinks[0]("a line\n")
    assert (tmp_path / "stats.log").read_text() == "a line\n"
