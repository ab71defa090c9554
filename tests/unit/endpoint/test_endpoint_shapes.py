"""Rendering of tasks and containers: the cases of spec 06 §23 that are about fields."""

from __future__ import annotations

from typing import Any

import pytest

from common.model.agent import Instance
from common.model.status import ContainerStatus, ContainerType, HealthStatus, TaskStatus
from common.model.task import (
    Attachment,
    Container,
    Health,
    Mount,
    Network,
    NetworkInterface,
    PortBinding,
    PortMapping,
    RestartPolicy,
)

E = "11111111-2222-4333-8444-555555555555"
D = "ab" * 32
ARN = "arn:aws:ecs:us-west-2:111122223333:task/c/0a1b"
BINDINGS = (
    PortBinding(container_port=80, host_port=8080, bind_ip="0.0.0.0"),
    PortBinding(container_port=80, host_port=8080, bind_ip="::"),
)


def eni(**more: Any) -> NetworkInterface:
    given: dict[str, Any] = {
        "ec2_id": "eni-1",
        "mac_address": "06:96:9a:ce:a6:ce",
        "ipv4_addresses": ("10.0.1.9",),
        "subnet_gateway_ipv4": "10.0.1.1/24",
    }
    return NetworkInterface(**(given | more))


def test_the_example_of_the_specification_is_rendered_to_the_byte(world, task, container):
    """Field order, omissions and number formats of a whole awsvpc task in v4 (spec 06 §11.4)."""
    c = container(
        docker_id="9c7e",
        memory_mib=256,
        labels={"com.amazonaws.ecs.task-definition-family": "web"},
        created_at="2026-06-01T10:00:00.1Z",
        started_at="2026-06-01T10:00:01.250Z",
        log_driver="awslogs",
        log_options={"awslogs-group": "g"},
        container_arn="arn:aws:ecs:us-west-2:111122223333:container/c/0a1b/55",
    )
    interface = eni(private_dns_name="ip-10-0-1-9.us-west-2.compute.internal")
    world.view.set_instance(
        Instance(arn="i", cluster="c", availability_zone="us-west-2b", availability_zone_id="usw2-az2", vpc_id="vpc-1")
    )
    world.view.set_task(
        task(
            containers=(c,),
            network_mode="awsvpc",
            interfaces=(interface,),
            cpu=0.25,
            memory_mib=512,
            launch_type="EC2",
            pull_started_at=1780307990.1,
            pull_stopped_at=1780307998.22,
        )
    )
    assert world.get(f"/v4/{E}/task").body.decode() == (
        '{"Cluster":"c","TaskARN":"arn:aws:ecs:us-west-2:111122223333:task/c/0a1b","Family":"web","Revision":"3",'
        '"DesiredStatus":"RUNNING","KnownStatus":"RUNNING","Limits":{"CPU":0.25,"Memory":512},"PullStartedAt":'
        '"2026-06-01T09:59:50.1Z","PullStoppedAt":"2026-06-01T09:59:58.22Z","AvailabilityZone":"us-west-2b",'
        '"LaunchType":"EC2","Containers":[{"DockerId":"9c7e","Name":"app","DockerName":"ecs-web-3-app-90af8f","Image":'
        '"nginx:1","ImageID":"sha256:ab12","Labels":{"com.amazonaws.ecs.task-definition-family":"web"},'
        '"DesiredStatus":"RUNNING","KnownStatus":"RUNNING","Limits":{"CPU":2,"Memory":256},"CreatedAt":'
        '"2026-06-01T10:00:00.1Z","StartedAt":"2026-06-01T10:00:01.25Z","Type":"NORMAL","LogDriver":"awslogs",'
        '"LogOptions":{"awslogs-group":"g"},"ContainerARN":"arn:aws:ecs:us-west-2:111122223333:container/c/0a1b/55",'
        '"Networks":[{"NetworkMode":"awsvpc","IPv4Addresses":["10.0.1.9"],"AttachmentIndex":0,"MACAddress":'
        '"06:96:9a:ce:a6:ce","IPv4SubnetCIDRBlock":"10.0.1.0/24","PrivateDNSName":'
        '"ip-10-0-1-9.us-west-2.compute.internal","SubnetGatewayIpv4Address":"10.0.1.1/24"}]}],"VPCID":"vpc-1",'
        '"FaultInjectionEnabled":false,"AvailabilityZoneID":"usw2-az2"}'
    )


