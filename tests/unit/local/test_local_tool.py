"""The command line's own decisions: files, changes between two looks, settings, ports, the sample image."""

from __future__ import annotations

import io
import json
import socket
import tarfile
from pathlib import Path
from typing import Any

import pytest

from services.local.cli import example, main
from services.local.core.checks import check
from services.local.credentials import DUMMY_ACCESS_KEY
from services.local.tool import dockers, ports, settings
from services.local.tool.files import host_ports, load_definition
from services.local.tool.settings import Problem
from services.local.tool.watch import changes, exit_status

Json = dict[str, Any]
REQUEST = {"family": "f", "containerDefinitions": [{"name": "c", "image": "i", "memory": 8}]}


def write(tmp_path: Path, content: str) -> Path:
    """A file."""
    path = tmp_path / "task.json"
    path.write_text(content)
    return path


def test_the_output_of_describe_can_be_run_again(tmp_path: Path) -> None:
    """The wrapper and the read-only members are dropped, the tags beside it are kept."""
    described = {"taskDefinition": {**REQUEST, "revision": 3, "status": "ACTIVE", "taskDefinitionArn": "a",
                                    "requiresAttributes": [], "compatibilities": ["EC2"], "registeredAt": 1,
                                    "registeredBy": "me"}, "tags": [{"key": "k", "value": "v"}]}  # fmt: skip
    assert load_definition(write(tmp_path, json.dumps(described))) == {**REQUEST, "tags": [{"key": "k", "value": "v"}]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"family": "f",\n  oops}', ":2:3: not valid JSON"),
        ("", ":1:1: not valid JSON"),
        ("[1]", "a task definition is a JSON object, not a list"),
        ('{"family": "f"}', "no 'containerDefinitions'"),
        ('{"containerDefinitions": []}', 'Missing required parameter in input: "family"'),
        ('{"family": "f", "containerDefinitions": [{"nmae": "x"}]}', 'Unknown parameter in containerDefinitions[0]'),
    ],
)  # fmt: skip
def test_a_bad_file_is_described_with_its_place(tmp_path: Path, content: str, words: str) -> None:
    """Exit status 2, the file's name, line and column; no traceback."""
    path = write(tmp_path, content)
    with pytest.raises(Problem) as caught:
        load_definition(path)
    assert words in str(caught.value) and str(path) in str(caught.value)
    assert caught.value.status == 2


def test_a_bad_file_ends_the_command_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is asked of the control plane."""
    assert main(["run", str(tmp_path / "absent.json")]) == 2
    assert "absent.json: cannot be read: No such file or directory." in capsys.readouterr().err


def test_the_example_is_a_valid_task_definition_that_shows_everything() -> None:
    """bridge, role, health check, dependsOn, link, a port: what `make run` is there to show."""
    request = load_definition(example())
    check(request)
    web, visitor = request["containerDefinitions"]
    assert request["networkMode"] == "bridge" and request["taskRoleArn"]
    assert web["healthCheck"] and not visitor["essential"]
    assert visitor["dependsOn"] == [{"containerName": "web", "condition": "HEALTHY"}]
    assert host_ports(request) == [(8080, "tcp")]


def view(status: str, desired: str = "RUNNING", container: str = "PENDING", **more: Any) -> Json:
    """A task as DescribeTasks gives it."""
    return {"taskArn": "arn/t", "lastStatus": status, "desiredStatus": desired, "healthStatus": "UNKNOWN",
            "containers": [{"name": "web", "lastStatus": container, "healthStatus": "UNKNOWN", **more}]}  # fmt: skip


def test_each_change_is_told_once_and_in_order() -> None:
    """Containers before the task, because that is how it happens; nothing when nothing changed."""
    pending, running = view("PENDING"), view("RUNNING", container="RUNNING", networkBindings=[
        {"bindIP": "0.0.0.0", "hostPort": 8080, "containerPort": 80, "protocol": "tcp"}])  # fmt: skip
    assert [(c.subject, c.text) for c in changes(None, pending)] == [("task", "PENDING")]
    assert [(c.subject, c.text) for c in changes(pending, running)] == [
        ("web", "RUNNING (0.0.0.0:8080->80/tcp)"), ("task", "RUNNING")]  # fmt: skip
    assert list(changes(running, running)) == []
    ended = view("STOPPED", "STOPPED", "STOPPED", exitCode=3) | {"stopCode": "X", "stoppedReason": "y"}
    assert [c.text for c in changes(running, ended)] == ["STOPPED (exit code 3)", "STOPPED (X: y)"]


def test_the_exit_status_is_that_of_the_task() -> None:
    """A failing container's code; 1 when nothing ever ran; 0 when someone stopped it."""
    failed = view("STOPPED", container="STOPPED", exitCode=3)
    assert exit_status([failed | {"stopCode": "EssentialContainerExited"}]) == 3
    assert exit_status([failed | {"stopCode": "UserInitiated"}]) == 0
    assert exit_status([view("STOPPED") | {"stopCode": "TaskFailedToStart"}]) == 1
    assert exit_status([view("STOPPED", container="STOPPED", exitCode=0)]) == 0


def test_the_tree_gets_laptop_defaults_unless_the_caller_decided(tmp_path: Path) -> None:
    """Local mode itself is not up for decision; placeholder keys only when the caller has none."""
    found = settings.read({"ECS_DATADIR": str(tmp_path), "AWS_REGION": "eu-west-1", "HOME": "/h"})
    assert (found.port, found.region, found.directory) == (51670, "eu-west-1", tmp_path)
    environment = settings.tree_environment(found, {"ECS_IMAGE_PULL_BEHAVIOR": "always"}, caller_has_keys=False)
    assert environment["ECS_IMAGE_PULL_BEHAVIOR"] == "always"
    assert environment["ECS_BACKEND_HOST"] == "http://127.0.0.1:51670"
    assert environment["AWS_ACCESS_KEY_ID"] == DUMMY_ACCESS_KEY
    assert "AWS_ACCESS_KEY_ID" not in settings.tree_environment(found, {}, caller_has_keys=True)
    assert settings.read({"HOME": "/h"}).directory == Path("/h/.local/state/ecs-local")
    with pytest.raises(Problem, match="ECS_LOCAL_PORT is 'x'"):
        settings.read({"ECS_DATADIR": str(tmp_path), "ECS_LOCAL_PORT": "x"})


def test_the_holder_of_a_taken_port_is_named() -> None:
    """Name and pid of the process: here, our own."""
    import os

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Problem) as caught:
            ports.check_free([(port, "tcp", "test")])
    assert f"{port}/tcp (test)" in str(caught.value) and f"(pid {os.getpid()})" in str(caught.value)
    ports.check_free([(port, "tcp", "test")])


def test_the_sample_image_has_busybox_and_a_link_per_applet() -> None:
    """A root file system made in memory."""
    with tarfile.open(fileobj=io.BytesIO(dockers.image_tar(b"elf", ["sh", "httpd", "busybox"]))) as tar:
        by_name = {m.name: m for m in tar.getmembers()}
    assert by_name["bin/busybox"].mode == 0o755 and by_name["bin/sh"].linkname == "busybox"
    assert "bin/httpd" in by_name and "www" in by_name


def test_a_program_with_an_interpreter_is_not_static() -> None:
    """Python itself is linked dynamically on every supported distribution, a text file is no program."""
    assert not dockers.is_static(b"#!/bin/sh\n")
    assert not dockers.is_static(Path("/bin/ls").read_bytes())
