"""The command line's own decisions: files, changes between two looks, settings, ports, the sample image."""

from __future__ import annotations

import configparser
import io
import json
import socket
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import requests
from docker.errors import APIError

from common.tree import run
from services.local.cli import example, main
from services.local.core.checks import check
from services.local.tool import commands, dockers, ecs, ports, settings, tree
from services.local.tool.files import host_ports, load_definition
from services.local.tool.settings import Problem
from services.local.tool.watch import changes, exit_status

Json = dict[str, Any]
REQUEST = {"family": "f", "containerDefinitions": [{"name": "c", "image": "i", "memory": 8}]}

CLUSTERS = {"clusterArns": ["arn:aws:ecs:r:0:cluster/default"]}


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory whose name is short enough for a unix socket in it."""
    with tempfile.TemporaryDirectory(prefix="ecs-l-") as name:
        yield Path(name)


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


def test_a_secrets_file_makes_the_control_plane_answer_for_ssm_and_secrets_manager(
    short_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the user's own endpoint is set; the path is the caller's, whatever directory the tree works in."""
    monkeypatch.chdir(short_directory)
    environ = {
        "ECS_LOCAL_CONTROL_PLANE": "true",
        "ECS_LOCAL_PORT": "51999",
        "ECS_DATADIR": str(short_directory),
        "ECS_LOCAL_SECRETS_FILE": "secrets.json",
        "AWS_ENDPOINT_URL_SSM": "http://mine",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    found = settings.read(environ | {"HOME": "/h"})
    assert settings.tree_environment(found, environ)["ECS_LOCAL_SECRETS_FILE"] == str(short_directory / "secrets.json")
    run.prepare(environ)
    assert environ["ECS_LOCAL_SECRETS_FILE"] == str(short_directory / "secrets.json")
    assert environ["AWS_ENDPOINT_URL_SECRETS_MANAGER"] == "http://127.0.0.1:51999"
    assert environ["AWS_ENDPOINT_URL_SSM"] == "http://mine"


def test_the_environment_of_the_tree_is_the_callers_with_local_mode_in_it(tmp_path: Path) -> None:
    """Local mode itself is not up for decision, and whether the caller's profile works is not asked here."""
    found = settings.read({"ECS_DATADIR": str(tmp_path), "AWS_REGION": "eu-west-1", "HOME": "/h"})
    assert (found.port, found.region, found.directory) == (51670, "eu-west-1", tmp_path)
    environment = settings.tree_environment(found, {"ECS_IMAGE_PULL_BEHAVIOR": "always"})
    assert environment["ECS_IMAGE_PULL_BEHAVIOR"] == "always"
    assert environment["ECS_BACKEND_HOST"] == "http://127.0.0.1:51670"
    assert "AWS_ACCESS_KEY_ID" not in environment, "the tree has its own stand-in"
    assert settings.read({"HOME": "/h"}).directory == Path("/h/.local/state/ecs-local")
    with pytest.raises(Problem, match="ECS_LOCAL_PORT is 'x'"):
        settings.read({"ECS_DATADIR": str(tmp_path), "ECS_LOCAL_PORT": "x"})


def test_local_mode_has_a_laptop_s_defaults_however_it_is_started(short_directory: Path) -> None:
    """`ecs-agent` alone gets what `ecs-local` gets; what the environment or the file says stays."""
    file = short_directory / "ecs.config.json"
    file.write_text(json.dumps({"TaskIAMRoleEnabledForNetworkHost": True, "ImagePullBehavior": 1}))
    environ = {
        "ECS_LOCAL_CONTROL_PLANE": "true",
        "ECS_DATADIR": str(short_directory),
        "ECS_ENABLE_TASK_IAM_ROLE": "false",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    plain = dict(environ)
    run.prepare(plain)
    assert plain["ECS_IMAGE_PULL_BEHAVIOR"] == "prefer-cached"
    assert plain["ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST"] == "true"
    assert plain["ECS_ENABLE_TASK_IAM_ROLE"] == "false"
    with_file = {**environ, "ECS_AGENT_CONFIG_FILE_PATH": str(file)}
    run.prepare(with_file)
    assert "ECS_IMAGE_PULL_BEHAVIOR" not in with_file, "it would win over the file"


def test_down_waits_for_every_stage_of_an_orderly_end() -> None:
    """A tree that is killed before its last stage leaves the rules of init on the machine."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(run.config_path())
    stages: dict[int, int] = {}
    for section in (parser[name] for name in parser.sections() if name.startswith("program:")):
        stage = section.getint("priority") // 10
        stages[stage] = max(stages.get(stage, 0), section.getint("stopwaitsecs"))
    assert sum(stages.values()) < tree.STOP_SECONDS


@pytest.mark.parametrize(
    ("connect", "remove"),
    [
        (Problem("No Docker Engine answers"), None),
        (None, APIError("removal of container failed")),
        (None, requests.ConnectionError("Connection refused")),
    ],
)
def test_down_ends_the_tree_also_without_docker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    connect: Exception | None, remove: Exception | None,
) -> None:  # fmt: skip
    """The containers stay and are told of; the tree and its note go."""
    monkeypatch.setenv("ECS_DATADIR", str(tmp_path))
    monkeypatch.setattr(tree, "running", lambda settings: {"pid": 7})
    monkeypatch.setattr(commands, "_client", lambda settings: Mock(**{"list_clusters.return_value": CLUSTERS}))
    monkeypatch.setattr(ecs, "task_arns", lambda *args: [])
    monkeypatch.setattr(ecs, "describe", lambda *args: [])
    monkeypatch.setattr(dockers, "connect", Mock(side_effect=connect))
    monkeypatch.setattr(dockers, "remove_containers", Mock(side_effect=remove))
    stopped = Mock()
    monkeypatch.setattr(tree, "stop", stopped)
    assert main(["down"]) == 0
    assert stopped.call_args.args[1] == 7
    assert "The containers of cluster default could not be removed: " in capsys.readouterr().out


def test_a_profile_that_is_not_there_does_not_hide_the_control_plane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client signs with placeholders, so AWS_PROFILE is none of its business."""
    monkeypatch.setenv("AWS_PROFILE", "nosuch")
    found = settings.read({"ECS_DATADIR": str(tmp_path), "ECS_LOCAL_PORT": "51670", "HOME": "/h"})
    assert ecs.client(found).meta.endpoint_url == "http://127.0.0.1:51670"


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
