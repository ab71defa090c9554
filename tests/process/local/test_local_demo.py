"""The demonstration of `make run`, with real Docker and a fake agent: what it shows, and that it leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import psutil
import pytest

from services.local.tool import dockers
from tests.fakes.ports import free_port
from tests.process.local.harness import ROOT, Json, eventually

pytestmark = pytest.mark.docker
FAKE_TREE = Path(__file__).with_name("fake_tree.py")
# What `ecs-local demo FILE` does, with the fake tree and without the ports that a real agent on this machine may hold.
PROGRAM = """
import sys
from pathlib import Path
from services.local.tool import demo, settings, show
from services.local.tool.settings import Problem
demo.INTROSPECTION_PORT, demo.CREDENTIALS_PORT = int(sys.argv[3]), int(sys.argv[4])
try:
    sys.exit(demo.Demo(settings.read(), Path(sys.argv[1]), show.Screen(), [sys.executable, sys.argv[2]]).run())
except Problem as problem:
    print(problem, file=sys.stderr)
    sys.exit(problem.status)
"""


def example(host_port: int) -> Json:
    """web with a port and a health check, and a visitor that says something and ends."""
    return {"family": "demo-test", "networkMode": "bridge", "containerDefinitions": [
        {"name": "web", "image": dockers.SAMPLE_IMAGE, "memory": 32, "entryPoint": ["sh", "-c"],
         "command": ["echo hi > /www/index.html; exec httpd -f -h /www"],
         "portMappings": [{"containerPort": 80, "hostPort": host_port}],
         "healthCheck": {"command": ["CMD-SHELL", "wget -q -O /dev/null http://127.0.0.1/"], "interval": 5}},
        {"name": "visitor", "image": dockers.SAMPLE_IMAGE, "memory": 32, "essential": False,
         "dependsOn": [{"containerName": "web", "condition": "HEALTHY"}],
         "entryPoint": ["sh", "-c"], "command": ["echo the visitor was here"]}]}  # fmt: skip


class Show:
    """One run of the demonstration as its own process, its output collected in a file."""

    def __init__(self, tmp_path: Path, host_port: int) -> None:
        self.directory, self.out = tmp_path / "data", tmp_path / "out"
        (tmp_path / "demo.json").write_text(json.dumps(example(host_port)))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "ECS_DATADIR": str(self.directory),
                       "ECS_LOCAL_PORT": str(free_port())}  # fmt: skip
        with open(self.out, "wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(tmp_path / "demo.json"), str(FAKE_TREE), str(free_port()),
                 str(free_port())], env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)  # fmt: skip

    def text(self) -> str:
        """What it printed so far."""
        return self.out.read_text()

    def wait_for(self, words: str, seconds: float = 60) -> None:
        """Until it printed `words`."""
        eventually(lambda: words in self.text() or self.process.poll() is not None, words, seconds)
        assert words in self.text(), self.text()

    def tree_pid(self) -> int:
        """The tree's process."""
        return int(json.loads((self.directory / "local" / "up.json").read_text())["pid"])

    def task_arn(self) -> str:
        """The task it runs."""
        arn: str = json.loads((self.directory / "local" / "demo.json").read_text())[0]
        return arn


@pytest.fixture
def shows(tmp_path: Path) -> Iterator[list[Show]]:
    """Whatever a test starts is ended."""
    started: list[Show] = []
    yield started
    for show in started:
        if show.process.poll() is None:
            show.process.kill()
            show.process.wait(10)


def containers(arn: str) -> list[Json]:
    """Docker's containers of a task."""
    found: list[Json] = docker.APIClient(version="auto", timeout=10).containers(
        all=True, filters={"label": f"{dockers.TASK_LABEL}={arn}"}
    )
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demonstration_shows_everything_and_leaves_nothing(
    tmp_path: Path, shows: list[Show], number: signal.Signals
) -> None:
    """States with times, the visitor's output, hints; after the signal no process, no container, status 0."""
    port = free_port()
    show = Show(tmp_path, port)
    shows.append(show)
    show.wait_for("Ctrl-C stops the task")
    pid, arn = show.tree_pid(), show.task_arn()
    assert len(containers(arn)) == 2, (show.text(), containers(arn))
    show.process.send_signal(number)
    assert show.process.wait(60) == 0, show.text()
    text = show.text()
    for words in ("task           PENDING", "web            RUNNING", "task           RUNNING", "Output of visitor:",
                  "the visitor was here", f"http://127.0.0.1:{port}/", "aws ecs describe-tasks --endpoint-url",
                  "Everything that was started has ended."):  # fmt: skip
        assert words in text
    assert "Traceback" not in text
    assert containers(arn) == [] and not psutil.pid_exists(pid)
    assert not (show.directory / "local" / "demo.json").exists()


def test_a_killed_demonstration_is_cleared_away_by_the_next(tmp_path: Path, shows: list[Show]) -> None:
    """SIGKILL: the kernel ends the tree, the next run removes the containers that still hold the port."""
    port = free_port()
    first = Show(tmp_path, port)
    shows.append(first)
    first.wait_for("Ctrl-C stops the task")
    pid, arn = first.tree_pid(), first.task_arn()
    first.process.kill()
    first.process.wait(10)
    eventually(lambda: not psutil.pid_exists(pid), "the tree died with its parent", 20)
    assert containers(arn)
    second = Show(tmp_path, port)
    shows.append(second)
    second.wait_for("Ctrl-C stops the task")
    assert "Removed 2 container(s)" in second.text() and containers(arn) == []
    second.process.send_signal(signal.SIGINT)
    assert second.process.wait(60) == 0, second.text()


def test_taken_ports_are_told_with_their_holder_before_anything_starts(tmp_path: Path, shows: list[Show]) -> None:
    """Exit status 1, the process's name and pid, and no tree."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        show = Show(tmp_path, taken.getsockname()[1])
        shows.append(show)
        assert show.process.wait(30) == 1
    assert f"{taken_port(show)}/tcp (host port in demo.json) is held by" in show.text()
    assert f"(pid {os.getpid()})" in show.text()
    assert not (show.directory / "local" / "up.json").exists()


def taken_port(show: Show) -> int:
    """The host port in the file that the demonstration was given."""
    document = json.loads((show.out.parent / "demo.json").read_text())
    port: int = document["containerDefinitions"][0]["portMappings"][0]["hostPort"]
    return port
