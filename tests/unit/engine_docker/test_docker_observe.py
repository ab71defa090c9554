"""From recorded inspect answers to observations (spec 03 §6.11)."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from common.model.status import ContainerStatus, HealthStatus
from common.model.task import PortBinding
from services.engine.docker.observe import bridge_ip, observe

ZERO = "0001-01-01T00:00:00Z"

# `docker inspect` of Docker 20.10 (API 1.21), shortened to the members that are read.
RUNNING: dict[str, Any] = {
    "Id": "f" * 64,
    "Name": "/ecs-web-7-app-d0a1f3c4e2b6a8f0e401",
    "Created": "2026-06-01T10:00:00.123456789Z",
    "Image": "sha256:" + "a" * 64,
    "State": {
        "Status": "running", "Running": True, "Paused": False, "OOMKilled": False, "Dead": False, "Pid": 4711,
        "ExitCode": 0, "Error": "", "StartedAt": "2026-06-01T10:00:01.5Z", "FinishedAt": ZERO,
    },
    "HostConfig": {"NetworkMode": "default", "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}}},
    "Config": {"Labels": {"a": "b"}},
    "Mounts": [
        {"Type": "volume", "Name": "v", "Source": "/s", "Destination": "/d", "Driver": "local", "Mode": "z", "RW": True}
    ],
    "NetworkSettings": {
        "IPAddress": "", "GlobalIPv6Address": "",
        "Ports": {
            "53/udp": [{"HostIp": "0.0.0.0", "HostPort": "18953"}, {"HostIp": "::", "HostPort": "18953"}],
            "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "18980"}],
            "99/tcp": None,
        },
        "Networks": {"bridge": {"IPAddress": "172.17.0.2", "MacAddress": "02:42:ac:11:00:02", "Gateway": "172.17.0.1"}},
    },
}  # fmt: skip


def inspected(**state: Any) -> dict[str, Any]:
    document = copy.deepcopy(RUNNING)
    document["State"].update(state)
    return document


EXITED = {"Running": False, "FinishedAt": "2026-06-01T10:00:09Z", "Pid": 0}


def test_a_running_container_is_told_in_full() -> None:
    """Every member that other processes show."""
    seen = observe(RUNNING)
    assert (seen.status, seen.running, seen.exit_code, seen.error) == (ContainerStatus.RUNNING, True, None, None)
    assert (seen.docker_name, seen.process_id) == ("ecs-web-7-app-d0a1f3c4e2b6a8f0e401", 4711)
    assert (seen.created_at, seen.finished_at) == ("2026-06-01T10:00:00.123456789Z", "")
    assert seen.port_bindings == (
        PortBinding(container_port=53, host_port=18953, protocol="udp", bind_ip="0.0.0.0"),
        PortBinding(container_port=53, host_port=18953, protocol="udp", bind_ip="::"),
        PortBinding(container_port=80, host_port=18980, protocol="tcp", bind_ip="0.0.0.0"),
    )
    assert seen.mounts is not None and seen.mounts[0].destination == "/d" and seen.mounts[0].read_write
    assert seen.labels == {"a": "b"}
    assert bridge_ip(seen) == "172.17.0.2"
    assert seen.health is None


@pytest.mark.parametrize(
    ("state", "status", "exit_code", "error"),
    [
        ({**EXITED, "ExitCode": 3}, ContainerStatus.STOPPED, 3, None),
        (
            {**EXITED, "OOMKilled": True, "ExitCode": 137},
            ContainerStatus.STOPPED, 137, "OutOfMemoryError: Container killed due to memory usage",
        ),
        ({**EXITED, "Error": "bad", "ExitCode": 1}, ContainerStatus.STOPPED, 1, "DockerStateError: bad"),
        (
            {**EXITED, "Error": "bad", "OOMKilled": True},
            ContainerStatus.STOPPED, 0, "OutOfMemoryError: Container killed due to memory usage",
        ),
        ({"Running": False, "StartedAt": ZERO}, ContainerStatus.CREATED, None, None),
        (
            {"Running": False, "StartedAt": ZERO, "ExitCode": 127, "Error": "no such file"},
            ContainerStatus.STOPPED, None, "DockerStateError: no such file",
        ),
        ({**EXITED, "Dead": True, "StartedAt": ZERO}, ContainerStatus.STOPPED, 0, None),
        ({"Paused": True}, ContainerStatus.RUNNING, None, None),
        ({"OOMKilled": True, "Error": "old"}, ContainerStatus.RUNNING, None, None),
    ],
)  # fmt: skip
def test_the_state_decides_status_exit_code_and_error(
    state: dict[str, Any], status: ContainerStatus, exit_code: int | None, error: str | None
) -> None:
    """Conformance cases 17 and 19; a running process is running whatever old flags say (W4)."""
    seen = observe(inspected(**state))
    assert (seen.status, seen.exit_code, str(seen.error) if seen.error else None) == (status, exit_code, error)


@pytest.mark.parametrize(
    ("ports", "error"),
    [
        ({"80/sctp": [{"HostPort": "1"}]}, "UnrecognizedTransportProtocol: UnrecognizedTransportProtocol: sctp"),
        ({"x/tcp": [{"HostPort": "1"}]}, "UnparsablePort: UnparsablePort: x/tcp -> 1"),
        ({"80/tcp": [{"HostPort": "70000"}]}, "UnparsablePort: UnparsablePort: 80/tcp -> 70000"),
    ],
)
def test_ports_that_cannot_be_read_are_an_error(ports: dict[str, Any], error: str) -> None:
    """The reference prints the name of this error twice."""
    document = inspected()
    document["NetworkSettings"]["Ports"] = ports
    assert str(observe(document).error) == error


def test_health_is_the_last_entry_of_dockers_log() -> None:
    """1024 bytes of output; an exit code only when unhealthy (spec 03 §8.4)."""
    log = [{"ExitCode": 0, "Output": "old"}, {"ExitCode": 1, "Output": "é" * 2000}]
    unhealthy = observe(inspected(Health={"Status": "unhealthy", "Log": log})).health
    assert unhealthy is not None
    assert (unhealthy.status, unhealthy.exit_code, unhealthy.output) == (HealthStatus.UNHEALTHY, 1, "é" * 512)
    healthy = observe(inspected(Health={"Status": "healthy", "Log": log[:1]})).health
    assert healthy is not None and (healthy.status, healthy.exit_code) == (HealthStatus.HEALTHY, None)
    starting = observe(inspected(Health={"Status": "starting", "Log": None})).health
    assert starting is not None and starting.status is HealthStatus.UNKNOWN
    assert observe(inspected(Health={"Status": "none"})).health is None


@pytest.mark.parametrize(("before", "character", "left"), [(1023, "é", 1), (1022, "€", 2), (1022, "😀", 2)])
def test_a_character_that_the_cut_splits_is_a_replacement_character_per_byte(before, character, left) -> None:
    """As Go's encoder writes such bytes (spec 06 §2 rule 3)."""
    log = [{"ExitCode": 1, "Output": "a" * before + character * 9}]
    health = observe(inspected(Health={"Status": "unhealthy", "Log": log})).health
    assert health is not None and health.output == "a" * before + "\ufffd" * left


def test_an_answer_with_nothing_in_it_is_tolerated() -> None:
    """Members may be absent or null in any version of Docker."""
    assert observe({}).status is ContainerStatus.CREATED
    nothing = dict.fromkeys(RUNNING)
    assert observe(nothing).port_bindings == ()
