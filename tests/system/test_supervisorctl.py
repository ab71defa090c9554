"""supervisorctl on the whole tree, program by program, while tasks run: status, restart, stop, start, tail.

What is proven throughout: no operation on a program of the agent touches a running task.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import xmlrpc.client
from pathlib import Path

import pytest
from supervisor.xmlrpc import SupervisorTransport

from tests.system.conftest import container, containers_of, wait_connected

pytestmark = [pytest.mark.docker, pytest.mark.timeout(150)]

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("acs", "endpoint", "engine", "images", "init", "local", "redis", "secrets", "telemetry")


class Control:
    """The command, as an operator of the installed agent has it."""

    def __init__(self, agent) -> None:
        self.run_dir = f"{agent.environment['ECS_DATADIR']}/run"

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "common.tree.control", *words]
        environment = {"PATH": os.environ["PATH"], "ECS_RUN_DIR": self.run_dir}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=40, cwd=ROOT)

    def pid(self, name: str) -> int:
        """The program's process as supervisord sees it; 0 while it waits to be started again."""
        transport = SupervisorTransport(None, None, f"unix://{self.run_dir}/supervisor.sock")
        return int(xmlrpc.client.ServerProxy("http://tree", transport).supervisor.getProcessInfo(name)["pid"])

    def states(self) -> dict[str, str]:
        """Program -> state."""
        return {line.split()[0]: line.split()[1] for line in self("status").stdout.splitlines()}


@pytest.fixture
def control(agent):
    return Control(agent)


@pytest.fixture
def standing(agent, engine, eventually):
    """Two running tasks, and the check that nothing ever happened to them."""
    arns = agent.run(container(), count=2, family="standing")
    eventually(lambda: agent.statuses(arns) == {"RUNNING"}, seconds=30)
    ids = {arn: containers_of(engine, arn)[0]["Id"] for arn in arns}

    def untouched() -> bool:
        found = {arn: [(c["Id"], c["State"]) for c in containers_of(engine, arn)] for arn in arns}
        return found == {arn: [(ids[arn], "running")] for arn in arns}

    return untouched


def test_each_program_can_be_looked_at_and_restarted_while_tasks_run(agent, control, standing, eventually):
    """status, tail and restart of all nine; afterwards the agent is connected and runs a new task."""
    assert control("status").returncode == 0
    assert control.states() == dict.fromkeys(PROGRAMS, "RUNNING")
    plain = ["-c", str(ROOT / "supervisord.conf"), "status", "engine"]  # supervisorctl itself works as well
    command = [sys.executable, "-m", "supervisor.supervisorctl", *plain]
    environment = {"PATH": os.environ["PATH"], "ECS_RUN_DIR": control.run_dir}
    assert "RUNNING" in subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20).stdout
    for name in ("acs", "telemetry", "images", "engine", "endpoint", "secrets", "redis", "local", "init"):
        before = control.pid(name)
        done = control("restart", name)
        assert done.stdout == f"{name}: stopped\n{name}: started\n", agent.text()[-3000:]
        assert control.pid(name) != before
        assert standing(), name
    for name in set(PROGRAMS) - {"redis", "secrets"}:  # the stores say nothing when all is well
        assert "level=info" in control("tail", name).stdout, name
    wait_connected(agent, eventually)
    (fresh,) = agent.run(container(), family="fresh")
    eventually(lambda: agent.statuses([fresh]) == {"RUNNING"}, seconds=20)
    assert control.states() == dict.fromkeys(PROGRAMS, "RUNNING") and standing()


def test_a_stopped_engine_stays_stopped_and_comes_back_at_once(agent, control, standing, eventually):
    """Case 85: the operator's wish; the task that was asked for meanwhile runs then."""
    assert control("stop", "engine").stdout == "engine: stopped\n"
    (late,) = agent.run(container(), family="late")
    time.sleep(3)
    assert control.states() == {**dict.fromkeys(PROGRAMS, "RUNNING"), "engine": "STOPPED"}
    assert standing() and agent.process.poll() is None
    assert control("start", "engine").stdout == "engine: started\n"
    eventually(lambda: agent.statuses([late]) == {"RUNNING"}, seconds=20)
    assert standing()


def test_an_engine_that_is_killed_again_and_again_is_started_later_and_later(agent, control, standing, eventually):
    """Case 84: 0.5, 1, 2, 4 s; never FATAL, and no container is stopped."""
    gaps = []
    for _ in range(4):
        victim = control.pid("engine")
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        eventually(lambda victim=victim: control.pid("engine") not in (0, victim), seconds=20)
        gaps.append(time.monotonic() - killed)
        assert standing()
    for gap, wanted in zip(gaps, (0.5, 1.0, 2.0, 4.0), strict=True):
        assert wanted <= gap <= wanted * 1.1 + 0.7, gaps
    assert control.states()["engine"] in ("RUNNING", "STARTING")
    (fresh,) = agent.run(container(), family="fresh")
    eventually(lambda: agent.statuses([fresh]) == {"RUNNING"}, seconds=20)


def test_a_state_of_another_cluster_ends_the_service_with_5(agent, eventually):
    """A terminal exit of one program is the service's own: systemd must not restart it."""
    agent.stop()
    agent.environment["ECS_CLUSTER"] = "another"
    agent.start()
    assert agent.process.wait(30) == 5
    assert "ended for good (status 5)" in agent.text()
