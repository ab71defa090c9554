"""The create request, member by member, without Docker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from common.config import load
from common.model.status import ContainerType
from common.model.task import (
    Container,
    Firelens,
    MountPoint,
    NetworkInterface,
    PortMapping,
    Task,
    Volume,
    VolumeFrom,
)
from common.wire.payload import parse_task
from services.engine.docker import settings
from services.engine.docker.draft import World
from services.engine.docker.host_config import cpu_shares
from services.engine.docker.settings import Settings, from_config
from tests.fakes.create_requests import ARN, FACTS, build, draft, environment, refusal, task_of, world

MIB = 1024 * 1024


def test_the_whole_request_of_the_specification() -> None:
    """The example of spec 03 §6.6: nothing else is set."""
    app = Container(
        name="app",
        image="busybox",
        command=("sleep", "60"),
        memory_mib=32,
        environment={"A": "1"},
        endpoint_id="uuid",
        port_mappings=(PortMapping(container_port=80, host_port=8080),),
        mount_points=(MountPoint(source_volume="d", container_path="/d", read_only=True),),
        docker_config="{}",
        docker_host_config='{"CapAdd":[],"CapDrop":[]}',
        docker_api_version="1.17",
    )
    made = draft(task_of(app, volumes=(Volume(name="d", host_path="/srv/d"),)))
    assert made.version == "1.21"
    body = made.body
    assert environment(body) == {
        "A": "1",
        "AWS_REGION": "us-west-2",
        "AWS_DEFAULT_REGION": "us-west-2",
        "ECS_AGENT_URI": "http://169.254.170.2/api/uuid",
        "ECS_CONTAINER_METADATA_URI": "http://169.254.170.2/v3/uuid",
        "ECS_CONTAINER_METADATA_URI_V4": "http://169.254.170.2/v4/uuid",
    }
    body.pop("Env")
    assert body == {
        "Image": "busybox",
        "Cmd": ["sleep", "60"],
        "ExposedPorts": {"80/tcp": {}},
        "Labels": {
            "com.amazonaws.ecs.task-arn": ARN,
            "com.amazonaws.ecs.container-name": "app",
            "com.amazonaws.ecs.task-definition-family": "web",
            "com.amazonaws.ecs.task-definition-version": "7",
            "com.amazonaws.ecs.cluster": "default",
        },
        "HostConfig": {
            "Binds": ["/srv/d:/d:ro"],
            "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]},
            "CpuShares": 2,
            "Memory": 33554432,
        },
        "NetworkingConfig": {},
    }


def test_newer_api_versions_get_the_old_defaults_explicitly() -> None:
    """The daemon's defaults changed with 1.40 and 1.41 (spec 03 §6.1); the overlay still wins."""
    newer = replace(FACTS, default_api_version="1.41")
    host = build(task_of(Container(name="app", image="i")), on=world(newer))["HostConfig"]
    assert (host["IpcMode"], host["CgroupnsMode"]) == ("shareable", "host")
    unified = replace(newer, cgroup_version="2")
    private = Container(name="app", image="i", docker_host_config='{"IpcMode":"private"}')
    host = build(task_of(private), on=world(unified))["HostConfig"]
    assert host["IpcMode"] == "private" and "CgroupnsMode" not in host


def test_an_asked_version_is_used_when_it_is_higher() -> None:
    """dockerConfig.version raises, never lowers."""
    assert draft(task_of(Container(name="app", docker_api_version="1.32"))).version == "1.32"
    assert draft(task_of(Container(name="app", docker_api_version="1.9"))).version == "1.21"


@pytest.mark.parametrize(("given", "wanted"), [(0, 2), (1, 2), (50, 50), (364544, 262144)])
def test_cpu_shares_are_kept_in_the_kernels_bounds(given: int, wanted: int) -> None:
    """Conformance case 34."""
    assert cpu_shares(given) == wanted


