"""The metadata files of containers, and the inspect that fills them (spec 06 §19)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from common.model.agent import DockerFacts, Instance
from common.model.task import Container, Network, PortBinding, Task
from services.engine.core.effects import Observation
from services.engine.docker.api import TimedOut
from services.engine.docker.containers import ContainerFailed, Containers
from services.engine.docker.metadata_file import MetadataFiles, rest_of
from services.engine.docker.settings import Settings


def test_the_metadata_file_is_bound_where_docker_finds_it(tmp_path: Path) -> None:
    """Readable for everybody in the container, relabelled for SELinux, gone with the container (spec 06 §19)."""
    arn = "arn:aws:ecs:us-west-2:123456789012:task/default/abc"
    assert rest_of(arn) == "default/abc" and rest_of("arn:aws:ecs:r:1:task/abc") == "abc"
    task, container = Task(arn=arn, family="web", version="3"), Container(name="app")
    settings = Settings(cluster="default", data_dir=str(tmp_path), host_data_dir="/host")
    files = MetadataFiles(settings, in_container=False)
    secure = DockerFacts(security_options=("name=selinux",))
    instance, addresses = Instance(arn="i", availability_zone="z"), {"HostPrivateIPv4Address": "1"}
    made = files.create(task, container, instance, secure, addresses)
    source, inside, flag = made["bind"].split(":")
    directory = tmp_path / "metadata" / "default" / "abc" / "app"
    assert (source, flag) == (str(directory), "Z") and made["path"] == f"{inside}/ecs-container-metadata.json"
    path = directory / "ecs-container-metadata.json"
    assert os.stat(path).st_mode & 0o777 == 0o644
    document = json.loads(path.read_text())
    assert document["Cluster"] == "default" and document["AvailabilityZone"] == "z"
    assert "MetadataFileStatus" not in document
    assert list(directory.iterdir()) == [path]
    files.remove(task, container)
    files.remove(task, container)
    assert not (tmp_path / "metadata" / "default" / "abc").exists()
    in_container = MetadataFiles(settings, in_container=True)
    bind = in_container.create(task, container, Instance(), DockerFacts(), {})["bind"]
    assert bind.startswith(f"/host/{directory}:/opt/ecs/metadata/") and not bind.endswith(":Z")


@pytest.mark.parametrize("name", ["../../../redis", "a/../../../../redis", "..", ".", "", "a/b"])
def test_a_name_that_leads_out_of_the_tasks_directory_gets_no_file_and_removes_nothing(tmp_path: Path, name) -> None:
    """The path ends in the container's name and is removed with all that is in it (spec 05, trap 34)."""
    (tmp_path / "redis").mkdir()
    task, container = Task(arn="arn:aws:ecs:us-west-2:123456789012:task/default/abc"), Container(name=name)
    kept = tmp_path / "metadata" / "default" / "abc" / "app"
    kept.mkdir(parents=True)
    files = MetadataFiles(Settings(data_dir=str(tmp_path)), in_container=False)
    assert not files.is_complete(task, container)
    for act in (
        lambda: files.create(task, container, Instance(), DockerFacts(), {}),
        lambda: files.update(task, container, Instance(), {}, Observation(), ""),
        lambda: files.remove(task, container),
    ):
        with pytest.raises(OSError, match="is not the name of a directory"):
            act()
    assert kept.is_dir() and (tmp_path / "redis").is_dir() and not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("mode", "address"), [("default", "fd00::3"), ("default", ""), ("container:" + "d" * 64, "")]
)  # fmt: skip
def test_a_container_without_named_networks_shows_its_top_level_addresses(tmp_path: Path, mode, address) -> None:
    """IPv6 as well, when Docker reports one (spec 06 §12.2, §19.2)."""
    task, container = Task(arn="arn:aws:ecs:us-west-2:1:task/default/abc"), Container(name="app")
    seen = Observation(network_mode=mode, ip_address="172.17.0.3", ipv6_address=address)
    MetadataFiles(Settings(data_dir=str(tmp_path)), in_container=False).update(
        task, container, Instance(), {}, seen, ""
    )  # fmt: skip
    (path,) = tmp_path.rglob("*.json")
    expected = {"NetworkMode": mode, "IPv4Addresses": ["172.17.0.3"]}
    assert json.loads(path.read_text())["Networks"] == [expected | ({"IPv6Addresses": [address]} if address else {})]


def test_the_metadata_file_is_completed_after_the_start(tmp_path: Path) -> None:
    """Members in the reference's order, one port item per binding, Go's escapes, `default` for no cluster (W28)."""
    arn = "arn:aws:ecs:us-west-2:123456789012:task/default/abc"
    task, container = Task(arn=arn, family="web", version="3"), Container(name="app")
    files = MetadataFiles(Settings(data_dir=str(tmp_path)), in_container=False)
    assert not files.is_complete(task, container)
    files.create(task, container, Instance(), DockerFacts(), {})
    assert not files.is_complete(task, container)
    bindings = tuple(PortBinding(container_port=80, host_port=8080, bind_ip=ip) for ip in ("0.0.0.0", "::"))
    seen = Observation(
        docker_id="d" * 64, docker_name="ecs-web-3-app-0", image_id="sha256:1", network_mode="default",
        port_bindings=bindings, networks=(Network(name="bridge", ip_address="172.17.0.2"),), running=True,
    )  # fmt: skip
    instance, addresses = Instance(arn="i", availability_zone="z"), {"HostPrivateIPv4Address": "10.0.0.1"}
    files.update(task, container, instance, addresses, seen, "b&b:1")
    assert files.is_complete(task, container)
    text = (tmp_path / "metadata" / "default" / "abc" / "app" / "ecs-container-metadata.json").read_text()
    document = json.loads(text)
    assert list(document) == [
        "Cluster", "ContainerInstanceARN", "TaskARN", "TaskDefinitionFamily", "TaskDefinitionRevision", "ContainerID",
        "ContainerName", "DockerContainerName", "ImageID", "ImageName", "PortMappings", "Networks",
        "MetadataFileStatus", "AvailabilityZone", "HostPrivateIPv4Address",
    ]  # fmt: skip
    assert '\n\t"Cluster": "default",\n' in text and '"b\\u0026b:1"' in text
    assert document["DockerContainerName"] == "/ecs-web-3-app-0"
    assert [p["BindIp"] for p in document["PortMappings"]] == ["0.0.0.0", "::"]
    assert document["PortMappings"][0] == {
        "ContainerPort": 80, "ContainerPortRange": "", "HostPort": 8080, "BindIp": "0.0.0.0", "Protocol": "tcp",
    }  # fmt: skip
    assert document["Networks"] == [{"NetworkMode": "bridge", "IPv4Addresses": ["172.17.0.2"]}]


def test_an_inspect_that_times_out_keeps_the_name_of_the_inspect() -> None:
    """Conformance case 16: only the text is that of a time-out."""

    class Slow:
        def patient_call(self, *_: Any) -> Any:
            raise TimedOut("context deadline exceeded")

    with pytest.raises(ContainerFailed) as caught:
        Containers(Slow(), Settings()).inspect("d")  # type: ignore[arg-type]
    assert str(caught.value.error) == (
        "CannotInspectContainerError: Could not transition to inspecting; timed out after waiting 30s"
    )
    assert not caught.value.gone
