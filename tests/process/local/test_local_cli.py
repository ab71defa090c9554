"""`ecs-local` against a control plane with a fake agent, and the tree started and stopped by it."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.local.cli import main
from services.local.tool import dockers, settings, tree
from services.local.tool.settings import Problem
from tests.process.local.harness import ROOT, FakeAgent, Plane, definition, eventually

FAKE_TREE = [sys.executable, str(Path(__file__).with_name("fake_tree.py"))]


@pytest.fixture
def task_file(tmp_path: Path) -> str:
    """A task definition file."""
    path = tmp_path / "task.json"
    path.write_text(json.dumps(definition()))
    return str(path)


@pytest.fixture
def local(plane: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plane:
    """The environment in which `ecs-local` finds the control plane."""
    monkeypatch.setenv("ECS_LOCAL_PORT", str(plane.port))
    monkeypatch.setenv("ECS_DATADIR", str(tmp_path / "cli"))
    monkeypatch.delenv("ECS_CLUSTER", raising=False)
    return plane


def play(agent: FakeAgent, ecs: Any, exit_code: int) -> None:
    """An agent that runs whatever comes first and lets it end."""
    arn = eventually(lambda: ecs.list_tasks()["taskArns"], "a task")[0]
    agent.payload(arn)
    agent.report(arn, "RUNNING", {"containerName": "web", "status": "RUNNING", "networkBindings": [
        {"bindIP": "0.0.0.0", "hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]})  # fmt: skip
    eventually(lambda: ecs.describe_tasks(tasks=[arn])["tasks"][0]["lastStatus"] == "RUNNING", "RUNNING")
    threading.Event().wait(0.5)  # long enough for the follower to see it
    agent.report(arn, "STOPPED", {"containerName": "web", "status": "STOPPED", "exitCode": exit_code})


@pytest.mark.parametrize("exit_code", [0, 3])
def test_run_follows_the_task_and_ends_with_its_exit_code(
    local: Plane, ecs: Any, agent: FakeAgent, task_file: str, capsys: pytest.CaptureFixture[str], exit_code: int
) -> None:
    """Each change is one line; a script sees the container's exit code."""
    player = threading.Thread(target=play, args=(agent, ecs, exit_code))
    player.start()
    assert main(["run", task_file]) == exit_code
    player.join()
    out = capsys.readouterr().out
    assert "web:1 is registered" in out
    assert "RUNNING (0.0.0.0:8080->80/tcp)" in out
    assert f"STOPPED (exit code {exit_code})" in out
    assert "EssentialContainerExited: Essential container in task exited" in out