@pytest.mark.parametrize(("mib", "wanted"), [(0, None), (2, 4 * MIB), (100, 100 * MIB)])
def test_memory_has_a_floor_but_no_default(mib: int, wanted: int | None) -> None:
    """Conformance case 37: the floor is the reference's, although newer Dockers want more."""
    assert build(task_of(Container(name="app", memory_mib=mib)))["HostConfig"].get("Memory") == wanted


def test_siblings_are_named_by_their_docker_names() -> None:
    """Conformance cases 39 and 89."""
    db = Container(name="db", docker_name="ecs-web-7-db-1", docker_id="d" * 64)
    app = Container(
        name="app", links=("db:database", "db"), volumes_from=(VolumeFrom(source_container="db", read_only=True),),
        cpu_shares=50, memory_mib=100, docker_host_config='{"Privileged":true,"SecurityOpt":["foo","bar"]}',
    )  # fmt: skip
    host = build(task_of(db, app))["HostConfig"]
    assert host["Links"] == ["ecs-web-7-db-1:database", "ecs-web-7-db-1:db"]
    assert host["VolumesFrom"] == ["ecs-web-7-db-1:ro"]
    assert (host["Privileged"], host["SecurityOpt"]) == (True, ["foo", "bar"])
    assert (host["Memory"], host["CpuShares"]) == (104857600, 50)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"links": ("a:b:c",)}, "HostConfigError: Invalid link format"),
        ({"links": ("db",)}, "HostConfigError: Link target not available: db"),
        ({"volumes_from": (VolumeFrom(source_container="db"),)}, "HostConfigError: Volume target not available: db"),
        (
            {"mount_points": (MountPoint(source_volume="no", container_path="/x"),)},
            "HostConfigError: Invalid volume referenced: no",
        ),
        (
            {"mount_points": (MountPoint(source_volume="v", container_path=""),)},
            "HostConfigError: Unable to resolve volume mounts; invalid path: app v; /h -> ",
        ),
        (
            {"docker_config": "{nope"},
            "DockerClientConfigError: Unable decode given docker config: invalid character 'n' looking for beginning "
            "of object key string",
        ),
        (
            {"health_check_type": "docker"},
            "DockerClientConfigError: docker health check is nil while container health check type is DOCKER",
        ),
        (
            {"logs_auth_strategy": "ExecutionRole"},
            "HostConfigError: No execution credentials set for the task",
        ),
        (
            {"docker_config": '{"Healthcheck":{"StartInterval":1}}', "docker_api_version": "1.30"},
            'CannotCreateContainerError: "specify health-check start interval" requires API version 1.44, but the '
            "Docker daemon API version is 1.30",
        ),
    ],
)
def test_a_request_that_cannot_be_built_says_why(fields: dict[str, Any], error: str) -> None:
    """Exact names and texts (spec 03 §6.6)."""
    task = task_of(Container(name="app", **fields), Container(name="db"), volumes=(Volume(name="v", host_path="/h"),))
    assert refusal(task) == error


def test_an_empty_command_is_the_images_own() -> None:
    """Trap 37: [] would clear what the image says; the payload's empty list means nothing."""
    parsed = parse_task({"arn": ARN, "containers": [{"name": "app", "image": "i", "command": [], "entryPoint": []}]})
    body = build(replace(task_of(Container(name="app")), containers=parsed.containers))
    assert body.get("Cmd") is None and body.get("Entrypoint") is None


@pytest.mark.parametrize(("text", "labels"), [('{"k":"v"', {}), ('["k"]', {}), ('{"k":"v"}', {"k": "v"})])
def test_broken_pause_labels_are_no_labels(text: str, labels: dict[str, str]) -> None:
    """Conformance case N9 of spec 04."""
    config = load({"ECS_PAUSE_LABELS": text}, read=lambda path: None, exists=lambda path: False)
    assert from_config(config).pause_labels == labels


