"""Volumes without a Docker: EFS, S3 Files, what does not fit, and what this agent refuses (spec 05 §3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from common.model.agent import DockerFacts
from common.model.task import Container, MountPoint, Task, Volume
from common.wire.payload import parse_task
from services.engine.core.effects import SetupError
from services.engine.docker.settings import Settings
from services.engine.resources.kind import Host
from services.engine.resources.network_files import mount_of
from services.engine.resources.registry import Registry
from services.engine.resources.volume import source_of

ARN = "arn:aws:ecs:eu-west-1:123456789012:task/default/0123456789abcdef0123456789abcdef"
EFS: dict[str, Any] = {
    "fileSystemId": "fs-1",
    "rootDirectory": "/x",
    "transitEncryption": "ENABLED",
    "transitEncryptionPort": 2049,
    "authorizationConfig": {"accessPointId": "fsap-1", "iam": "ENABLED"},
}


class Volumes:
    """Docker's volumes, written down."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str, Mapping[str, str], Mapping[str, str]]] = []
        self.removed: list[str] = []

    def create(self, name: str, driver: str, options: Mapping[str, str], labels: Mapping[str, str]) -> None:
        """POST /volumes/create."""
        self.made.append((name, driver, options, labels))

    def inspect(self, name: str) -> dict[str, Any]:
        """An existing shared volume."""
        return {"Name": name, "Labels": None, "Options": {"type": "nfs"}}

    def remove(self, name: str) -> None:
        """DELETE."""
        self.removed.append(name)


def host(volumes: Volumes, **settings: Any) -> Host:
    return Host(Settings(**settings), DockerFacts(), volumes, region="eu-west-1")


def efs_options(region: str = "eu-west-1", plugin: bool = True, role: str = "c-1", **changes: Any) -> dict[str, str]:
    task = Task(arn=ARN, credentials_id=role)
    configuration = {k: v for k, v in {**EFS, **changes}.items() if v is not None}
    mount = mount_of(task, Volume(name="v", type="efs", configuration=configuration), region, plugin)
    assert mount is not None
    return {"driver": mount.driver, **mount.options}


def test_the_volume_plugin_gets_everything_that_the_task_asks_for() -> None:
    """Conformance case R28 in bridge mode (R30: no netns); the credentials are the task role's."""
    assert efs_options() == {
        "driver": "amazon-ecs-volume-plugin",
        "type": "efs",
        "device": "fs-1:/x",
        "o": "tls,tlsport=2049,iam,awscredsuri=/v2/credentials/c-1,accesspoint=fsap-1",
    }
    assert efs_options(role="")["o"] == "tls,tlsport=2049,iam,awscredsuri,accesspoint=fsap-1"
    bare = efs_options(
        rootDirectory=None, transitEncryption="DISABLED", transitEncryptionPort=None, authorizationConfig=None
    )
    assert (bare["device"], bare["o"]) == ("fs-1", "")


def test_without_the_plugin_dockers_own_driver_mounts_by_nfs() -> None:
    """Conformance case R29; the name of the file system's host follows the partition."""
    legacy = efs_options(plugin=False, rootDirectory=None)
    tail = "nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport"
    assert legacy == {
        "driver": "local", "type": "nfs", "device": ":", "o": f"addr=fs-1.efs.eu-west-1.amazonaws.com,{tail}",
    }  # fmt: skip
    china = efs_options(region="cn-north-1", plugin=False)
    assert china["device"] == ":/x"
    assert china["o"].startswith("addr=fs-1.efs.cn-north-1.amazonaws.com.cn,")
    assert efs_options(region="us-iso-east-1", plugin=False)["o"].startswith("addr=fs-1.efs.us-iso-east-1.c2s.ic.gov,")


def test_an_s3_files_volume_always_has_tls_and_the_task_role() -> None:
    """From the payload's attachment to Docker's options."""
    payload = {
        "arn": ARN,
        "containers": [{"name": "a", "mountPoints": [{"sourceVolume": "files", "containerPath": "/f"}]}],
        "volumes": [{"name": "files"}],
        "roleCredentials": {"credentialsId": "c-1"},
        "attachments": [
            {
                "attachmentArn": "arn:aws:ecs:eu-west-1:1:attachment/x",
                "attachmentType": "s3files",
                "attachmentProperties": [
                    {"name": "volumeId", "value": "fs-9"},
                    {"name": "volumeName", "value": "files"},
                    {"name": "s3FilesRootDirectory", "value": "/r"},
                    {"name": "s3FilesTransitEncryptionPort", "value": "20049"},
                    {"name": "s3FilesAccessPointId", "value": "fsap-2"},
                ],
            }
        ],
    }
    task = parse_task(payload)
    (volume,) = task.volumes
    mount = mount_of(task, volume, "eu-west-1", True)
    assert mount is not None and mount.driver == "amazon-ecs-volume-plugin"
    assert mount.options == {
        "type": "s3files",
        "device": "fs-9:/r",
        "o": "tls,tlsport=20049,iam,awscredsuri=/v2/credentials/c-1,accesspoint=fsap-2",
    }


