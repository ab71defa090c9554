"""The command `ecs-init`: usage, exit statuses and texts of the reference (spec 09 §1, §17 cases 27 to 31)."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time

import pytest

from services.init import cli, initlog, launch
from services.init.errors import NetfilterError


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    """The log file of the tests is their own, and nothing reads the machine's configuration."""
    monkeypatch.setattr(initlog, "FILE", tmp_path / "ecs-init.log")
    monkeypatch.setenv("ECS_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("ECS_LOGLEVEL", raising=False)
    monkeypatch.setattr(sys, "argv", ["/usr/libexec/amazon-ecs-init"])


USAGE_LINES = {
    "  pre-start        Prepare the ECS Agent for starting",
    "  start            Start the ECS Agent and wait for it to stop",
    "  pre-stop         Stop the ECS Agent",
    "  stop             Stop the ECS Agent",
    "  post-stop        Cleanup procedure for the ECS Agent",
    "  reload-cache     Reload the cached image of the ECS Agent into Docker",
}


@pytest.mark.parametrize("arguments", [[], ["foo"], ["help"], ["restart"], ["-"]])
def test_no_or_an_unknown_action_prints_the_usage_and_ends_with_1(arguments, capsys):
    """At once, and on a host without Docker too (cases 27 to 29)."""
    assert cli.main(arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["Usage: /usr/libexec/amazon-ecs-init ACTION", "", " Available actions:"]
    assert set(lines[3:9]) == USAGE_LINES and lines[9:] == [""]


@pytest.mark.parametrize(("arguments", "status"), [
    (["--bogus"], 2), (["-version"], 2), (["--version"], 2), (["-h"], 0), (["--help"], 0), (["-help"], 0),
    (["--bogus", "version"], 2),
])  # fmt: skip
def test_options_count_before_the_action_only(arguments, status, capsys):
    """Go's flag package: undefined flags end with 2, help with 0, both on stderr (case 30)."""
    assert cli.main(arguments) == status
    printed = capsys.readouterr()
    assert printed.out == "" and "Usage of /usr/libexec/amazon-ecs-init:" in printed.err


@pytest.mark.parametrize("arguments", [["version"], ["version", "--bogus"], ["--", "version", "more"]])
def test_version_is_one_line(arguments, capsys):
    """Case 31; scripts cut the number out of it."""
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("ecs-init version 1.105.1 (") and out.endswith(")\n")


def test_reload_cache_succeeds_and_says_that_there_is_nothing_to_reload(capsys):
    """AMI scripts call it; there is no image in this edition (spec 09 §1 Map)."""
    assert cli.main(["reload-cache"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "" and "no effect" in printed.err


def test_stop_succeeds_when_nothing_runs(tmp_path):
    """systemd calls it after a start that failed (cases 39, 40)."""
    assert cli.main(["stop"]) == 0
    assert cli.main(["pre-stop"]) == 0


def test_a_failure_is_logged_and_ends_with_255(monkeypatch, tmp_path, capsys):
    """Every failure of a verb; the log line has the reference's form (§13)."""

    def fail(environ):
        raise NetfilterError('a "quoted" reason')

    monkeypatch.setitem(cli._VERBS, "stop", (fail, ""))
    assert cli.main(["stop"]) == 255
    line = (tmp_path / "ecs-init.log").read_text().splitlines()[-1]
    assert line.startswith("level=error time=") and line.endswith('Z msg="a \\"quoted\\" reason"')
    assert line in capsys.readouterr().err


def test_a_start_without_the_agent_s_program_says_what_to_do(monkeypatch, tmp_path):
    """255, so that systemd tries again."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["start"]) == 255
    assert "could not start Agent" in (tmp_path / "ecs-init.log").read_text()


def test_start_becomes_the_agent_and_stop_ends_it(tmp_path):
    """exec: the pid stays, so systemd's main process is the tree; its status is the agent's (5 is not restarted)."""
    agent = tmp_path / "ecs-agent"
    agent.write_text(
        f"#!{sys.executable}\nimport os, signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        f"open({str(tmp_path / 'up')!r}, 'w').write(os.environ['ECS_UPDATES_ENABLED'])\nsignal.pause()\n"
    )
    agent.chmod(0o755)
    code = (
        f"import sys; sys.executable = {str(tmp_path / 'python')!r}\n"
        "from services.init import initlog\n"
        f"initlog.FILE = {str(tmp_path / 'log')!r}\n"
        "from services.init.cli import main; sys.exit(main(['start']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=os.getcwd())
    try:
        end = time.monotonic() + 10
        while not (tmp_path / "up").exists() and time.monotonic() < end:
            time.sleep(0.02)
        pid_file = tmp_path / "run" / launch.PID_FILE
        assert json.loads(pid_file.read_text())["pid"] == process.pid
        assert stat.S_IMODE(pid_file.stat().st_mode) == 0o600
        time.sleep(0.1)  # the agent writes the file before it pauses
        assert cli.main(["stop"]) == 0
        assert process.wait(5) == 5
        assert (tmp_path / "up").read_text() == "false"
    finally:
        process.kill()


def test_stop_never_signals_a_process_that_took_the_number(tmp_path):
    """After a reboot another process has the pid; its start time tells."""
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / launch.PID_FILE).write_text(json.dumps({"pid": os.getpid(), "started": 1}))
    assert launch.stop_agent(directory) is False