def test_ps_lists_tasks_and_stop_ends_them(
    local: Plane, ecs: Any, agent: FakeAgent, task_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the beginning of an id; a stopped task shows with --all only."""
    assert main(["run", task_file, "--no-follow", "--count", "2"]) == 0
    first, second = ecs.list_tasks()["taskArns"]
    agent.report(first, "RUNNING", {"containerName": "web", "status": "RUNNING"})
    capsys.readouterr()
    assert main(["ps"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["TASK", "DEFINITION", "CONTAINER", "STATUS", "HEALTH", "PORTS", "AGE"]
    assert first.rsplit("/", 1)[-1][:8] in out and "web:1" in out
    stopper = threading.Thread(
        target=lambda: (agent.payload(second, "STOPPED"), agent.report(second, "STOPPED")), daemon=True
    )
    stopper.start()
    assert main(["stop", second.rsplit("/", 1)[-1][:12], "--reason", "over"]) == 0
    assert "UserInitiated: over" in capsys.readouterr().out
    main(["ps"])
    assert second.rsplit("/", 1)[-1][:8] not in capsys.readouterr().out
    main(["ps", "--all"])
    assert second.rsplit("/", 1)[-1][:8] in capsys.readouterr().out
    assert main(["stop", "0000000000"]) == 2


def test_what_cannot_be_placed_is_told(
    local: Plane, agent: FakeAgent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason and what is lacking."""
    request = definition()
    request["containerDefinitions"][0]["logConfiguration"] = {"logDriver": "syslog"}
    (tmp_path / "t.json").write_text(json.dumps(request))
    assert main(["run", str(tmp_path / "t.json")]) == 1
    out = capsys.readouterr().out
    assert "ATTRIBUTE (The container instance lacks: com.amazonaws.ecs.capability.logging-driver.syslog)" in out


def test_a_fargate_definition_runs_and_its_replacements_are_told(
    local: Plane, ecs: Any, agent: FakeAgent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Clients see what was registered, the agent gets what this machine can do, the user reads the difference."""
    request = definition(networkMode="awsvpc", requiresCompatibilities=["FARGATE"], cpu="256", memory="512")
    request["containerDefinitions"][0]["logConfiguration"] = {
        "logDriver": "awslogs",
        "options": {"awslogs-group": "/web", "awslogs-region": "us-east-1"},
    }
    (tmp_path / "t.json").write_text(json.dumps(request))
    agent.acks = False
    assert main(["run", str(tmp_path / "t.json"), "--no-follow"]) == 0
    out = capsys.readouterr().out
    assert "Replaced on this machine: network mode awsvpc -> host" in out
    assert "Replaced on this machine: log driver awslogs -> json-file (web)" in out
    (arn,) = ecs.list_tasks(launchType="FARGATE")["taskArns"]
    assert agent.payload(arn)["networkMode"] == "host"
    assert ecs.describe_tasks(tasks=[arn])["tasks"][0]["lastStatus"] == "PROVISIONING"
    agent.ack(agent.messages("PayloadMessage")[-1])
    eventually(lambda: ecs.describe_tasks(tasks=[arn])["tasks"][0]["lastStatus"] == "PENDING", "PENDING")
    shown = ecs.describe_task_definition(taskDefinition="web")["taskDefinition"]
    assert shown["networkMode"] == "awsvpc"
    assert shown["containerDefinitions"][0]["logConfiguration"]["logDriver"] == "awslogs"


def test_a_refused_definition_is_told_in_the_words_of_the_service(
    local: Plane, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback."""
    request = definition()
    request["containerDefinitions"][0]["dependsOn"] = [{"containerName": "ghost", "condition": "START"}]
    (tmp_path / "t.json").write_text(json.dumps(request))
    assert main(["run", str(tmp_path / "t.json")]) == 1
    err = capsys.readouterr().err
    assert err == ("ecs-local: RegisterTaskDefinition: Cannot depend on container + 'ghost' because it does not exist "
                   "(ClientException)\n")  # fmt: skip


def test_without_a_control_plane_the_user_is_told_how_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And `down` has nothing to do."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("ECS_LOCAL_PORT", str(port))
    monkeypatch.setenv("ECS_DATADIR", str(tmp_path))
    assert main(["ps"]) == 1
    assert "Start one with: ecs-local up" in capsys.readouterr().err
    assert main(["down"]) == 0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> settings.Settings:
    """Settings for a tree of our own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return settings.read({**os.environ, "ECS_DATADIR": str(tmp_path), "ECS_LOCAL_PORT": str(port)})


@pytest.mark.docker
def test_a_tree_is_started_once_noted_and_stopped(place: settings.Settings) -> None:
    """A second start is refused; after the stop the process and the note are gone."""
    process = tree.start(place, FAKE_TREE)
    try:
        tree.wait_connected(place, lambda: process.poll() is None, 30)
        note = tree.running(place)
        assert note is not None and note["pid"] == process.pid
        assert settings.read({"ECS_DATADIR": str(place.directory), "HOME": "/"}).port == place.port
        with pytest.raises(Problem, match="already runs"):
            tree.start(place, FAKE_TREE)
    finally:
        tree.stop(place, process.pid, 20)
        process.wait(5)
    assert not psutil.pid_exists(process.pid) and not place.note.exists()
    assert tree.running(place) is None


def test_a_tree_that_ends_at_once_is_told_with_the_end_of_its_log(
    place: settings.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a time-out: the reason."""
    monkeypatch.setenv("FAKE_TREE_FAILS", "1")
    process = tree.start(place, FAKE_TREE)
    with pytest.raises(Problem) as caught:
        tree.wait_connected(place, lambda: process.poll() is None, 30)
    assert "ended while it was starting" in str(caught.value)
    assert "fake tree: cannot start, as asked" in str(caught.value)
    tree.stop(place, process.pid, 5)


@pytest.mark.docker
def test_logs_come_from_the_containers_of_the_task(
    local: Plane, ecs: Any, agent: FakeAgent, task_file: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Found by label; with several containers each line says whose it is; one can be chosen."""
    docker = dockers.connect()
    dockers.build_sample_image(docker)
    main(["run", task_file, "--no-follow"])
    arn = ecs.list_tasks()["taskArns"][0]
    id_ = arn.rsplit("/", 1)[-1]
    assert main(["logs", id_]) == 1
    assert "has no container in Docker" in capfd.readouterr().err
    try:
        for name in ("one", "two"):
            labels = {dockers.TASK_LABEL: arn, dockers.NAME_LABEL: name}
            made = docker.create_container(dockers.SAMPLE_IMAGE, ["echo", f"hello from {name}"], labels=labels)
            docker.start(made["Id"])
            docker.wait(made["Id"], timeout=20)
        for options in ([], ["--follow"]):
            assert main(["logs", id_[:10], *options]) == 0
            assert sorted(capfd.readouterr().out.splitlines()) == ["one | hello from one", "two | hello from two"]
        assert main(["logs", arn, "--container", "two"]) == 0
        assert capfd.readouterr().out == "hello from two\n"
    finally:
        assert dockers.remove_containers(docker, [arn]) == 2
