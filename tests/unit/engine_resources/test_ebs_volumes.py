"""EBS volumes in a container's create request, and the request of their driver's own container (spec 05 §4.3, §5)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from common.model.agent import DockerFacts
from common.model.status import ContainerType, TaskStatus
from common.model.task import Container, MountPoint, Task, Volume
from services.engine.docker import request
from services.engine.docker.draft import World
from services.engine.docker.ports import PortPicker
from services.engine.docker.settings import Settings
from services.engine.resources import ebs
from services.engine.resources.cgroup import TaskCgroups
from services.engine.resources.kind import Host
from services.engine.resources.registry import Registry

ARN = "arn:aws:ecs:us-west-2:123456789012:task/default/5555"
FACTS = DockerFacts(default_api_version="1.21", usable_api_versions=("1.21",), task_limits_enabled=True)
WORLD = World(settings=Settings(), facts=FACTS, picker=PortPicker(None), region="us-west-2", cluster="default")


def volume(name: str, path: str) -> Volume:
    """As the payload's parser leaves it."""
    return Volume(name=name, type="amazonebs", configuration={"volumeId": f"vol-{name}", "sourceVolumeHostPath": path})


def host_config(*mounts: MountPoint, docker_host_config: str | None = None) -> dict[str, object]:
    """Of a container with these mounts."""
    container = Container(name="app", image="i", mount_points=mounts, docker_host_config=docker_host_config)
    volumes = (volume("data", "vol-path"), volume("more", "ecs-task-vol-1"), Volume(name="h", host_path="/h"))
    task = Task(arn=ARN, family="web", version="7", containers=(container,), volumes=volumes)
    found: dict[str, object] = request.build(task, container, WORLD, Registry(), {}).body["HostConfig"]
    return found


@pytest.mark.parametrize(("path", "gid"), [("vol-path", 973453), ("ecs-task-vol-1", 980223)])
def test_the_group_of_a_volume_is_a_number_made_from_its_path(path: str, gid: int):
    """The examples of spec 05 §4.3; the driver computes the same."""
    assert ebs.group_of(path) == gid


def test_a_container_gets_its_volume_and_the_volumes_group():
    """R35; the group is that of the first EBS mount."""
    data = MountPoint(source_volume="data", container_path="/p")
    more = MountPoint(source_volume="more", container_path="/q", read_only=True)
    plain = MountPoint(source_volume="h", container_path="/h")
    found = host_config(plain, data, more)
    assert found["Binds"] == ["/h:/h", "/mnt/ecs/ebs/vol-path:/p", "/mnt/ecs/ebs/ecs-task-vol-1:/q:ro"]
    assert found["GroupAdd"] == ["973453"]
    assert host_config(more, data)["GroupAdd"] == ["980223"]
    assert "GroupAdd" not in host_config(plain)


def test_the_task_definitions_own_groups_replace_it():
    """The payload's HostConfig is laid over the agent's."""
    data = MountPoint(source_volume="data", container_path="/p")
    assert host_config(data, docker_host_config='{"GroupAdd":["5"]}')["GroupAdd"] == ["5"]


def test_the_driver_runs_privileged_without_network_and_docker_restarts_it():
    """Spec 05 §5; the network that it asks for is replaced (spec 04 §1.1), and it has no limits of its own."""
    from services.storage.core.driver import task_of

    task = task_of("arn:::::/ebs-csi-driver-1", "/run/csi/csi-driver.sock", "/var/log/ecs/daemons/x", "/mnt/ecs/ebs")
    (container,) = task.containers
    body = request.build(task, container, WORLD, Registry(), {}).body
    assert {k: v for k, v in body.items() if k not in ("HostConfig", "Labels", "Cmd", "NetworkingConfig")} == {
        "Image": "ebs-csi-driver:latest", "User": "0", "Healthcheck": {},
    }  # fmt: skip
    assert body["Labels"]["com.amazonaws.ecs.container-name"] == "ecs-managed-ebs-csi-driver"
    found = body["HostConfig"]
    assert found["RestartPolicy"] == {"Name": "on-failure"}, "no maximum is no limit"
    assert (found["Privileged"], found["CapAdd"], found["NetworkMode"]) == (True, ["SYS_ADMIN"], "none")
    assert found["Mounts"][-1] == {
        "Type": "bind", "Source": "/dev", "Target": "/dev", "BindOptions": {"Propagation": "shared"},
    }  # fmt: skip
    assert len(found["Mounts"]) == 4 and "CgroupParent" not in found
    host = Host(Settings(), FACTS, volumes=None)  # type: ignore[arg-type]
    assert TaskCgroups().prepare(task, host) == []
    assert len(TaskCgroups().prepare(replace(task, is_internal=False), host)) == 1


def test_a_task_with_a_volume_is_set_up_without_a_resource_for_it():
    """Spec 05 §1.5: nothing waits; ECS sends the task only after ATTACHED."""
    task = Task(arn=ARN, volumes=(volume("data", "p"),), desired=TaskStatus.RUNNING)
    host = Host(Settings(), replace(FACTS, task_limits_enabled=False), volumes=None)  # type: ignore[arg-type]
    assert Registry().resources_for(task, host) == ()


def test_an_internal_container_is_of_the_sort_that_is_never_reported():
    """The driver's type is what keeps it from ECS, from pulls and from the image cleanup."""
    assert Container(name="x", type=ContainerType.MANAGED_DAEMON).is_internal


def test_a_volume_that_is_not_mounted_is_complained_about(caplog: pytest.LogCaptureFixture):
    """The task runs all the same, as under the reference; its data would be lost with the host."""
    plain = Task(arn=ARN, volumes=(Volume(name="h", host_path="/h"),))
    ebs.look_for_mounts(plain)
    assert caplog.text == ""
    ebs.look_for_mounts(replace(plain, volumes=(volume("data", "nowhere"),)))
    assert "no EBS volume is mounted at /mnt/ecs/ebs/nowhere" in caplog.text
