"""From a task definition to what the agent gets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.local.core import definitions, lifecycle
from services.local.core.payload import task_payload

Json = dict[str, Any]
MIB = 1024 * 1024
ARN = "arn:aws:ecs:eu-west-1:000000000000:task/default/0123"


def payload(container: Json, override: Json | None = None, desired: str = "RUNNING", **task: Any) -> Json:
    """The payload of a task with one container; `task` are members of the definition."""
    given = {"family": "f", "containerDefinitions": [{"name": "c", "image": "i", "memory": 64, **container}], **task}
    view = definitions.register(given, "arn:aws:ecs:eu-west-1:0:task-definition/f:3", 3, 1.0, "me")
    task_view = lifecycle.new_task(ARN, "arn:cluster", view, [{"name": "c", "containerArn": "arn:c"}], 1.0)
    task_view["overrides"] = {"containerOverrides": [{"name": "c", **(override or {})}]}
    return task_payload(task_view, view, desired, None, None)


def only(container: Json, override: Json | None = None, **task: Any) -> Json:
    """The payload of the container itself."""
    found: Json = payload(container, override, **task)["containers"][0]
    return found


def docker(container: Json, **task: Any) -> tuple[Json, Json]:
    """(config, hostConfig) of the container."""
    wire = only(container, **task)["dockerConfig"]
    return json.loads(wire["config"]), json.loads(wire["hostConfig"])


def test_the_task_carries_its_identity() -> None:
    """ARN, family, revision and modes as spec 02 §2.4 names them."""
    task = payload({}, networkMode="host", pidMode="task", cpu="256", memory="0.5GB")
    assert task["arn"] == ARN
    assert (task["family"], task["version"], task["desiredStatus"]) == ("f", "3", "RUNNING")
    assert (task["networkMode"], task["pidMode"], task["cpu"], task["memory"]) == ("host", "task", 0.25, 512)


def test_a_container_without_settings_gets_the_defaults_of_the_service() -> None:
    """Absent essential means true for clients, but false for the agent: it must be sent."""
    container = only({})
    assert container["essential"] is True
    assert (container["cpu"], container["memory"], container["environment"]) == (0, 64, {})
    assert container["overrides"] == "{}"


def test_environment_becomes_a_map_and_overrides_are_merged_into_it() -> None:
    """The agent accepts the command as an override and nothing else."""
    container = only(
        {"environment": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
        {"environment": [{"name": "B", "value": "3"}], "command": ["x"], "memory": 128, "cpu": 5},
    )
    assert container["environment"] == {"A": "1", "B": "3"}
    assert (container["memory"], container["cpu"]) == (128, 5)
    assert json.loads(container["overrides"]) == {"command": ["x"]}


@pytest.mark.parametrize(("mode", "host_port"), [("bridge", 0), ("host", 80), ("awsvpc", 80), (None, 0)])
def test_an_absent_host_port_depends_on_the_network_mode(mode: str | None, host_port: int) -> None:
    """Dynamic in bridge mode, the container's own where there is no mapping."""
    more = {"networkMode": mode} if mode else {}
    mapping = only({"portMappings": [{"containerPort": 80}]}, **more)["portMappings"][0]
    assert mapping == {"containerPort": 80, "hostPort": host_port, "protocol": "tcp"}


def test_a_port_range_is_sent_without_single_ports() -> None:
    """The agent refuses a mapping with both."""
    mapping = only({"portMappings": [{"containerPortRange": "10-12", "protocol": "udp"}]})["portMappings"][0]
    assert mapping == {"containerPortRange": "10-12", "protocol": "udp"}


def test_a_health_check_is_given_to_docker_in_nanoseconds() -> None:
    """Defaults of the service are filled in; the agent is told that Docker does the checking."""
    container = only({"healthCheck": {"command": ["CMD", "true"], "interval": 5, "startPeriod": 1}})
    config = json.loads(container["dockerConfig"]["config"])
    assert container["healthCheckType"] == "docker"
    assert config["Healthcheck"] == {
        "Test": ["CMD", "true"], "Interval": 5_000_000_000, "Timeout": 5_000_000_000, "StartPeriod": 1_000_000_000,
        "Retries": 3}  # fmt: skip


def test_settings_of_the_image_go_into_the_docker_config() -> None:
    """Row by row the table of spec 11 §3."""
    config, _ = docker({"user": "1:2", "workingDirectory": "/w", "hostname": "h", "pseudoTerminal": True,
                        "interactive": True, "dockerLabels": {"a": "b"}, "disableNetworking": True})  # fmt: skip
    assert config == {"User": "1:2", "WorkingDir": "/w", "Hostname": "h", "Tty": True, "OpenStdin": True,
                      "Labels": {"a": "b"}, "NetworkDisabled": True}  # fmt: skip