def test_the_example_of_introspection_is_rendered_to_the_byte(world, task, container):
    """A whole task as /v1/tasks shows it (spec 06 §3.3)."""
    c = container(
        docker_id="9c7e",
        created_at="2026-06-01T10:00:00.1Z",
        started_at="2026-06-01T10:00:01.25Z",
        port_bindings=(PortBinding(container_port=80, host_port=32768),),
    )
    world.view.set_task(task(containers=(c,)))
    assert world.look(f"/v1/tasks?taskarn={ARN}").body.decode() == (
        '{"Arn":"arn:aws:ecs:us-west-2:111122223333:task/c/0a1b","DesiredStatus":"RUNNING","KnownStatus":"RUNNING",'
        '"Family":"web","Version":"3","Containers":[{"DockerId":"9c7e","DockerName":"ecs-web-3-app-90af8f","Name":'
        '"app","Image":"nginx:1","ImageID":"sha256:ab12","CreatedAt":"2026-06-01T10:00:00.1Z","StartedAt":'
        '"2026-06-01T10:00:01.25Z","Ports":[{"ContainerPort":80,"Protocol":"tcp","HostPort":32768}]}]}'
    )


@pytest.mark.parametrize(
    ("known", "desired", "shown"),
    [
        (TaskStatus.STOPPED, TaskStatus.RUNNING, (None, "STOPPED")),
        (TaskStatus.CREATED, TaskStatus.RUNNING, ("RUNNING", "PENDING")),
        (TaskStatus.RUNNING, TaskStatus.CREATED, (None, "RUNNING")),
        (TaskStatus.RUNNING, TaskStatus.STOPPED, ("STOPPED", "RUNNING")),
    ],
)
def test_introspection_hides_a_desired_status_that_contradicts_the_known_one(world, task, known, desired, shown):
    """Cases 4 and 5."""
    world.view.set_task(task(known=known, desired=desired))
    answer = world.look(f"/v1/tasks?taskarn={ARN}").json
    assert (answer.get("DesiredStatus"), answer["KnownStatus"]) == shown


def test_introspection_shows_no_containers_before_there_are_any(world, task):
    """Case 3: an empty list, not null and not left out."""
    world.view.set_task(task(containers=(Container(name="app"),)))
    assert b'"Containers":[]' in world.look(f"/v1/tasks?taskarn={ARN}").body


def test_only_introspection_falls_back_to_the_ports_of_the_task_definition(world, task, container):
    """Case 10: a dynamic port without binding has no HostPort, and v4 shows no ports at all."""
    world.view.set_task(task(containers=(container(port_mappings=(PortMapping(container_port=80),)),)))
    shown = world.look(f"/v1/tasks?taskarn={ARN}").json["Containers"][0]
    assert shown["Ports"] == [{"ContainerPort": 80, "Protocol": "tcp"}]
    assert "Ports" not in world.get(f"/v4/{E}").json


def test_the_two_bindings_of_a_published_port_are_both_shown(world, task, container):
    """Case 82: v4 tells them apart by address, the others show two equal items."""
    world.view.set_task(task(containers=(container(port_bindings=BINDINGS),)))
    plain = {"ContainerPort": 80, "Protocol": "tcp", "HostPort": 8080}
    assert world.get(f"/v4/{E}").json["Ports"] == [plain | {"HostIp": "0.0.0.0"}, plain | {"HostIp": "::"}]
    assert world.get(f"/v3/{E}").json["Ports"] == [plain, plain]
    assert world.look(f"/v1/tasks?taskarn={ARN}").json["Containers"][0]["Ports"] == [plain, plain]