def test_with_cgroup_v2_the_cgroup_path_has_no_effect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A left-over ECS_CGROUP_PATH of an older host must not turn the task limits off (spec 03 §9)."""
    config = load({"ECS_CGROUP_PATH": "/cgroup"})
    monkeypatch.setattr(settings, "UNIFIED", str(tmp_path / "cgroup.controllers"))
    assert from_config(config).cgroup_path == "/cgroup"
    (tmp_path / "cgroup.controllers").touch()
    assert from_config(config).cgroup_path == "/sys/fs/cgroup"


def test_the_region_is_set_unless_somebody_set_one() -> None:
    """By the task definition or the image, even to nothing; never for internal containers (spec 03 §6.6.2)."""
    plain = Container(name="app", image="i")
    assert environment(build(task_of(plain)))["AWS_REGION"] == "us-west-2"
    own = replace(plain, environment={"AWS_DEFAULT_REGION": ""})
    assert environment(build(task_of(own))) == {"AWS_DEFAULT_REGION": ""}
    assert "Env" not in build(task_of(plain), on=world(image_environment=lambda image: ("PATH", "AWS_REGION")))
    assert "Env" not in build(task_of(plain), on=world(region=""))
    pause = replace(plain, type=ContainerType.NAMESPACE_PAUSE)
    assert "Env" not in build(task_of(pause, credentials_id="c"))


def test_labels_of_the_agent_win_and_pause_containers_get_theirs() -> None:
    """Conformance case 40, and ECS_PAUSE_LABELS."""
    app = Container(name="app", docker_config='{"labels":{"com.amazonaws.ecs.cluster":"x","mine":"1"}}')
    labels = build(task_of(app))["Labels"]
    assert (labels["com.amazonaws.ecs.cluster"], labels["mine"]) == ("default", "1")
    on = world(settings=Settings(pause_labels={"team": "net"}))
    assert "team" not in build(task_of(app), on=on)["Labels"]
    pause = Container(name="app", type=ContainerType.CNI_PAUSE)
    assert build(task_of(pause), on=on)["Labels"]["team"] == "net"


def test_the_containers_of_an_awsvpc_task_join_the_pause_container() -> None:
    """The pause container itself has no network, and carries what the interface brings (spec 03 §6.6.6)."""
    interface = NetworkInterface(
        ec2_id="eni-1", mac_address="m", ipv4_addresses=("10.0.0.5",), ipv6_addresses=("fd00::5",),
        private_dns_name="ip-10-0-0-5.internal", domain_name_servers=("10.0.0.2",), domain_name_search=("internal",),
    )  # fmt: skip
    pause = Container(name="p", type=ContainerType.CNI_PAUSE, docker_id="abc", docker_host_config='{"Dns":["8.8.8.8"]}')
    task = task_of(Container(name="app"), pause, network_mode="awsvpc", interfaces=(interface,))
    assert build(task)["HostConfig"]["NetworkMode"] == "container:abc"
    body = build(task, "p")
    assert body["Hostname"] == "ip-10-0-0-5.internal"
    host = body["HostConfig"]
    assert host["NetworkMode"] == "none" and host["ExtraHosts"] == ["ip-10-0-0-5.internal:10.0.0.5"]
    assert host["Sysctls"] == {"net.ipv6.conf.all.disable_ipv6": "0"}
    assert (host["Dns"], host["DnsSearch"]) == (["10.0.0.2"], ["internal"])
    assert refusal(replace(task, containers=(Container(name="app"),))).startswith("HostConfigError: ")


@pytest.mark.parametrize("mode", ["bridge", "host", "none"])
def test_other_network_modes_come_from_the_overlay_alone(mode: str) -> None:
    """The task's networkMode is never turned into HostConfig.NetworkMode."""
    plain = build(task_of(Container(name="app"), network_mode=mode))
    assert "NetworkMode" not in plain["HostConfig"]
    laid = Container(name="app", docker_host_config='{"NetworkMode":"host"}')
    assert build(task_of(laid, network_mode=mode))["HostConfig"]["NetworkMode"] == "host"


