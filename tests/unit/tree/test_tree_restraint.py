"""How long a program that ended waits, and what is kept of its last words (spec 09 §9.1, §16.2)."""

from __future__ import annotations

import os

import pytest

from common.tree import redis, run
from common.tree.restraint import STEADY_SECONDS, Restraint
from common.tree.tail import last_lines


def test_failures_wait_from_half_a_second_to_fifteen():
    """Case 34, without the jitter."""
    restraint = Restraint(lambda low, high: low)
    assert [restraint.delay(1.0) for _ in range(10)] == [0.5, 1, 2, 4, 8, 15, 15, 15, 15, 15]


def test_the_jitter_adds_at_most_a_tenth():
    """The longest delay is 16.5 s."""
    restraint = Restraint(lambda low, high: high)
    assert restraint.delay(0) == pytest.approx(0.55)
    assert max(restraint.delay(0) for _ in range(9)) == pytest.approx(16.5)


def test_a_long_good_run_begins_anew():
    """The reference waits 15 s for a failure months later."""
    restraint = Restraint(lambda low, high: low)
    for _ in range(6):
        restraint.delay(1.0)
    assert restraint.delay(STEADY_SECONDS) == 0.5
    assert restraint.delay(STEADY_SECONDS - 1) == 1
    restraint.forget()
    assert restraint.delay(1.0) == 0.5


def test_the_last_lines_come_from_both_files(tmp_path):
    """supervisord renames the file at its limit; a crash right after it must not lose the lines before."""
    path = tmp_path / "engine.out"
    (tmp_path / "engine.out.1").write_text("".join(f"old {n}\n" for n in range(300)))
    path.write_text("new 1\nnew 2\n")
    lines = last_lines(str(path)).split("\n")
    assert len(lines) == 200 and lines[-2:] == ["new 1", "new 2"] and lines[0] == "old 102"
    assert last_lines(str(tmp_path / "none")) == "" and last_lines(None) == ""


def test_the_store_s_program_is_found_under_each_of_its_names(tmp_path, monkeypatch):
    """Debian, Amazon Linux 2023 and RHEL 10 call it differently; the package's own link comes first."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.prefix", str(tmp_path / "venv"))
    assert redis.find_server() is None
    for path in ("valkey-server", "redis6-server", "redis-server", "bin/redis-server"):
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
        assert redis.find_server() == str(file)


def test_a_tree_that_cannot_start_ends_with_1_by_hand_and_255_for_ecs_init(tmp_path, monkeypatch, capfd):
    """255 is ecs-init's status for every failure, and its log has the reason (spec 09 §1.1)."""
    reason = run.CannotStart("no room")
    assert run.cannot_start({}, reason) == 1
    monkeypatch.setenv(run.INIT_LOG, str(tmp_path / "log"))
    assert run.cannot_start({run.INIT_LOG: "x"}, reason) == 255
    assert (tmp_path / "log").read_text().endswith('msg="could not start Agent: no room"\n')
    assert 'msg="no room" module=run.py' in capfd.readouterr().out


def test_a_line_for_the_log_of_ecs_init_leaves_nothing_open(tmp_path, monkeypatch, capfd):
    """A tree that logs for years must not run out of descriptors; a log that cannot be written stops nothing."""
    monkeypatch.setenv(run.INIT_LOG, str(tmp_path / "log"))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run.say("info", "said")
    assert len(os.listdir("/proc/self/fd")) == before
    assert (tmp_path / "log").read_text().count('msg="said"\n') == 5
    monkeypatch.setenv(run.INIT_LOG, "/proc/no/log")
    run.say("info", "said")
    assert capfd.readouterr().out.count('msg="said" module=run.py') == 6


def test_local_mode_asks_no_metadata_service_and_signs_with_something():
    """Outside EC2 nobody answers there, which costs 20 s at every start; any signature will do for the plane."""
    settings = run.local_mode({"ECS_LOCAL_PORT": 51670}, {"AWS_REGION": "eu-west-1"})
    assert settings["AWS_EC2_METADATA_DISABLED"] == "true"
    assert settings["ECS_BACKEND_HOST"] == "http://127.0.0.1:51670" and settings["AWS_DEFAULT_REGION"] == "eu-west-1"
    assert settings["AWS_ACCESS_KEY_ID"] == "local"
    assert "AWS_ACCESS_KEY_ID" not in run.local_mode({"ECS_LOCAL_PORT": 1}, {"AWS_ACCESS_KEY_ID": "mine"})


def test_the_store_gets_no_password_of_the_configuration():
    """spec 10 §18 trap 15: ecs.config puts passwords of registries into the environment of everything."""
    ours = {"PATH": "/bin", "LC_ALL": "C", "ECS_ENGINE_AUTH_DATA": "secret", "ECS_CLUSTER": "x"}
    assert redis.environment(ours) == {"PATH": "/bin", "LC_ALL": "C", **redis.ALLOCATOR}
