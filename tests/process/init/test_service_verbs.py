"""`ecs-init start`, `stop` and `post-stop` with the real tree of processes, on a host of its own without Docker.

No control plane and no Docker answer here: the programs wait for them, as they must.
"""

from __future__ import annotations

import signal
import stat

import pytest

from tests.process.init.test_netfilter_process import ALL

pytestmark = pytest.mark.timeout(120)
SETTINGS = {
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "y",
    "AWS_EC2_METADATA_DISABLED": "true",
    "ECS_BACKEND_HOST": "http://127.0.0.1:1",
}


@pytest.fixture
def service(init, eventually, tmp_path):
    """Start the service as systemd does; returns its main process when the rules are there."""
    settings = {**SETTINGS, "ECS_DATADIR": str(init.run_dir / "data")}

    def start():
        process = init.spawn_verb("start", tmp_path, **settings)
        eventually(lambda: process.poll() is not None or set(init.host.rules()) >= ALL, seconds=30, pause=0.1)
        log = tmp_path / "ecs-init.log"
        eventually(lambda: process.poll() is not None or "init is ready" in log.read_text(), seconds=15)
        assert process.poll() is None, (init.run_dir / "start.out").read_text()
        return process

    yield start


def test_start_is_the_tree_and_stop_ends_it_with_status_0(init, host, service, tmp_path):
    """Case 38a: in order, within systemd's patience, and nothing is left on the host."""
    process = service()
    assert init.verb("stop").returncode == 0
    assert process.wait(5) == 0
    assert host.rules() == [] and host.setting("net/ipv4/conf/all/route_localnet") == "0"
    log = tmp_path / "ecs-init.log"
    assert 'msg="netfilter: the rules are removed and the kernel settings put back"' in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o644  # although the tree's umask is 077
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


def test_an_iptables_that_fails_keeps_nothing_from_starting(init, host, tmp_path):
    """Case 20, N11: pre-start logs it and succeeds; the process `init` goes on trying."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "iptables").write_text("#!/bin/sh\necho 'no luck' >&2; exit 4\n")
    (tools / "iptables").chmod(0o755)
    done = init.verb("pre-start", PATH=f"{tools}:/usr/sbin:/usr/bin:/sbin:/bin")
    assert done.returncode == 0
    assert "level=error" in done.stderr and "could not create route to the credentials proxy: rule R2" in done.stderr
    assert "no luck; the service tries again" in done.stderr
