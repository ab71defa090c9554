"""Heartbeat and readiness files."""

from __future__ import annotations

import os
import time

from common import readiness
from common.tree.health import describe, report


def test_a_program_s_word_is_read_back_with_its_heartbeat(tmp_path):
    """The file is all that other programs know of it."""
    beat = readiness.Beat(str(tmp_path), "acs")
    beat.write(False, "not connected: the endpoint refuses")
    state = readiness.read(str(tmp_path), "acs")
    assert state is not None
    assert (state.ready, state.detail, state.pid) == (False, "not connected: the endpoint refuses", os.getpid())
    assert abs(state.at - time.time()) < 5
    beat.write(True, "")
    assert [s.ready for s in readiness.read_all(str(tmp_path))] == [True]


def test_the_file_keeps_its_size_so_that_a_full_disk_does_not_look_like_a_hang(tmp_path):
    """Overwriting in place needs no new block."""
    beat = readiness.Beat(str(tmp_path), "acs")
    sizes = set()
    for detail in ("", "x" * 5000, "é\u200b" * 900, '"' * 900, "short"):
        beat.write(True, detail)
        sizes.add(os.stat(beat.path).st_size)
        assert readiness.read(str(tmp_path), "acs") is not None
    assert sizes == {readiness.SIZE_BYTES}


def test_a_file_that_makes_no_sense_counts_as_none(tmp_path):
    """A half-written or foreign file must not break the health check."""
    (tmp_path / "acs.beat").write_text("{")
    assert readiness.read(str(tmp_path), "acs") is None
    assert readiness.read(str(tmp_path), "engine") is None
    assert readiness.last_beat(str(tmp_path), "engine") is None


def test_the_health_check_names_the_program_and_the_reason(tmp_path, monkeypatch, capsys):
    """Status 1 and a sentence per program that is needed and does not work."""
    monkeypatch.setenv("ECS_RUN_DIR", str(tmp_path))
    for name, ready, detail in (("acs", False, "down for 12 s: connection refused"), ("endpoint", True, "")):
        readiness.Beat(str(tmp_path), name).write(ready, detail)
    assert report() == 1
    said = capsys.readouterr().out
    assert "acs        not ready for 0 s: down for 12 s: connection refused" in said
    assert "engine     has not started" in said
    readiness.Beat(str(tmp_path), "acs").write(True, "")
    readiness.Beat(str(tmp_path), "engine").write(True, "")
    assert report() == 0


def test_a_silent_program_is_at_fault_whatever_it_said_last():
    """A hung event loop leaves its last word behind."""
    state = readiness.State("acs", True, "", 1, at=1000.0)
    assert describe(state, 1100.0) == (True, "has been silent for 100 s")
    assert describe(state, 1001.0) == (False, "ready")


def test_a_new_life_of_the_tree_forgets_what_was_said_in_the_old_one(tmp_path):
    """`init` said that the rules were there, and then the machine was switched off."""
    readiness.Beat(str(tmp_path), "init").write(True, "")
    (tmp_path / "redis.sock").write_text("")
    readiness.clear(str(tmp_path))
    assert readiness.read(str(tmp_path), "init") is None
    assert [p.name for p in tmp_path.iterdir()] == ["redis.sock"]


def test_a_program_is_silent_by_looks_and_not_by_the_clock(tmp_path):
    """A clock that is set, or a laptop that slept, must not end every program of the tree."""
    silence = readiness.Silence()
    assert [silence.looks("engine", 1000.0) for _ in range(4)] == [0, 1, 2, 3]
    assert [silence.looks("engine", beat) for beat in (4600.0, 4600.0, 1005.0)] == [0, 1, 0]
    assert [silence.looks("redis", None) for _ in range(3)] == [0, 0, 0]
    silence.looks("engine", 1005.0)
    silence.forget("engine")
    assert silence.looks("engine", 1005.0) == 0


def test_a_heartbeat_is_the_time_of_its_file(tmp_path):
    """None for a program that has none."""
    beat = readiness.Beat(str(tmp_path), "engine")
    beat.write(True, "")
    os.utime(tmp_path / "engine.beat", (5.0, 5.0))
    assert readiness.last_beat(str(tmp_path), "engine") == 5.0
    assert readiness.last_beat(str(tmp_path), "nobody") is None