def test_a_network_file_system_is_a_docker_volume_of_the_task() -> None:
    """Made under a random name without labels, bound by that name, removed with the task; containers wait for it."""
    volumes = Volumes()
    here = host(volumes, efs_plugin=True)
    app = Container(name="a", mount_points=(MountPoint(source_volume="shared", container_path="/s"),))
    efs = Volume(name="shared", type="efs", configuration=EFS)
    task = Task(arn=ARN, family="web", version="3", containers=(app,), volumes=(efs,), credentials_id="c-1")
    registry = Registry()
    (resource,) = registry.resources_for(task, here)
    registry.create(task, resource, here)
    ((name, driver, options, labels),) = volumes.made
    assert name.startswith("ecs-web-3-shared-") and driver == "amazon-ecs-volume-plugin"
    assert (options["device"], labels) == ("fs-1:/x", {})
    made = Task(arn=ARN, containers=(app,), volumes=(efs,), resources=(resource,))
    assert source_of(made, efs) == name
    registry.cleanup(task, resource, here)
    assert volumes.removed == [name]


def docker_volume(**configuration: Any) -> Task:
    return Task(arn=ARN, volumes=(Volume(name="v", type="docker", configuration=configuration),))


def test_a_volume_of_task_scope_cannot_be_autoprovisioned() -> None:
    """Conformance case R23."""
    with pytest.raises(SetupError) as caught:
        Registry().resources_for(docker_volume(scope="task", autoprovision=True), host(Volumes()))
    assert str(caught.value) == "volume [v] : task scoped volume could not be autoprovisioned"


def test_a_volume_of_the_task_is_made_with_driver_options_and_labels() -> None:
    """Conformance case R27: under a name of its own; removed with the task."""
    given = {"scope": "task", "driver": "d", "driverOpts": {"o": "1"}, "labels": {"l": "2"}}
    volumes = Volumes()
    task = replace(docker_volume(**given), family="f", version="3")
    (resource,) = Registry().resources_for(task, host(volumes))
    Registry().create(task, resource, host(volumes))
    ((name, *made),) = volumes.made
    assert re.fullmatch(r"ecs-f-3-v-[0-9a-f]{20}", name) and made == ["d", {"o": "1"}, {"l": "2"}]
    Registry().cleanup(task, resource, host(volumes))
    assert volumes.removed == [name]


def test_driver_options_are_compared_when_told_so() -> None:
    """No labels and empty labels are the same; the texts differ in their first letter (spec 05 §3.4)."""
    task = docker_volume(scope="shared", autoprovision=True, labels={}, driverOpts={"type": "tmpfs"})
    with pytest.raises(SetupError) as caught:
        Registry().resources_for(task, host(Volumes(), match_shared_volumes=True))
    assert str(caught.value) == (
        "initialize volume: non-autoprovisioned volume does not match existing volume options: "
        "existing: map[type:nfs], expected: map[type:tmpfs]"
    )
    same = docker_volume(scope="shared", autoprovision=True, driverOpts={"type": "nfs"})
    assert Registry().resources_for(same, host(Volumes(), match_shared_volumes=True)) == ()


FSX = "FSx for Windows File Server volumes"


@pytest.mark.parametrize(
    ("task", "what"),
    [
        (Task(arn=ARN, network_mode="awsvpc"), "network mode awsvpc (task network interfaces)"),
        (Task(arn=ARN, volumes=(Volume(name="v", type="fsxWindowsFileServer"),)), FSX),
    ],
)  # fmt: skip
def test_what_this_agent_cannot_do_refuses_the_task_in_words(task: Task, what: str) -> None:
    """Running it without its network, volume or identity would be worse than not running it."""
    with pytest.raises(SetupError) as caught:
        Registry().resources_for(task, host(Volumes()))
    assert str(caught.value) == f"the task needs {what}, which this agent does not support"
