"""A definition made for Fargate on an instance without its network and logs."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from services.local.core import definitions, laptop, lifecycle
from services.local.core.payload import task_payload

Json = dict[str, Any]
LOGS = {"awslogs-group": "/app", "awslogs-region": "eu-west-1", "awslogs-stream-prefix": "a"}
FARGATE: Json = {
    "family": "shop", "networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"], "cpu": "256", "memory": "512",
    "executionRoleArn": "arn:aws:iam::1:role/x", "taskRoleArn": "arn:aws:iam::1:role/t",
    "runtimePlatform": {"cpuArchitecture": "X86_64", "operatingSystemFamily": "LINUX"},
    "ephemeralStorage": {"sizeInGiB": 30},
    "containerDefinitions": [
        {"name": "web", "image": "i", "portMappings": [{"containerPort": 8080}],
         "systemControls": [{"namespace": "net.core.somaxconn", "value": "9"}],
         "logConfiguration": {"logDriver": "awslogs", "options": LOGS,
                              "secretOptions": [{"name": "awslogs-datetime-format", "valueFrom": "/p"}]}},
        {"name": "app", "image": "i", "logConfiguration": {"logDriver": "awslogs", "options": LOGS}}]}  # fmt: skip
COM, ECS = definitions.P1, definitions.P2
LAPTOP = frozenset({
    COM + "docker-remote-api.1.18", COM + "logging-driver.json-file", COM + "task-iam-role",
    COM + "task-iam-role-network-host", ECS + "task-cpu-mem-limit"})  # fmt: skip


def registered(**more: Any) -> Json:
    """The view of the definition."""
    return definitions.register(FARGATE | more, "arn:aws:ecs:eu-west-1:0:task-definition/shop:1", 1, 1.0, "me")


def sent(view: Json) -> Json:
    """The payload of a task of this definition."""
    arn = "arn:aws:ecs:eu-west-1:000000000000:task/default/0123"
    containers = [{"name": c["name"], "containerArn": "arn:c"} for c in view["containerDefinitions"]]
    return task_payload(lifecycle.new_task(arn, "arn:cluster", view, containers, 1.0), view, "RUNNING", None, None)


def test_a_fargate_definition_is_sent_as_the_laptop_can_run_it() -> None:
    """The host's network, so that containers meet on localhost; log files, so that `ecs-local logs` shows them."""
    view = registered()
    before = copy.deepcopy(view)
    fitted = laptop.fit(view, LAPTOP)
    task = sent(fitted.definition)
    assert (task["networkMode"], task["cpu"], task["memory"]) == ("host", 0.25, 512)
    hosts = [json.loads(c["dockerConfig"]["hostConfig"]) for c in task["containers"]]
    assert {h["NetworkMode"] for h in hosts} == {"host"} and not any("Sysctls" in h for h in hosts)
    assert [h["LogConfig"] for h in hosts] == [{"Type": "json-file", "Config": {}}] * 2
    assert task["containers"][0]["portMappings"] == [{"containerPort": 8080, "hostPort": 8080, "protocol": "tcp"}]
    assert not any("secrets" in c or "logsAuthStrategy" in c for c in task["containers"])
    assert view == before, "what clients see stays what was registered"


def test_placement_asks_for_what_the_replaced_definition_needs() -> None:
    """No interface and no log driver of the cloud, but credentials for a task in the host's network."""
    assert laptop.fit(registered(), LAPTOP).attributes == LAPTOP - {COM + "task-iam-role"}
    assert ECS + "task-eni" in {a["name"] for a in registered()["requiresAttributes"]}


@pytest.mark.parametrize(
    ("more", "less", "words"),
    [
        ((), (), ["network mode awsvpc -> host", "log driver awslogs -> json-file (web, app)"]),
        ((ECS + "task-eni",), (), ["log driver"]),
        ((COM + "logging-driver.awslogs",), (), ["network mode"]),
        ((), (COM + "logging-driver.json-file",), ["network mode"]),
        ((), (ECS + "task-cpu-mem-limit",), ["network mode", "log driver", "cpu and memory of the task -> no limit"]),
        ((ECS + "task-eni", COM + "logging-driver.awslogs"), (), []),
    ],
)
def test_only_what_the_instance_lacks_is_replaced(
    more: tuple[str, ...], less: tuple[str, ...], words: list[str]
) -> None:
    """One sentence for each replacement; an instance that can do everything gets the definition as it is."""
    view = registered()
    fitted = laptop.fit(view, LAPTOP.union(more).difference(less))
    assert len(fitted.replaced) == len(words)
    assert all(sentence.startswith(start) for sentence, start in zip(fitted.replaced, words, strict=True))
    assert (fitted.definition is view) == (not words)


def test_a_definition_for_a_server_is_left_alone() -> None:
    """Another log driver that is lacking is no matter of production or laptop: placement says ATTRIBUTE."""
    container = {"name": "c", "image": "i", "memory": 8, "logConfiguration": {"logDriver": "syslog"}}
    request = {"family": "f", "networkMode": "bridge", "containerDefinitions": [container]}
    view = definitions.register(request, "arn", 1, 1.0, "me")
    fitted = laptop.fit(view, LAPTOP)
    assert fitted.definition is view and COM + "logging-driver.syslog" in fitted.attributes