def test_behind_service_connect_a_container_shows_the_ports_of_its_own_pause_container(world, task, container):
    """In bridge mode the pause container publishes them (spec 06 §8.4)."""
    binding = PortBinding(container_port=80, host_port=32768, bind_ip="0.0.0.0")
    pause = container(
        name="~internal~ecs~pause-app",
        type=ContainerType.CNI_PAUSE,
        endpoint_id="",
        docker_id="cd" * 32,
        port_bindings=(binding,),
    )
    app = container(network_mode=f"container:{'cd' * 32}", networks=())
    proxied = Attachment(type="serviceconnectdetail", properties={"ContainerName": app.name})
    world.view.set_task(task(containers=(app, pause), attachments=(proxied,)))
    shown = world.get(f"/v4/{E}").json
    assert shown["Ports"] == [{"ContainerPort": 80, "Protocol": "tcp", "HostPort": 32768, "HostIp": "0.0.0.0"}]
    assert shown["Networks"] == [{"NetworkMode": f"container:{'cd' * 32}", "IPv4Addresses": [""]}]


def test_a_task_with_an_interface_shows_the_container_port_as_host_port(world, task, container):
    """Case 11."""
    world.view.set_task(
        task(
            network_mode="awsvpc",
            interfaces=(eni(),),
            containers=(container(port_bindings=(PortBinding(container_port=80, host_port=32768),)),),
        )
    )
    assert world.get(f"/v4/{E}").json["Ports"] == [{"ContainerPort": 80, "Protocol": "tcp", "HostPort": 80}]


def test_limits_of_a_container_are_always_there_and_those_of_a_task_only_when_set(world, task):
    """Cases 33, 34 and 35."""
    world.view.set_task(task())
    answer = world.get(f"/v4/{E}/task").json
    assert "Limits" not in answer
    assert b'"Limits":{"CPU":2,"Memory":0}' in world.get(f"/v4/{E}").body
    world.view.set_task(task(cpu=0.5))
    assert world.get(f"/v4/{E}/task").json["Limits"] == {"CPU": 0.5}
    world.view.set_task(task(cpu=2.0))
    assert b'"Limits":{"CPU":2}' in world.get(f"/v4/{E}/task").body


@pytest.mark.parametrize(
    ("networks", "mode", "expected"),
    [
        ((Network(name="bridge"),), "bridge", [{"NetworkMode": "bridge", "IPv4Addresses": [""]}]),
        ((Network(name="host"),), "host", [{"NetworkMode": "host", "IPv4Addresses": [""]}]),
        ((), "container:77", [{"NetworkMode": "container:77", "IPv4Addresses": [""]}]),
        (
            (Network(name="n1", ip_address="10.1.0.2"), Network(name="n2", ip_address="10.2.0.2")),
            "n1",
            [
                {"NetworkMode": "n1", "IPv4Addresses": ["10.1.0.2"]},
                {"NetworkMode": "n2", "IPv4Addresses": ["10.2.0.2"]},
            ],
        ),
    ],
)
def test_networks_come_from_docker_and_an_empty_address_is_sent(world, task, container, networks, mode, expected):
    """Cases 36, 83 and 97: a list with one empty string is not an empty list."""
    world.view.set_task(task(containers=(container(networks=networks, network_mode=mode),)))
    assert world.get(f"/v4/{E}").json["Networks"] == expected
    assert world.get(f"/v4/{E}/task").json["Containers"][0]["Networks"] == expected


