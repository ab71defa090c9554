"""What `make run` shows a newcomer: the sample task through the whole tree, and nothing left afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.fakes.ports import free_port
from tests.system.conftest import TASK_LABEL

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def example(tmp_path):
    """hello.json with a free host port, so that the test does not depend on 8080."""
    definition = json.loads((ROOT / "examples/hello.json").read_text())
    definition["containerDefinitions"][0]["portMappings"][0]["hostPort"] = free_port()
    path = tmp_path / "hello.json"
    path.write_text(json.dumps(definition))
    return path


def start(path: Path, directory: Path, port: int) -> subprocess.Popen[str]:
    keep = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    environment = {**keep, "ECS_DATADIR": str(directory), "ECS_LOCAL_PORT": str(port), "AWS_REGION": "us-west-2"}
    command = [str(Path(sys.executable).parent / "ecs-local"), "demo", str(path)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """The output up to the line that matches; fails when the process ends before."""
    said = ""
    for line in process.stdout:
        said += line
        if re.search(pattern, line):
            return said
    raise AssertionError(f"{pattern!r} never came:\n{said}")


def rules() -> str:
    listing = subprocess.run(["iptables-save"], capture_output=True, text=True, timeout=10).stdout
    return "\n".join(re.sub(r"\[\d+:\d+\]", "", line) for line in listing.splitlines() if line.startswith("-A"))


@pytest.mark.parametrize("turn", [1, 2])
def test_the_sample_task_runs_and_ctrl_c_leaves_nothing(turn, example, tmp_path, engine):
    """The visitor prints the page, a role ARN and a task ARN; processes, containers and rules are gone at the end."""
    before = rules()
    directory = tmp_path / "state"
    demo = start(example, directory, free_port())
    said = read_until(demo, r"Ctrl-C stops")
    assert "Hello from a container" in said
    assert re.search(r"my role: +arn:aws:iam::\d{12}:role/hello", said)
    arn = re.search(r"my task: +(arn:aws:ecs:us-west-2:\d{12}:task/default/[0-9a-f]{32})", said).group(1)
    assert re.search(r"RUNNING", said)
    children = psutil.Process(demo.pid).children(recursive=True)
    demo.send_signal(signal.SIGINT)
    rest = demo.stdout.read()
    assert demo.wait(60) == 0, rest
    assert psutil.wait_procs(children, timeout=2)[1] == []
    assert engine.containers(all=True, filters={"label": f"{TASK_LABEL}={arn}"}) == []
    assert rules() == before


def test_ctrl_c_on_a_terminal_lets_make_end_with_status_0(example, tmp_path, engine):
    """make gets no interrupt of its own, so it reports how the demonstration ended, and that is well."""
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"run:\n\t@exec {Path(sys.executable).parent / 'ecs-local'} demo {example}\n")
    keep = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    environment = {**keep, "ECS_DATADIR": str(tmp_path / "state"), "ECS_LOCAL_PORT": str(free_port()), "TERM": "dumb"}
    driver = [sys.executable, str(Path(__file__).with_name("pty_driver.py")), "Ctrl-C stops", "90"]
    done = subprocess.run(
        [*driver, "make", "-f", str(makefile), "run"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout
    assert "Everything that was started has ended." in done.stdout


def test_a_taken_port_names_the_process_that_holds_it(example, tmp_path):
    """The commonest reason why it does not start; nothing is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        demo = start(example, tmp_path / "state", port)
        said = demo.communicate(timeout=60)[0]
    assert demo.returncode == 1
    assert str(os.getpid()) in said and str(port) in said


def test_a_task_definition_that_is_not_json_is_explained_with_its_place(tmp_path):
    """Line and column, exit status 2, no traceback."""
    path = tmp_path / "broken.json"
    path.write_text('{"family": "x",\n  "containerDefinitions": [,]\n}')
    demo = start(path, tmp_path / "state", free_port())
    said = demo.communicate(timeout=60)[0]
    assert demo.returncode == 2
    assert ":2:28: not valid JSON" in said and "Traceback" not in said
