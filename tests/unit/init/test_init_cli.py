"""The command `ecs-init`: usage, exit statuses and texts of the reference (spec 09 §1, §17 cases 27 to 31)."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time

import pytest

from common.config import service_env, service_host
from services.init import cli, gpu, initlog, launch
from services.init.errors import NetfilterError
from services.init.manager import Manager
from services.init.netfilter import Netfilter


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


def test_a_start_that_cannot_begin_says_why(monkeypatch, tmp_path):
    """255, so that systemd tries again (§1.1)."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    assert cli.main(["start"]) == 255
    text = (tmp_path / "ecs-init.log").read_text()
    assert 'msg="could not start Agent: ' in text and "Docker does not answer yet" in text


def test_start_becomes_the_agent_and_stop_ends_it(tmp_path):
    """exec: the pid stays, so systemd's main process is the tree; its status is the agent's (5 is not restarted)."""
    (tmp_path / "fake_agent.py").write_text(
        "import os, signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "text = ' '.join((os.environ['ECS_UPDATES_ENABLED'], os.environ['ECS_TREE_INIT_LOG']))\n"
        f"open({str(tmp_path / 'up')!r}, 'w').write(text)\nsignal.pause()\n"
    )
    code = (
        "from services.init import initlog, launch\n"
        "launch.AGENT_MODULE = 'fake_agent'\n"
        f"initlog.FILE = {str(tmp_path / 'log')!r}\n"
        "import sys; from services.init.cli import main; sys.exit(main(['start']))"
    )
    environment = {**os.environ, "PYTHONPATH": f"{os.getcwd()}:{tmp_path}", "DOCKER_HOST": f"unix://{tmp_path}/none"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
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
        assert (tmp_path / "up").read_text() == f"false {tmp_path / 'log'}"
    finally:
        process.kill()


def test_stop_never_signals_a_process_that_took_the_number(tmp_path):
    """After a reboot another process has the pid; its start time tells."""
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / launch.PID_FILE).write_text(json.dumps({"pid": os.getpid(), "started": 1}))
    assert launch.stop_agent(directory) is False


def test_a_host_without_iptables_is_told_at_pre_start(monkeypatch, tmp_path):
    """N11: 255, and systemd tries again after 10 s; nothing but directories was made."""
    monkeypatch.setattr(cli, "_DIRECTORIES", (str(tmp_path / "a"),))
    monkeypatch.setattr(service_host, "EBS_DIRECTORY", str(tmp_path / "ebs"))
    monkeypatch.setenv("ECS_DATADIR", str(tmp_path / "data"))
    nothing = Netfilter(find=lambda name: None)
    monkeypatch.setattr(cli, "Manager", lambda settings, log: Manager(settings, log, nothing))
    assert cli.main(["pre-start"]) == 255
    text = (tmp_path / "ecs-init.log").read_text()
    assert "could not create route to the credentials proxy: iptables is not installed" in text
    assert (tmp_path / "ebs").is_dir() and (tmp_path / "data").is_dir()


def test_a_gpu_set_up_that_fails_stops_pre_start(monkeypatch, tmp_path):
    """§3.1 step 1, before anything else."""

    def fail(log):
        raise gpu.GpuError("Nvidia GPU Manager: setup failed: error initializing GPU devices")

    monkeypatch.setattr(launch, "wants_gpus", lambda: True)
    monkeypatch.setattr(gpu, "set_up", fail)
    monkeypatch.setattr(cli, "_make_directories", lambda merged: pytest.fail("went on"))
    assert cli.main(["pre-start"]) == 255
    assert "Nvidia GPU Manager: setup failed: error initializing GPU devices" in (tmp_path / "ecs-init.log").read_text()


@pytest.mark.parametrize(("instance", "user", "devices", "wants"), [
    ("ECS_ENABLE_GPU_SUPPORT=true", "", True, True), ("ECS_ENABLE_GPU_SUPPORT=true", "", False, False),
    ("", "ECS_ENABLE_GPU_SUPPORT=true", False, True), ("", "", True, False),
    ("ECS_ENABLE_GPU_SUPPORT=true", 'ECS_ENABLE_GPU_SUPPORT="true"', True, False),
])  # fmt: skip
def test_only_the_files_ask_for_gpus(monkeypatch, instance, user, devices, wants):
    """§10: exactly `true`, merged; only an instance file that asks makes pre-start wait for the driver."""
    waits = []
    files = {service_env.INSTANCE_FILE: instance, service_env.USER_FILE: user}
    monkeypatch.setattr(launch, "_read", lambda path: files.get(path, ""))
    monkeypatch.setattr(gpu, "present", lambda wait=False: waits.append(wait) or devices)
    monkeypatch.setenv("ECS_ENABLE_GPU_SUPPORT", "true")
    assert launch.wants_gpus() is wants
    assert waits == ([True] if instance else [])


@pytest.mark.parametrize(("script", "joined"), [
    ("echo 'realm-name: EXAMPLE'", True), ("echo none", False), ("exit 1", False), (None, False),
])  # fmt: skip
def test_a_domain_is_joined_when_realm_lists_one(monkeypatch, tmp_path, script, joined):
    """§12.2."""
    if script is not None:
        (tmp_path / "realm").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "realm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    values, _ = launch.environment_of({"ECS_GMSA_SUPPORTED": "true"})
    assert (values.get("ECS_DOMAIN_JOINED_LINUX_INSTANCE") == "true") is joined
    values, _ = launch.environment_of({"ECS_GMSA_SUPPORTED": "TRUE"})
    assert "ECS_DOMAIN_JOINED_LINUX_INSTANCE" not in values