def test_only_v4_shows_the_ipv6_address_of_a_bridge_container(world, task, container):
    """Case 37."""
    networks = (Network(name="bridge", ip_address="172.17.0.3", ipv6_address="fd00::3"),)
    world.view.set_task(task(containers=(container(networks=networks),)))
    assert world.get(f"/v4/{E}").json["Networks"][0]["IPv6Addresses"] == ["fd00::3"]
    assert "IPv6Addresses" not in world.get(f"/v3/{E}").json["Networks"][0]


def test_a_dual_stack_interface_hides_its_ipv6_gateway(world, task):
    """Case 38."""
    interface = eni(
        ipv4_addresses=("1.2.3.5",),
        subnet_gateway_ipv4="1.2.3.1/24",
        ipv6_addresses=("8:3:1:1:a::",),
        subnet_gateway_ipv6="8:3:1:1:1::/64",
    )
    world.view.set_task(task(network_mode="awsvpc", interfaces=(interface,)))
    item = world.get(f"/v4/{E}").json["Networks"][0]
    assert item["IPv4SubnetCIDRBlock"] == "1.2.3.0/24" and item["IPv6SubnetCIDRBlock"] == "8:3:1:1::/64"
    assert item["SubnetGatewayIpv4Address"] == "1.2.3.1/24" and item["AttachmentIndex"] == 0
    assert "SubnetGatewayIpv6Address" not in item
    assert set(world.get(f"/v3/{E}").json["Networks"][0]) == {"NetworkMode", "IPv4Addresses", "IPv6Addresses"}


def test_an_ipv6_only_interface_takes_the_prefix_length_of_its_gateway(world, task):
    """Case 39."""
    interface = eni(
        ipv4_addresses=(), subnet_gateway_ipv4="", ipv6_addresses=("8:3:1:9::",), subnet_gateway_ipv6="8:3:1:1::/48"
    )
    world.view.set_task(task(network_mode="awsvpc", interfaces=(interface,)))
    item = world.get(f"/v4/{E}").json["Networks"][0]
    assert item["IPv6SubnetCIDRBlock"] == "8:3:1::/48" and item["SubnetGatewayIpv6Address"] == "8:3:1:1::/48"
    assert not [key for key in item if "IPv4" in key or "Ipv4" in key]


def test_v3_fails_where_v4_leaves_the_networks_out(world, task, container):
    """Case 40: one of two containers has no network settings."""
    other = container(name="new", docker_id="cd" * 32, endpoint_id="e2", networks=(), network_mode="")
    world.view.set_task(task(containers=(container(), other)))
    answer = world.get(f"/v3/{E}/task")
    assert (answer.status, answer.json) == (500, f"Unable to generate network response for container '{'cd' * 32}'")
    shown = world.get(f"/v4/{E}/task")
    assert shown.status == 200 and ["Networks" in c for c in shown.json["Containers"]] == [True, False]
    assert world.get("/v4/e2").json == f"unable to generate network response for container '{'cd' * 32}'"


def test_pulled_containers_are_listed_in_v4_only(world, task, container):
    """Case 41."""
    waiting = Container(name="later", pulled=True, known=ContainerStatus.PULLED, endpoint_id="e2")
    world.view.set_task(task(containers=(waiting, container()), network_mode="awsvpc", interfaces=(eni(),)))
    shown = world.get(f"/v4/{E}/task").json["Containers"]
    assert [c["Name"] for c in shown] == ["app", "later"]
    assert shown[1]["DockerId"] == shown[1]["DockerName"] == "" and shown[1]["KnownStatus"] == "PULLED"
    assert "Networks" not in shown[1]
    assert [c["Name"] for c in world.get(f"/v3/{E}/task").json["Containers"]] == ["app"]
    assert world.get("/v4/e2").status == 404


def test_pause_containers_come_first_in_a_bridge_task(world, task, container):
    """Case 42: Service Connect agents read the first container."""
    pause = container(name="~pause", type=ContainerType.CNI_PAUSE, docker_id="ff", endpoint_id="")
    world.view.set_task(task(containers=(container(), pause)))
    assert [c["Type"] for c in world.get(f"/v4/{E}/task").json["Containers"]] == ["CNI_PAUSE", "NORMAL"]