def test_host_pid_and_ipc_modes_override_the_overlay() -> None:
    """Also `none`, which exists for IPC alone."""
    app = Container(name="app", docker_host_config='{"IpcMode":"private"}')
    host = build(task_of(app, pid_mode="host", ipc_mode="none"))["HostConfig"]
    assert (host["PidMode"], host["IpcMode"]) == ("host", "none")


def test_limited_tasks_name_their_cgroup() -> None:
    """Above the overlay; on cgroup v2 it is a slice, told as Docker's cgroup driver wants it."""
    app = Container(name="app", docker_host_config='{"CgroupParent":"/mine"}')
    task = task_of(app, limits_enabled=True)
    id_ = "0123456789abcdef0123456789abcdef"
    assert build(task)["HostConfig"]["CgroupParent"] == f"/ecs/{id_}"
    unified = world(replace(FACTS, cgroup_version="2"))
    assert build(task, on=unified)["HostConfig"]["CgroupParent"] == f"ecstasks-{id_}.slice"
    by_path = world(replace(FACTS, cgroup_version="2", cgroup_driver="cgroupfs"))
    assert build(task, on=by_path)["HostConfig"]["CgroupParent"] == f"/ecstasks.slice/ecstasks-{id_}.slice"


# -- logging ---------------------------------------------------------------------------------------


def log_config(overlay: str, on: World | None = None, **fields: Any) -> Any:
    return build(task_of(Container(name="app", docker_host_config=overlay), **fields), on=on)["HostConfig"].get(
        "LogConfig"
    )


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ('{"mode":"non-blocking"}', "10m"),
        ('{"mode":"non-blocking","max-buffer-size":"8m"}', "8m"),
        ('{"mode":"blocking"}', None),
    ],
)
def test_a_non_blocking_log_gets_a_buffer(options: str, size: str | None) -> None:
    """Conformance case 41."""
    found = log_config(f'{{"LogConfig":{{"Type":"json-file","Config":{options}}}}}')
    assert found["Config"].get("max-buffer-size") == size


def test_awslogs_reads_the_execution_roles_credentials() -> None:
    """And only when they are there (spec 03 §6.6.8)."""
    app = Container(
        name="app", logs_auth_strategy="ExecutionRole",
        docker_host_config='{"LogConfig":{"Type":"awslogs","Config":{"awslogs-group":"g"}}}',
    )  # fmt: skip
    task = task_of(app, execution_credentials_id="e-1")
    assert refusal(task) == "HostConfigError: Unable to get execution role credentials for task"
    host = build(task, on=world(execution_credentials=lambda id_: id_ == "e-1"))["HostConfig"]
    assert host["LogConfig"]["Config"] == {
        "awslogs-group": "g",
        "awslogs-credentials-endpoint": "/v2/credentials/e-1",
    }


def test_isolated_regions_name_their_log_endpoint() -> None:
    """The driver cannot work these out by itself."""
    overlay = '{"LogConfig":{"Type":"awslogs","Config":{"awslogs-region":"us-iso-east-1"}}}'
    found = log_config(overlay, on=world(region="us-iso-east-1"))
    assert found["Config"]["awslogs-endpoint"] == "https://logs.us-iso-east-1.c2s.ic.gov"
    assert "awslogs-endpoint" not in log_config(overlay)["Config"]


def firelens_task(**fields: Any) -> Task:
    router = Container(name="router", firelens=Firelens(type="fluentbit"), docker_id="r")
    overlay = '{"LogConfig":{"Type":"awsfirelens","Config":{"Name":"s3","log-driver-buffer-limit":"512"}}}'
    return task_of(Container(name="app", docker_host_config=overlay), router, **fields)


