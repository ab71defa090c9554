"""What a create request says of volumes, GPUs and host ports; and the names that siblings are known by."""

from __future__ import annotations

import pytest

from common.model.status import ContainerStatus
from common.model.task import Association, Container, MountPoint, PortMapping, Resource, Volume
from services.engine.core.effects import SetupError
from services.engine.docker import gpu, names
from services.engine.docker.ports import PortPicker
from services.engine.docker.settings import Settings
from tests.fakes.create_requests import build, draft, environment, refusal, task_of, world

# -- volumes ---------------------------------------------------------------------------------------


def test_a_host_volume_may_be_mounted_twice() -> None:
    """Conformance case R57: in the order of the mount points."""
    mounts = (
        MountPoint(source_volume="v", container_path="/data"),
        MountPoint(source_volume="v", container_path="/ro", read_only=True),
    )
    task = task_of(Container(name="app", mount_points=mounts), volumes=(Volume(name="v", host_path="/p"),))
    assert build(task)["HostConfig"]["Binds"] == ["/p:/data", "/p:/ro:ro"]


def test_a_repeated_mount_of_an_agent_volume_uses_one_name() -> None:
    """The resource knows the Docker name (spec 05 §3.3); a shared volume without resource keeps its own."""
    resource = Resource(kind="dockerVolume", name="shared", detail={"docker_name": "ecs-web-7-shared-0"})
    mounts = tuple(MountPoint(source_volume=v, container_path=f"/{v}") for v in ("shared", "other"))
    volumes = (Volume(name="shared"), Volume(name="other", type="docker"))
    task = task_of(Container(name="app", mount_points=mounts), volumes=volumes, resources=(resource,))
    assert build(task)["HostConfig"]["Binds"] == ["ecs-web-7-shared-0:/shared", "other:/other"]


# -- GPUs ------------------------------------------------------------------------------------------


def test_a_gpu_reaches_its_container_by_variable_and_runtime() -> None:
    """And nothing happens without ECS_ENABLE_GPU_SUPPORT (spec 03 §6.6.9)."""
    gpus = tuple(Association(name=n, type="gpu", containers=("app",)) for n in ("gpu-0", "gpu-1"))
    task = task_of(Container(name="app"), Container(name="other"), associations=gpus)
    on = world(settings=Settings(gpu=True))
    body = build(task, on=on)
    assert environment(body)["NVIDIA_VISIBLE_DEVICES"] == "gpu-0,gpu-1"
    assert body["HostConfig"]["Runtime"] == "nvidia"
    assert "Runtime" not in build(task, "other", on=on)["HostConfig"]
    assert "NVIDIA_VISIBLE_DEVICES" not in environment(build(task))
    external = world(settings=Settings(gpu=True, external=True))
    host = build(task, on=external)["HostConfig"]
    assert host["DeviceRequests"] == [{"Capabilities": [["gpu"]], "DeviceIDs": ["gpu-0", "gpu-1"]}]
    assert "Runtime" not in host and "NVIDIA_VISIBLE_DEVICES" not in environment(build(task, on=external))
    other = build(task, "other", on=external)["HostConfig"]
    assert other["DeviceRequests"] == [{"Capabilities": [["gpu"]], "DeviceIDs": None}]


@pytest.mark.parametrize(
    ("containers", "text"),
    [(("a", "b"), "could not associate multiple containers to GPU g1"),
     ((), "could not associate multiple containers to GPU g1"),
     (("z",), "could not find container with name z for associating GPU g1")],
)  # fmt: skip
def test_a_gpu_belongs_to_exactly_one_container_of_the_task(containers: tuple[str, ...], text: str) -> None:
    """Conformance case R44; nobody looks where GPU support is off."""
    gpus = (Association(name="g1", type="gpu", containers=containers),)
    task = task_of(Container(name="a"), Container(name="b"), associations=gpus)
    with pytest.raises(SetupError, match=f"^{text}$"):
        gpu.check(task, Settings(gpu=True))
    gpu.check(task, Settings())