def test_a_restart_count_of_zero_is_shown_under_a_restart_policy(world, task, container):
    """Case 43; without an enabled policy the key is absent."""
    world.view.set_task(task(containers=(container(restart_policy=RestartPolicy(enabled=True)),)))
    assert world.get(f"/v4/{E}").json["RestartCount"] == 0
    assert "RestartCount" not in world.get(f"/v3/{E}").json
    world.view.set_task(task(containers=(container(restart_policy=RestartPolicy(enabled=False)),)))
    assert "RestartCount" not in world.get(f"/v4/{E}").json


@pytest.mark.parametrize(
    ("kind", "health", "expected"),
    [
        ("docker", Health(), {}),
        ("", Health(status=HealthStatus.HEALTHY, since=1.0), None),
        (
            "docker",
            Health(status=HealthStatus.HEALTHY, since=1780308000.5, output="ok", exit_code=3),
            {"status": "HEALTHY", "statusSince": "2026-06-01T10:00:00.5Z", "exitCode": 3, "output": "ok"},
        ),
        ("docker", Health(since=1780308000.0, exit_code=0), {"statusSince": "2026-06-01T10:00:00Z"}),
    ],
)
def test_health_is_an_object_exactly_when_docker_checks_it(world, task, container, kind, health, expected):
    """Cases 44, 45 and 86."""
    world.view.set_task(task(containers=(container(health_check_type=kind, health=health),)))
    assert world.get(f"/v4/{E}").json.get("Health") == expected


def test_what_is_not_set_is_left_out_and_false_is_not(world, task):
    """Cases 47 and 85."""
    world.view.set_task(task())
    answer = world.get(f"/v4/{E}/task").json
    assert answer["FaultInjectionEnabled"] is False
    absent = {"LaunchType", "ServiceName", "TaskTags", "Errors", "VPCID", "PullStartedAt", "AvailabilityZone"}
    assert not absent & set(answer)
    assert not {"LogDriver", "LogOptions", "Volumes", "ContainerARN", "ExitCode"} & set(answer["Containers"][0])


def test_an_exit_code_of_zero_is_shown(world, task, container):
    """Case 83."""
    stopped = container(exit_code=0, known=ContainerStatus.STOPPED, finished_at="2026-06-01T10:00:00.000000001Z")
    world.view.set_task(task(containers=(stopped,), known=TaskStatus.STOPPED, execution_stopped_at=1780308000.25))
    answer = world.get(f"/v4/{E}/task").json
    assert answer["ExecutionStoppedAt"] == "2026-06-01T10:00:00.25Z"
    assert answer["Containers"][0]["ExitCode"] == 0
    assert answer["Containers"][0]["FinishedAt"] == "2026-06-01T10:00:00.000000001Z"


def test_the_zone_can_be_hidden(make_world, task):
    """Case 80: ECS_DISABLE_TASK_METADATA_AZ hides zone and zone id, not the VPC."""
    world = make_world()
    world.view.hide_zone = True
    world.view.set_instance(Instance(arn="i", cluster="c", availability_zone="a", availability_zone_id="b", vpc_id="v"))
    world.view.set_task(task())
    answer = world.get(f"/v4/{E}/task").json
    assert "AvailabilityZone" not in answer and "AvailabilityZoneID" not in answer and answer["VPCID"] == "v"


def test_the_zone_and_its_id_have_two_sources(world, task):
    """Case 81: a registration answer without the attribute, and metadata that knows the id."""
    world.view.set_instance(Instance(arn="i", cluster="c", availability_zone_id="usw2-az1"))
    world.view.set_task(task())
    v4, v3 = world.get(f"/v4/{E}/task").json, world.get(f"/v3/{E}/task").json
    assert v4["AvailabilityZoneID"] == "usw2-az1" and "AvailabilityZone" not in v4
    assert not {"AvailabilityZone", "AvailabilityZoneID"} & set(v3)


