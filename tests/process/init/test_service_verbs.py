"""`ecs-init start`, `stop` and `post-stop` with the real tree of processes, on a host of its own without Docker.

No control plane and no Docker answer here: the programs wait for them, as they must.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time

import gevent
import pytest

from common import readiness
from tests.process.init.conftest import ROOT, Init
from tests.process.init.test_netfilter_process import ALL

pytestmark = pytest.mark.timeout(120)
SETTINGS = {
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "y",
    "AWS_EC2_METADATA_DISABLED": "true",
    "ECS_BACKEND_HOST": "http://127.0.0.1:1",
}


def start_service(init: Init, logs, eventually) -> subprocess.Popen[bytes]:
    """Start the service as systemd does; returns its main process when the rules are there."""
    settings = {**SETTINGS, "ECS_DATADIR": str(init.run_dir / "data")}
    process = init.spawn_verb("start", logs, **settings)
    eventually(lambda: process.poll() is not None or set(init.host.rules()) >= ALL, seconds=30, pause=0.1)
    log = logs / "ecs-init.log"
    eventually(lambda: process.poll() is not None or "netfilter: installed" in log.read_text(), seconds=15)
    assert process.poll() is None, (init.run_dir / "start.out").read_text()
    return process


@pytest.fixture
def service(init, eventually, tmp_path):
    """The service on the host of the test, started when it is called."""
    return lambda: start_service(init, tmp_path, eventually)


def test_start_is_the_tree_and_stop_ends_it_with_status_0(init, host, service, tmp_path):
    """Case 38a: in order, within systemd's patience, and nothing is left on the host."""
    process = service()
    assert init.verb("stop").returncode == 0
    assert process.wait(5) == 0
    assert host.rules() == [] and host.setting("net/ipv4/conf/all/route_localnet") == "0"
    log = tmp_path / "ecs-init.log"
    assert 'msg="netfilter: the rules are removed and the kernel settings put back"' in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o644
    assert init.verb("post-stop").returncode == 0 and host.rules() == []


def test_sigterm_to_the_main_process_is_an_orderly_stop(init, host, service):
    """The reference died at once and left its container running."""
    process = service()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert host.rules() == []


def test_a_killed_main_process_leaves_the_rules_until_post_stop(init, host, service, eventually, tmp_path):
    """systemd runs ExecStopPost after it; without systemd the next start takes the rules over."""
    process = service()
    process.kill()
    assert process.wait(5) == -signal.SIGKILL
    log = tmp_path / "ecs-init.log"
    eventually(lambda: "the supervisor is gone; the rules stay for the running tasks" in log.read_text())
    assert set(host.rules()) == ALL
    assert init.verb("post-stop").returncode == 0
    assert host.rules() == [] and host.setting("net/ipv4/conf/all/route_localnet") == "0"


def hang(init: Init, name: str, eventually) -> int:
    """Stop one program of the running tree in its tracks, as a hung one; returns its pid."""
    command = [sys.executable, "-m", "common.tree.control", "pid", name]
    environment = {"PATH": os.environ["PATH"], "ECS_RUN_DIR": str(init.run_dir)}

    def pid() -> int:
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=20)
        return int(done.stdout) if done.stdout.strip().isdigit() else 0

    hung = int(eventually(pid, seconds=10))
    os.kill(hung, signal.SIGSTOP)
    return hung


def test_a_hung_engine_or_init_does_not_hold_up_the_stop(make_host, run_dir, tmp_path, eventually):
    """Case 40, both at the same time: each is killed after its 12 s; post-stop does what a hung init left undone."""

    def check(name: str) -> None:
        (tmp_path / name).mkdir()
        (run_dir / name).mkdir()
        host = make_host()
        init = Init(host, run_dir / name)
        process = start_service(init, tmp_path / name, eventually)
        hung = hang(init, name, eventually)
        began = time.monotonic()
        assert init.verb("stop").returncode == 0
        assert process.wait(5) == 0
        assert 11 < time.monotonic() - began < 40
        assert not os.path.exists(f"/proc/{hung}")
        assert set(host.rules()) == (ALL if name == "init" else set())
        assert init.verb("post-stop").returncode == 0
        assert host.rules() == [] and host.setting("net/ipv4/conf/all/route_localnet") == "0"
        assert "169.254.170.2" not in host.run("ip", "route", "show").stdout

    gevent.joinall([gevent.spawn(check, name) for name in ("engine", "init")], raise_error=True)


@pytest.mark.docker
def test_an_iptables_that_fails_keeps_nothing_from_starting(init, host, tmp_path, eventually):
    """Case 20, N11: pre-start logs it and succeeds; engine and acs wait for the rules."""
    tools, failing = tmp_path / "tools", tmp_path / "tools/iptables"
    tools.mkdir()
    failing.write_text("#!/bin/sh\necho 'no luck' >&2; exit 4\n")
    failing.chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    done = init.verb("pre-start", PATH=path)
    assert done.returncode == 0
    assert "level=error" in done.stderr and "could not create route to the credentials proxy: rule R2" in done.stderr
    assert "no luck; the service tries again" in done.stderr

    (init.run_dir / "no-docker.sock").touch()  # the engine waits for Docker first
    settings = {**SETTINGS, "ECS_DATADIR": str(init.run_dir / "data"), "PATH": path}
    settings["ECS_ENABLE_TASK_ENI"] = "false"  # the pause image belongs to the package
    process = init.spawn_verb("start", tmp_path, **settings)

    def waiting(name: str) -> bool:
        state = readiness.read(str(init.run_dir), name)
        return state is not None and not state.ready and "waiting for the netfilter rules" in state.detail

    eventually(lambda: waiting("engine") and waiting("acs"), seconds=20)
    failing.unlink()
    eventually(lambda: not waiting("engine") and not waiting("acs"), seconds=20)
    assert set(host.rules()) >= ALL
    process.terminate()
    assert process.wait(30) == 0