def test_a_container_that_shows_itself_gpus_gets_the_runtime_in_a_gpu_task() -> None:
    """Conformance case R45: `none` of its own counts too, what the image sets does not; neuron overrides."""
    gpus = (Association(name="g1", type="gpu", containers=("a",)),)
    other = Container(name="b", environment={"NVIDIA_VISIBLE_DEVICES": "none"})
    neuron = Container(name="n", environment={"AWS_NEURON_VISIBLE_DEVICES": "ALL"})
    task = task_of(Container(name="a"), other, neuron, associations=gpus)
    on = world(settings=Settings(gpu=True, neuron=True))
    runtimes = [build(task, name, on)["HostConfig"]["Runtime"] for name in ("a", "b", "n")]
    assert runtimes == ["nvidia", "nvidia", "neuron"]
    bare = world(settings=Settings(gpu=True, nvidia_runtime=""))
    assert refusal(task, "a", bare) == "HostConfigError: Runtime is not set for GPU containers"
    assert "Runtime" not in build(task_of(other), "b", on)["HostConfig"]


# -- ports and names -------------------------------------------------------------------------------


def test_ranges_are_mapped_one_to_one_and_remembered() -> None:
    """Conformance case 84."""
    mappings = (
        PortMapping(container_port_range="7000-7002"),
        PortMapping(container_port=91, protocol="udp"),
        PortMapping(container_port=80, host_port=40004),
    )
    made = draft(task_of(Container(name="app", docker_name="n", port_mappings=mappings)))
    ports = {key: value[0]["HostPort"] for key, value in made.host["PortBindings"].items()}
    assert ports == {
        "7000/tcp": "40001", "7001/tcp": "40002", "7002/tcp": "40003", "91/udp": "40004", "80/tcp": "40004",
    }  # fmt: skip
    assert made.port_ranges == {"7000-7002": "40001-40003"}


@pytest.mark.parametrize(
    ("mapping", "what"),
    [(PortMapping(container_port_range="1-200"), "200 contiguous host ports are unavailable"),
     (PortMapping(container_port_range="7-7"), "1 contiguous host ports are unavailable"),
     (PortMapping(container_port=7), "a host port is unavailable")],
)  # fmt: skip
def test_no_room_for_ports_is_told_by_how_they_were_asked_for(mapping: PortMapping, what: str) -> None:
    """Conformance cases 43 and N42 of spec 04; a range of one is a range."""
    full = world(picker=PortPicker((40001, 40100), lambda port, protocol: False))
    text = refusal(task_of(Container(name="app", port_mappings=(mapping,))), on=full)
    assert text == f"HostConfigError: error retrieving docker port map: {what}"


def test_a_port_that_a_sibling_asks_for_is_not_chosen() -> None:
    """It may be created later; choosing its port would fail its start."""
    app = Container(name="app", port_mappings=(PortMapping(container_port=80),))
    other = Container(name="db", port_mappings=(PortMapping(container_port=81, host_port=40001),))
    bindings = build(task_of(app, other))["HostConfig"]["PortBindings"]
    assert bindings == {"80/tcp": [{"HostIp": "", "HostPort": "40002"}]}


def test_docker_names_keep_only_safe_characters() -> None:
    """Conformance case 38."""
    import re

    name = names.container(task_of(), "my_app.1")
    assert re.fullmatch(r"ecs-web-7-myapp1-[0-9a-f]{20}", name)
    assert names.container(task_of(), "my_app.1") != name


def test_a_sibling_that_is_only_named_is_not_there_yet() -> None:
    """The name is chosen before the create call."""
    db = Container(name="db", docker_name="n", known=ContainerStatus.PULLED)
    task = task_of(Container(name="app", links=("db",)), db)
    assert refusal(task) == "HostConfigError: Link target not available: db"
