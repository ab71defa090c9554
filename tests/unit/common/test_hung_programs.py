"""Which programs of the tree the supervisor takes for hung (common/tree/supervision.py)."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from supervisor.states import ProcessStates, SupervisorStates

from common.process_names import BEAT_LIMIT_SECONDS
from common.readiness import Beat, Silence
from common.tree.supervision import TICK_SECONDS, Tree

LIMIT = int(BEAT_LIMIT_SECONDS / TICK_SECONDS)


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The signals that were sent: (pid, number)."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    return sent


def tree_of(*names: str) -> Any:
    """A tree whose programs run, without any processes."""
    tree: Any = object.__new__(Tree)
    tree.options, tree._silence = SimpleNamespace(mood=SupervisorStates.RUNNING), Silence()
    programs = [
        SimpleNamespace(config=SimpleNamespace(name=name), pid=100 + at, get_state=lambda: ProcessStates.RUNNING)
        for at, name in enumerate(names)
    ]
    tree.children = lambda: programs
    return tree


def test_only_a_program_whose_heartbeat_stands_still_is_ended(tmp_path: Path, monkeypatch: Any, killed: Any) -> None:
    """Once per silence, by SIGABRT, whose handler prints the stacks; a store has no heartbeat and is left alone."""
    monkeypatch.setenv("ECS_RUN_DIR", str(tmp_path))
    tree = tree_of("engine", "acs", "redis-durable")
    Beat(str(tmp_path), "engine").write(True, "")
    acs = Beat(str(tmp_path), "acs")
    for tick in range(LIMIT + 5):
        acs.write(True, "")
        os.utime(tmp_path / "acs.beat", (tick, tick))
        assert killed == ([] if tick <= LIMIT + 1 else [(100, signal.SIGABRT)])
        tree.on_tick(None)


def test_a_step_of_the_clock_ends_nobody(tmp_path: Path, monkeypatch: Any, killed: Any) -> None:
    """The heartbeat of before the step looks an hour old; the next one is on its way."""
    monkeypatch.setenv("ECS_RUN_DIR", str(tmp_path))
    tree = tree_of("engine")
    Beat(str(tmp_path), "engine").write(True, "")
    os.utime(tmp_path / "engine.beat", (5.0, 5.0))
    for _ in range(3):
        tree.on_tick(None)
    assert killed == []