def test_settings_of_the_host_go_into_the_host_config() -> None:
    """Row by row the table of spec 11 §3, sizes in bytes."""
    _, host = docker({
        "privileged": True, "readonlyRootFilesystem": True, "dnsServers": ["1.1.1.1"], "dnsSearchDomains": ["d"],
        "extraHosts": [{"hostname": "h", "ipAddress": "10.0.0.1"}], "dockerSecurityOptions": ["label:x"],
        "ulimits": [{"name": "nofile", "softLimit": 1, "hardLimit": 2}],
        "systemControls": [{"namespace": "net.core.somaxconn", "value": "9"}], "memoryReservation": 32,
        "logConfiguration": {"logDriver": "json-file", "options": {"max-size": "1m"}},
        "linuxParameters": {
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "initProcessEnabled": True,
            "sharedMemorySize": 8, "swappiness": 10, "maxSwap": 16,
            "tmpfs": [{"containerPath": "/t", "size": 4, "mountOptions": ["noexec"]}],
            "devices": [{"hostPath": "/dev/fuse", "permissions": ["read", "mknod"]}]}}, networkMode="none")  # fmt: skip
    assert host == {
        "NetworkMode": "none", "Privileged": True, "ReadonlyRootfs": True, "Dns": ["1.1.1.1"], "DnsSearch": ["d"],
        "ExtraHosts": ["h:10.0.0.1"], "SecurityOpt": ["label:x"],
        "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}], "Sysctls": {"net.core.somaxconn": "9"},
        "MemoryReservation": 32 * MIB, "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
        "CapAdd": ["NET_ADMIN"], "CapDrop": ["ALL"], "Init": True, "ShmSize": 8 * MIB, "MemorySwappiness": 10,
        "MemorySwap": 80 * MIB, "Tmpfs": {"/t": "size=4m,noexec"},
        "Devices": [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rm"}],
    }  # fmt: skip


def test_secrets_name_their_provider_region_and_target() -> None:
    """An ARN of Secrets Manager is `asm` in its own region, anything else `ssm` in the task's."""
    secret = "arn:aws:secretsmanager:us-west-2:123456789012:secret:db"
    container = only({
        "secrets": [{"name": "A", "valueFrom": secret}, {"name": "B", "valueFrom": "/path"}],
        "logConfiguration": {"logDriver": "splunk", "options": {"splunk-url": "u"},
                             "secretOptions": [{"name": "splunk-token", "valueFrom": "/token"}]}})  # fmt: skip
    assert [(s["name"], s["provider"], s["region"], s["target"]) for s in container["secrets"]] == [
        ("A", "asm", "us-west-2", "CONTAINER"), ("B", "ssm", "eu-west-1", "CONTAINER"),
        ("splunk-token", "ssm", "eu-west-1", "LOG_DRIVER")]  # fmt: skip
    assert {s["type"] for s in container["secrets"]} == {"ENVIRONMENT_VARIABLE"}


def test_registry_credentials_follow_from_the_image_or_the_definition() -> None:
    """An ECR image needs no setting; another private registry names a secret."""
    image = "123456789012.dkr.ecr.us-west-2.amazonaws.com/app:1"
    assert only({"image": image}, executionRoleArn="arn:aws:iam::1:role/x")["registryAuthentication"] == {
        "type": "ecr",
        "ecrAuthData": {"registryId": "123456789012", "region": "us-west-2", "useExecutionRole": True},
    }
    parameter = "arn:aws:secretsmanager:eu-north-1:1:secret:r"
    assert only({"repositoryCredentials": {"credentialsParameter": parameter}})["registryAuthentication"] == {
        "type": "asm",
        "asmAuthData": {"credentialsParameter": parameter, "region": "eu-north-1"},
    }
    assert "registryAuthentication" not in only({})


def test_volumes_get_the_type_of_their_configuration() -> None:
    """With nothing but a name it is a Docker-managed host volume; scope and driver of Docker's have defaults."""
    volumes = payload({}, volumes=[
        {"name": "a"}, {"name": "b", "host": {"sourcePath": "/b"}},
        {"name": "c", "dockerVolumeConfiguration": {"labels": {"a": "b"}}},
        {"name": "s", "dockerVolumeConfiguration": {"scope": "shared", "driver": "d"}},
        {"name": "d", "efsVolumeConfiguration": {"fileSystemId": "fs-1"}}])["volumes"]  # fmt: skip
    assert volumes == [
        {"name": "a", "type": "host", "host": {}}, {"name": "b", "type": "host", "host": {"sourcePath": "/b"}},
        {"name": "c", "type": "docker",
         "dockerVolumeConfiguration": {"scope": "task", "driver": "local", "labels": {"a": "b"}}},
        {"name": "s", "type": "docker", "dockerVolumeConfiguration": {"scope": "shared", "driver": "d"}},
        {"name": "d", "type": "efs", "efsVolumeConfiguration": {"fileSystemId": "fs-1"}}]  # fmt: skip


def test_what_an_instance_must_offer_follows_from_the_definition() -> None:
    """requiresAttributes is what placement compares with the agent's registration."""
    view = definitions.register(
        {"family": "f", "taskRoleArn": "r", "networkMode": "host", "containerDefinitions": [
            {"name": "c", "image": "i", "memory": 8, "privileged": True, "healthCheck": {"command": ["NONE"]},
             "logConfiguration": {"logDriver": "json-file"}}]}, "arn", 1, 1.0, "me")  # fmt: skip
    assert {a["name"] for a in view["requiresAttributes"]} == {
        "com.amazonaws.ecs.capability.docker-remote-api.1.18",
        "com.amazonaws.ecs.capability.task-iam-role-network-host",
        "com.amazonaws.ecs.capability.privileged-container", "com.amazonaws.ecs.capability.logging-driver.json-file",
        "ecs.capability.container-health-check"}  # fmt: skip
