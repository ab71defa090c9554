"""Which task definitions are refused, and with which words."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.local.core.checks import check, find_cycle, task_cpu_units, task_memory_mib
from services.local.core.errors import ApiError

Json = dict[str, Any]


def valid() -> Json:
    """A definition with two containers that depend on each other in a possible way."""
    return {
        "family": "web",
        "volumes": [{"name": "data"}],
        "containerDefinitions": [
            {"name": "db", "image": "db", "memory": 64, "healthCheck": {"command": ["CMD-SHELL", "true"]},
             "mountPoints": [{"sourceVolume": "data", "containerPath": "/data"}]},
            {"name": "web", "image": "web", "memory": 64, "links": ["db:database"], "essential": False,
             "portMappings": [{"containerPort": 80, "hostPort": 8080}],
             "dependsOn": [{"containerName": "db", "condition": "HEALTHY"}]},
        ],
    }  # fmt: skip


def changed(path: str, value: Any) -> Json:
    """`valid()` with one member set; the path is `0.name` inside containers, `.family` at the top."""
    definition = copy.deepcopy(valid())
    where, _, member = path.partition(".")
    target = definition["containerDefinitions"][int(where)] if where else definition
    if value is None:
        target.pop(member, None)
    else:
        target[member] = value
    return definition


def test_a_valid_definition_passes() -> None:
    """The starting point of the table below is itself accepted."""
    check(valid())


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (".family", None, "Family should not be null or empty."),
        (".family", "a b", "Family contains invalid characters."),
        (".containerDefinitions", [], "Container definitions should not be null or empty."),
        (".containerDefinitions", [{"name": f"c{n}", "image": "i", "memory": 8} for n in range(11)],
         "Too many containers."),
        ("0.name", None, "Container.name should not be null or empty."),
        ("0.name", "web", "Container names must be unique within a Task Definition."),
        ("0.image", None, "Container.image should not be null or empty."),
        ("0.memory", None, "At least one of 'memory' or 'memoryReservation' must be specified."),
        ("0.memory", 4, "at least 6 MiB"),
        ("0.memoryReservation", 64, "'memory' must be greater than 'memoryReservation'"),
        ("0.cpu", -1, "Invalid 'cpu' setting for container 'db'."),
        ("0.essential", False, "must be essential"),
        ("0.mountPoints", [{"sourceVolume": "nowhere", "containerPath": "/x"}], "Unknown volume 'nowhere'."),
        ("0.mountPoints", [{"sourceVolume": "data"}], "containerPath"),
        ("0.healthCheck", {"command": ["true"]}, "must start with CMD or CMD-SHELL"),
        ("0.healthCheck", {"command": ["CMD", "true"], "interval": 1}, "interval must be 5 to 300"),
        ("0.healthCheck", None, "has no health check"),
        ("0.logConfiguration", {"logDriver": "awslogs", "options": {}},
         "Log driver awslogs requires options: awslogs-region, awslogs-group"),
        ("0.environment", [{"value": "x"}], "an entry of 'environment' has no 'name'"),
        ("0.secrets", [{"name": "x"}], "an entry of 'secrets' has no 'valueFrom'"),
        ("0.volumesFrom", [{"sourceContainer": "ghost"}], "Invalid 'volumesFrom' setting. Unknown container: 'ghost'."),
        ("1.portMappings", [{"hostPort": 80}], "Invalid 'containerPort' setting for container 'web'."),
        ("1.portMappings", [{"containerPort": 70000}], "Invalid 'containerPort' setting for container 'web'."),
        ("1.portMappings", [{"containerPort": 80, "hostPort": 65536}], "Invalid 'hostPort' setting"),
        ("1.portMappings", [{"containerPortRange": "9-1"}], "Invalid 'containerPortRange' setting"),
        ("1.portMappings", [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81, "hostPort": 8080}],
         "Host port 8080/tcp is used more than once"),
        ("0.portMappings", [{"containerPort": 80, "hostPort": 8080}], "Host port 8080/tcp is used more than once"),
        ("1.links", ["ghost"], "Unknown container: 'ghost'"),
        ("0.links", ["web"], "Container links should not have a cycle"),
        ("1.dependsOn", [{"containerName": "ghost", "condition": "START"}],
         "Cannot depend on container + 'ghost' because it does not exist"),
        ("1.dependsOn", [{"containerName": "db", "condition": "SUCCESS"}],
         "A dependency container with SUCCESS or COMPLETE condition cannot be an essential container"),
        ("0.dependsOn", [{"containerName": "web", "condition": "START"}],
         "Container dependencies should not have a cycle: db -> web -> db"),
        (".networkMode", "host", "When networkMode=host, the host ports and container ports"),
        (".volumes", [{"name": "data"}, {"name": "data"}], "Duplicate volume name 'data'."),
        (".volumes", [{}], "Volume.name should not be null or empty."),
        (".volumes", [{"name": "data", "configuredAtLaunch": True}], "cannot provide"),
        (".cpu", "much", "Invalid 'cpu' setting for task"),
        (".memory", "-1", "Invalid 'memory' setting for task"),
        (".memory", "32", "cannot be greater than the value of the task 'memory'"),
        (".proxyConfiguration", {"containerName": "ghost"}, "Unknown container: 'ghost'"),
        (".requiresCompatibilities", ["FARGATE"], "Fargate requires that 'cpu' be defined at the task level."),
    ],
)  # fmt: skip
def test_a_fault_is_refused_with_a_sentence_that_names_it(path: str, value: Any, words: str) -> None:
    """Each row breaks one rule of the service; the code is ClientException with status 400."""
    with pytest.raises(ApiError) as caught:
        check(changed(path, value))
    assert words in caught.value.message
    assert (caught.value.code, caught.value.status) == ("ClientException", 400)


def test_links_are_refused_outside_bridge_mode() -> None:
    """Docker knows links on the default bridge only."""
    definition = changed(".networkMode", "none")
    definition["containerDefinitions"][1].pop("portMappings")
    with pytest.raises(ApiError, match="Links are not supported when networkMode=none"):
        check(definition)


def test_the_cpu_of_containers_may_not_exceed_that_of_the_task() -> None:
    """The service compares the sum with the task's CPU units."""
    definition = changed("0.cpu", 300) | {"cpu": ".25 vCPU"}
    with pytest.raises(ApiError, match="The sum of all container 'cpu' values cannot be greater"):
        check(definition)


