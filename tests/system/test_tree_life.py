"""The whole tree in local mode: a task's life as a client sees it, and the tree's own beginning and end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.system.conftest import container, containers_of, wait_connected

pytestmark = pytest.mark.docker


def test_a_task_runs_and_stops_as_boto3_s_waiters_expect(agent, engine):
    """Register, run, tasks_running, describe, stop, tasks_stopped: the path of every script and tool."""
    quick = {"Delay": 1, "MaxAttempts": 40}
    (arn,) = agent.run(container("web", environment=[{"name": "A", "value": "1"}]))
    agent.ecs.get_waiter("tasks_running").wait(tasks=[arn], WaiterConfig=quick)
    (task,) = agent.tasks([arn])
    assert task["lastStatus"] == "RUNNING" and task["containers"][0]["runtimeId"]
    (found,) = containers_of(engine, arn)
    assert found["State"] == "running"
    agent.ecs.stop_task(task=arn, reason="enough")
    agent.ecs.get_waiter("tasks_stopped").wait(tasks=[arn], WaiterConfig=quick)
    (task,) = agent.tasks([arn])
    assert (task["stopCode"], task["stoppedReason"]) == ("UserInitiated", "enough")
    assert task["containers"][0]["exitCode"] == 0


def test_a_process_that_exits_is_reported_with_its_exit_code(agent, eventually):
    """EssentialContainerExited, with the code from Docker."""
    (arn,) = agent.run(container(command=["sh", "-c", "exit 7"]))
    eventually(lambda: agent.statuses([arn]) == {"STOPPED"}, seconds=20)
    (task,) = agent.tasks([arn])
    assert task["stopCode"] == "EssentialContainerExited"
    assert task["containers"][0]["exitCode"] == 7


def test_sigterm_ends_every_process_and_leaves_the_task_running(agent, engine, eventually):
    """Containers are never stopped by the end of the agent; its own processes all are."""
    (arn,) = agent.run(container())
    eventually(lambda: agent.statuses([arn]) == {"RUNNING"}, seconds=20)
    children = psutil.Process(agent.process.pid).children(recursive=True)
    assert len(children) >= 8
    assert agent.stop() == 0
    assert psutil.wait_procs(children, timeout=1)[1] == []
    assert [c["State"] for c in containers_of(engine, arn)] == ["running"]


def test_ctrl_c_ends_the_tree_as_sigterm_does(agent):
    """SIGINT is what a person sends; the exit status is 0."""
    children = psutil.Process(agent.process.pid).children(recursive=True)
    agent.process.send_signal(signal.SIGINT)
    assert agent.process.wait(20) == 0
    assert psutil.wait_procs(children, timeout=1)[1] == []


def test_the_tree_takes_up_its_tasks_after_a_restart(agent, engine, eventually):
    """One task lives through it, another ended meanwhile; both are told truthfully, nothing is started twice."""
    survivor, victim = agent.run(container(), count=2)
    eventually(lambda: agent.statuses([survivor, victim]) == {"RUNNING"}, seconds=20)
    agent.stop()
    engine.kill(containers_of(engine, victim)[0]["Id"])
    agent.start()
    wait_connected(agent, eventually)
    eventually(lambda: agent.statuses([victim]) == {"STOPPED"}, seconds=20)
    assert agent.statuses([survivor]) == {"RUNNING"}
    assert [len(containers_of(engine, arn)) for arn in (survivor, victim)] == [1, 1]
    assert agent.tasks([victim])[0]["containers"][0]["exitCode"] == 137


def test_a_second_tree_on_the_same_directory_says_which_process_is_there(agent):
    """Two trees on one store would report every task twice."""
    command = [str(Path(sys.executable).parent / "ecs-agent")]
    second = subprocess.run(command, env=agent.environment, capture_output=True, timeout=30, cwd=agent.directory)
    assert second.returncode == 1
    assert f"an agent (pid {agent.process.pid}) already runs in" in second.stdout.decode()


def test_a_data_directory_that_cannot_be_written_is_named_with_the_reason(tmp_path):
    """The first thing that an operator gets wrong; no traceback, no half-started tree."""
    environment = {"PATH": os.environ["PATH"], "ECS_DATADIR": "/proc/no-such-place", "AWS_DEFAULT_REGION": "us-west-2"}
    command = [str(Path(sys.executable).parent / "ecs-agent")]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=30, cwd=tmp_path)
    said = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 1
    assert re.search(r"ECS_DATADIR '/proc/no-such-place' cannot be written: .+ set ECS_DATADIR", said)
    assert "Traceback" not in said


@pytest.mark.netns
def test_a_full_data_directory_is_named_and_loses_nothing(tmp_path):
    """A file system without space: the agent says so and ends; with space again it starts."""
    mount = tmp_path / "full"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], check=True)
    try:
        filler = mount / "filler"
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass  # full, as wanted
        environment = {"PATH": os.environ["PATH"], "ECS_DATADIR": str(mount), "AWS_DEFAULT_REGION": "us-west-2"}
        command = [str(Path(sys.executable).parent / "ecs-agent")]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=30, cwd=tmp_path)
        assert done.returncode == 1
        assert "No space left on device" in done.stdout.decode()
    finally:
        subprocess.run(["umount", str(mount)], check=True)