@pytest.mark.parametrize("mode", ["awsvpc", "bridge"])
def test_an_awsvpc_task_without_interface_falls_back_to_docker_for_one_container(world, task, mode):
    """The task's own answer shows no networks then (spec 06 §12.2)."""
    world.view.set_task(task(network_mode=mode))
    docker = [{"NetworkMode": "bridge", "IPv4Addresses": ["172.17.0.3"]}]
    assert world.get(f"/v4/{E}").json["Networks"] == world.get(f"/v3/{E}").json["Networks"] == docker
    shown = [world.get(f"/v{n}/{E}/task").json["Containers"][0].get("Networks") for n in (3, 4)]
    assert shown == ([None, None] if mode == "awsvpc" else [docker, docker])


def test_a_task_without_containers_is_shown_without_them(world, task):
    """By address in v2, where nothing else is asked for: no containers, and no tags (spec 06 §9)."""
    world.view.set_task(task(containers=(Container(name="app"),), local_ip_address="169.254.172.2"))
    for path in ("/v2/metadata", "/v2/metadataWithTags"):
        answer = world.get(path, peer=("169.254.172.2", "1"))
        assert answer.status == 200 and "Containers" not in answer.json and "TaskTags" not in answer.json


def test_a_registration_that_changes_the_cluster_is_seen_in_the_next_answer(world, task):
    """Answers are kept as bytes; those that name the cluster must not outlive it."""
    world.view.set_task(task())
    assert world.get(f"/v4/{E}/task").json["Cluster"] == "c"
    world.view.set_instance(Instance(arn="i", cluster="other"))
    assert world.get(f"/v4/{E}/task").json["Cluster"] == "other"


def test_statuses_print_as_the_reference_prints_them(world, task, container):
    """A task in the state "pulled" prints as NONE (spec 06 §8.3)."""
    world.view.set_task(
        task(known=TaskStatus.PULLED, containers=(container(known=ContainerStatus.RESOURCES_PROVISIONED),))
    )
    answer = world.get(f"/v4/{E}/task").json
    assert answer["KnownStatus"] == "NONE"
    assert answer["Containers"][0]["KnownStatus"] == "RESOURCES_PROVISIONED"


def test_mounts_are_shown_except_those_of_internal_containers(world, task, container):
    """Volumes of the pause container are nobody's business."""
    mount = (Mount(name="data", source="/var/x", destination="/data"),)
    pause = container(name="~p", docker_id="ff", type=ContainerType.CNI_PAUSE, mounts=mount, endpoint_id="")
    world.view.set_task(task(containers=(container(mounts=mount), pause)))
    shown = world.get(f"/v4/{E}/task").json["Containers"]
    assert shown[1]["Volumes"] == [{"DockerName": "data", "Source": "/var/x", "Destination": "/data"}]
    assert "Volumes" not in shown[0]
    assert len(world.look(f"/v1/tasks?taskarn={ARN}").json["Containers"]) == 1


def test_v2_knows_the_caller_by_address(world, task):
    """Only awsvpc tasks have an address of their own; v2 shows their interface and no Docker networks."""
    world.view.set_task(task(network_mode="awsvpc", interfaces=(eni(),), local_ip_address="169.254.172.2"))
    peer = ("169.254.172.2", "1")
    assert world.get("/v2/metadata", peer=peer).json["Containers"][0]["Networks"] == [
        {"NetworkMode": "awsvpc", "IPv4Addresses": ["10.0.1.9"]}
    ]
    assert world.get("/v2/metadata/", peer=peer).status == 200
    assert world.get(f"/v2/metadata/{D}", peer=peer).json["DockerId"] == D
    unknown = world.get("/v2/metadata/a/b", peer=peer)
    assert (unknown.status, unknown.json) == (400, "Unable to generate metadata for container 'a/b'")