@pytest.mark.parametrize(
    ("text", "units"), [("256", 256), (".25 vCPU", 256), ("1 vcpu", 1024), ("0.5vCPU", 512), (" 1024 ", 1024)]
)
def test_task_cpu_is_read_in_both_notations(text: str, units: int) -> None:
    """CPU units or vCPU."""
    assert task_cpu_units(text) == units


@pytest.mark.parametrize(("text", "mib"), [("512", 512), ("0.5GB", 512), ("1 GB", 1024), ("2gb", 2048)])
def test_task_memory_is_read_in_both_notations(text: str, mib: int) -> None:
    """MiB or GB."""
    assert task_memory_mib(text) == mib


@given(st.text(max_size=12))
def test_no_text_as_a_size_fails_other_than_with_a_client_error(text: str) -> None:
    """Sizes come from people; a traceback is never an answer."""
    for read in (task_cpu_units, task_memory_mib):
        try:
            assert read(text) > 0
        except ApiError as error:
            assert error.code == "ClientException"


@given(st.dictionaries(st.sampled_from("abcde"), st.lists(st.sampled_from("abcde"), max_size=3), max_size=5))
def test_a_found_cycle_is_one_and_none_found_means_an_order_exists(edges: dict[str, list[str]]) -> None:
    """Checked against a plain topological sort."""
    cycle = find_cycle(edges)
    if cycle:
        assert cycle[0] == cycle[-1]
        assert all(b in edges[a] for a, b in itertools.pairwise(cycle))
        return
    left = dict(edges)
    while left:
        free = [n for n, needs in left.items() if not set(needs) & set(left)]
        assert free, "no cycle was found, but no order exists"
        for node in free:
            del left[node]
