"""Files of a real cgroup v2 and what Docker said of the container at that moment: we say the same (spec 07 §17.2).

Taken by tests/vm/capture.py on Linux 6.1 with Docker 20.10: containers that had written to a disk, talked over their
network and, with limits, been throttled and short of memory. Paused, so that both are of one moment.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.telemetry.core.dockerstats import from_docker, render
from services.telemetry.core.readings import Reader, Reading
from services.telemetry.core.samples import from_stats
from services.telemetry.files import Files, find_process, this_host

DATA = Path(__file__).parent / "data/cgroup2"
PID = 4242
MOVING = ("read", "preread", "precpu_stats")  # times, and what was a second before


def place(tmp_path: Path, taken: Path) -> str:
    """Lay the files out as the machine had them; the id of the container."""
    root, proc = tmp_path / "cgroup", tmp_path / "proc"
    path = (taken / "proc.cgroup").read_text().strip().removeprefix("0::/")
    (root / path).mkdir(parents=True)
    (root / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
    (root / path / "cgroup.procs").write_text(f"{PID}\n")
    for owner in (str(PID), "self"):
        (proc / owner / "ns").mkdir(parents=True)
        (proc / owner / "ns/net").write_text("")
        (proc / owner / "net").mkdir()
    for file in taken.iterdir():
        if file.name.startswith("proc."):
            name = file.name.removeprefix("proc.").replace(".", "/")
            target = proc / (name if name in ("stat", "meminfo") else f"{PID}/{name}")
        else:
            target = root / path / file.name
        target.write_text(file.read_text())
    return Path(path).name


def still(stats: dict[str, Any]) -> dict[str, Any]:
    """Without times, and the CPU time of the machine, which went on between both looks."""
    kept = {name: value for name, value in stats.items() if name not in MOVING}
    kept["cpu_stats"] = {name: v for name, v in kept["cpu_stats"].items() if name != "system_cpu_usage"}
    return kept


@pytest.mark.parametrize("name", ["limited", "free"])
def test_the_files_of_a_loaded_container_give_the_figures_of_docker(tmp_path: Path, name: str):
    """To the digit, and in Docker's order; also what goes to the backend."""
    docker_id = place(tmp_path, DATA / name)
    docker = from_docker((DATA / name / "docker-stats.json").read_bytes())
    host = this_host(str(tmp_path / "cgroup"), str(tmp_path / "proc"))
    assert host.unified and find_process(host, docker_id, "no-task") == PID
    files = Files(host, PID, docker_id, True)
    at = 1_795_319_000_000_000_000
    reading = Reading(at, files.read(), files.read_network(), host.cpu())
    reader = Reader(True, 1, host.memory)
    stats = reader.stats(reading, reader.extra(reading, files.read_extra), *(docker.name, docker.id))
    files.close()
    ours, theirs = json.loads(render(stats)), json.loads(render(docker))
    assert json.dumps(still(ours)) == json.dumps(still(theirs))
    assert 0 <= theirs["cpu_stats"]["system_cpu_usage"] - ours["cpu_stats"]["system_cpu_usage"] < 60 * 10**9
    assert reader.counters(reading) == from_stats(docker, 1, True)._replace(at=at)


def test_the_taken_files_are_of_containers_that_did_something():
    """Otherwise zeros would be compared with zeros."""
    stats = json.loads((DATA / "limited/docker-stats.json").read_text())
    block = {entry["op"]: entry["value"] for entry in stats["blkio_stats"]["io_service_bytes_recursive"]}
    assert block["write"] >= 24 << 20 and block["read"] > 0
    assert stats["cpu_stats"]["throttling_data"]["throttled_periods"] > 0
    assert stats["cpu_stats"]["cpu_usage"]["total_usage"] > 10**9
    assert stats["memory_stats"]["stats"]["pgscan"] > 0 and stats["memory_stats"]["limit"] == 32 << 20
    assert stats["pids_stats"] == {"current": 1, "limit": 50}
    assert min(stats["networks"]["eth0"][f"{way}_bytes"] for way in ("rx", "tx")) > 0
