"""The data directory fills up while tasks run, and is freed again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.system.conftest import container, containers_of, wait_connected

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]


@pytest.fixture
def data_with_small_store(tmp_path):
    """A data directory whose store, `redis/`, is a file system of a few megabytes."""
    store = tmp_path / "data" / "redis"
    store.mkdir(parents=True, mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(store)], check=True)
    yield tmp_path / "data"
    subprocess.run(["umount", "-l", str(store)], check=True)


def fill(path: Path) -> Path:
    filler = path / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return filler  # full, as wanted


def test_a_disk_that_fills_in_mid_run_stops_no_container_and_loses_nothing_acknowledged(
    make_agent, data_with_small_store, engine, eventually
):
    """While nothing can be saved nothing is acknowledged; with space again the waiting task runs, once."""
    agent = make_agent(ECS_DATADIR=str(data_with_small_store))
    wait_connected(agent, eventually)
    (standing,) = agent.run(container(), family="standing")
    eventually(lambda: agent.statuses([standing]) == {"RUNNING"}, seconds=30)
    filler = fill(data_with_small_store / "redis")
    (late,) = agent.run(container(), family="late")
    eventually(lambda: "No space left on device" in agent.text(), seconds=30)
    assert agent.statuses([late]) == {"PENDING"}
    filler.unlink()
    eventually(lambda: agent.connected() and agent.statuses([late]) == {"RUNNING"}, seconds=60, pause=0.2)
    assert agent.statuses([standing]) == {"RUNNING"}
    assert [len(containers_of(engine, arn)) for arn in (standing, late)] == [1, 1]
    assert "Traceback" not in agent.text()
