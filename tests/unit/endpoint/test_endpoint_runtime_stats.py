"""The log of runtime statistics: its lines, where they go, and when there is none."""

from __future__ import annotations

import gc
import re
from pathlib import Path

from common.config import load
from services.endpoint import runtimestats
from services.endpoint.runtimestats import RuntimeStats, of_config

LINE = re.compile(
    r"Time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ, ResidentMemory=[1-9]\d+, PeakResidentMemory=[1-9]\d+, "
    r"AllocatedBlocks=[1-9]\d+, GarbageCollectionCount=(\d+), GarbageCollectionTime=\d+\.\d{6}s, "
    r"GreenletCount=[1-9]\d*, ThreadCount=[1-9]\d*, UpTime=\d+\.\d{3}s, ReadStatsOverhead=\d+\.\d{6}s"
)


def test_a_line_at_the_start_and_one_every_two_minutes(monkeypatch, eventually):
    """The form of the reference with the names of Python's runtime; collections count from the line before."""
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


def test_the_switch_decides_and_the_file_is_the_configured_one(tmp_path: Path):
    """Off by default, as in the reference."""
    assert of_config(load({})) is None
    values = {"ECS_ENABLE_RUNTIME_STATS": True, "ECS_LOG_MAX_FILE_SIZE_MB": 5.0,
              "RuntimeStatsLogFile": str(tmp_path / "stats.log")}  # fmt: skip
    one = of_config(values)
    assert one is not None
    one.sinks[0]("a line\n")
    assert (tmp_path / "stats.log").read_text() == "a line\n"