def test_awsfirelens_becomes_fluentd_to_the_routers_socket() -> None:
    """Conformance cases R42 and R55: exactly these options; FLUENT_HOST is the router's bridge address."""
    body = build(firelens_task(), on=world(bridge_ip=lambda task, container: "172.17.0.9"))
    id_ = "0123456789abcdef0123456789abcdef"
    assert body["HostConfig"]["LogConfig"] == {
        "Type": "fluentd",
        "Config": {
            "tag": f"app-firelens-{id_}",
            "fluentd-address": f"unix:///var/lib/ecs/data/firelens/{id_}/socket/fluent.sock",
            "fluentd-sub-second-precision": "true",
            "fluentd-async": "true",
            "fluentd-buffer-limit": "512",
        },
    }
    assert {"FLUENT_HOST": "172.17.0.9", "FLUENT_PORT": "24224"}.items() <= environment(body).items()


@pytest.mark.parametrize("mode", ["host", "none", "default", "own-network"])
def test_only_a_container_on_the_bridge_is_told_where_the_router_is(mode: str) -> None:
    """Docker's word `default` is another mode than `bridge` or none at all (spec 05 §9.5)."""
    overlay = f'{{"NetworkMode":"{mode}","LogConfig":{{"Type":"awsfirelens"}}}}'
    router = Container(name="router", firelens=Firelens(type="fluentbit"), docker_id="r")
    body = build(task_of(Container(name="app", docker_host_config=overlay), router))
    assert not {"FLUENT_HOST", "FLUENT_PORT"} & environment(body).keys()


def test_awsfirelens_needs_the_routers_address_and_dockers_version() -> None:
    """Each failure has its own name and text; the option's name follows the version (case R41)."""
    assert refusal(firelens_task()) == "DockerClientConfigError: unable to get BridgeIP for task in bridge mode"
    old = world(replace(FACTS, server_version="19.03.5"), bridge_ip=lambda task, container: "1.2.3.4")
    config = build(firelens_task(), on=old)["HostConfig"]["LogConfig"]["Config"]
    assert config["fluentd-async-connect"] == "true" and "fluentd-async" not in config
    text = refusal(firelens_task(), on=world(replace(FACTS, server_version="20.10")))
    assert text.startswith(
        "CannotCreateContainerError: failed to create container - container uses awsfirelens log driver and we failed "
        "to generate the Firelens log config: unable to determine whether the Docker server version is at least 20.10.0"
    )


def test_the_metadata_file_is_named_whatever_the_overlay_makes_of_the_variables() -> None:
    """The overlay's Env replaces the agent's variables; the file's comes after it (spec 03 §6.6, steps 14 and 17)."""
    task = task_of(Container(name="app", image="i", environment={"A": "1"}, docker_config='{"Env":["X=1"]}'))
    metadata = {"bind": "/data/m:/opt/ecs/metadata/u", "path": "/opt/ecs/metadata/u/ecs-container-metadata.json"}
    body = draft(task, metadata=metadata).body
    assert body["Env"] == ["X=1", f"ECS_CONTAINER_METADATA_FILE={metadata['path']}"]
    assert body["HostConfig"]["Binds"] == [metadata["bind"]]
    assert draft(task).body["Env"] == ["X=1"]


@pytest.mark.parametrize("field", ["docker_config", "docker_host_config"])
def test_an_empty_text_for_dockers_json_is_no_json(field: str) -> None:
    """Absent members stay absent; an empty text reaches the reference's decoder (spec 03 §1.1)."""
    payload = {"arn": ARN, "desiredStatus": "RUNNING", "containers": [{"name": "app", "image": "i"}]}
    assert build(parse_task(payload))["Image"] == "i"
    wire = "config" if field == "docker_config" else "hostConfig"
    payload["containers"][0]["dockerConfig"] = {wire: ""}  # type: ignore[index]
    assert refusal(parse_task(payload)).endswith("config: unexpected end of JSON input")
