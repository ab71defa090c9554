"""Volumes and cgroups for real: what the kernel and Docker have after create and cleanup."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from common.model.status import ResourceStatus
from common.model.task import Firelens, MountPoint, Secret, Task, Volume
from services.engine.core.effects import Action, Effect, Outcome, SetupError
from services.engine.docker import lifecycle
from services.engine.docker.hands import Hands
from services.engine.docker.volumes import DockerVolumeCalls
from services.engine.resources import cgroup
from services.engine.resources.cgroup import TaskCgroups
from services.engine.resources.kind import VolumeFailed
from services.engine.resources.registry import Registry
from tests.fakes.docker_proxy import DockerProxy, Rule
from tests.process.engine_docker.conftest import Bench, docker

pytestmark = pytest.mark.docker

needs_v1 = pytest.mark.skipif(
    cgroup.is_unified("/sys/fs/cgroup") or os.geteuid() != 0, reason="needs cgroup v1 and root"
)
needs_v2 = pytest.mark.skipif(
    not cgroup.is_unified("/sys/fs/cgroup") or os.geteuid() != 0, reason="needs cgroup v2 and root; see make test-vm"
)


def prepared(hands: Hands, task: Task) -> Task:
    """The task with its resources, as the engine's set-up leaves it."""
    facts = hands.facts()
    found = hands.resources_for(task, facts)
    return replace(task, resources=found, limits_enabled=facts.task_limits_enabled)


def resource(hands: Hands, action: Action, task: Task, name: str) -> Outcome:
    """Perform an effect on a resource."""
    return hands.perform(task, Effect(action=action, target=name))


def test_an_empty_host_volume_is_one_docker_volume_for_all_who_mount_it(bench: Bench) -> None:
    """Conformance case R56: one resource per volume (W10), one random name in all binds, gone after cleanup."""
    hands = bench.hands()
    mount = MountPoint(source_volume="shared", container_path="/s")
    reader = MountPoint(source_volume="shared", container_path="/s", read_only=True)
    task = bench.task(
        bench.container("a", mount_points=(mount,)),
        bench.container("b", mount_points=(reader,)),
        volumes=(Volume(name="shared"),),
    )
    task = prepared(hands, task)
    assert [r.name for r in task.resources] == ["shared"]
    name = task.resources[0].detail["docker_name"]
    assert resource(hands, Action.CREATE_RESOURCE, task, "shared").error is None
    assert resource(hands, Action.CREATE_RESOURCE, task, "shared").error is None  # again after a crash
    shown = json.loads(docker("volume", "inspect", name))[0]
    assert (shown["Driver"], shown["Labels"], shown["Options"]) == ("local", None, None)  # absent, not empty
    task = bench.created(hands, bench.created(hands, task, "a"), "b")
    binds = [docker("inspect", "-f", "{{.HostConfig.Binds}}", c.docker_id) for c in task.containers]
    assert binds == [f"[{name}:/s]", f"[{name}:/s:ro]"]
    busy = resource(hands, Action.REMOVE_RESOURCE, task, "shared")
    assert busy.error is not None and "volume is in use" in busy.error.text
    for container in task.containers:
        bench.do(hands, Action.REMOVE, task, container.name)
    assert resource(hands, Action.REMOVE_RESOURCE, task, "shared").error is None
    assert resource(hands, Action.REMOVE_RESOURCE, task, "shared").error is None
    assert name not in docker("volume", "ls", "-q").split()


def test_a_shared_volume_that_is_missing_refuses_the_task(bench: Bench) -> None:
    """Conformance cases 81 and R24: Docker's own words inside the cause."""
    name = f"{bench.prefix}-missing"
    volume = Volume(name=name, type="docker", configuration={"scope": "shared", "autoprovision": False})
    with pytest.raises(SetupError) as caught:
        bench.hands().resources_for(bench.task(bench.container(), volumes=(volume,)))
    assert str(caught.value) == (
        f"initialize volume: volume detection failed, volume '{name}' does not exist and autoprovision is set to "
        f"false: Error response from daemon: get {name}: no such volume"
    )


def test_an_autoprovisioned_shared_volume_stays_and_must_match_when_told_so(bench: Bench) -> None:
    """Conformance cases R25, R26, R58: made under its own name, kept by cleanup, compared only when told so."""
    name = f"{bench.prefix}-auto"
    configuration = {"scope": "shared", "autoprovision": True, "driver": "local", "labels": {"b": "2", "a": "1"}}
    mount = MountPoint(source_volume=name, container_path="/v")
    task = bench.task(
        bench.container(mount_points=(mount,)), volumes=(Volume(name=name, type="docker", configuration=configuration),)
    )
    hands = bench.hands()
    first = prepared(hands, task)
    assert resource(hands, Action.CREATE_RESOURCE, first, name).error is None
    assert resource(hands, Action.REMOVE_RESOURCE, first, name).error is None
    assert name in docker("volume", "ls", "-q").split()
    assert prepared(hands, task).resources == ()
    other = {**configuration, "labels": {"c": "3"}}
    changed = replace(task, volumes=(Volume(name=name, type="docker", configuration=other),))
    assert prepared(hands, changed).resources == ()
    with pytest.raises(SetupError) as caught:
        bench.hands(match_shared_volumes=True).resources_for(changed)
    assert str(caught.value) == (
        "intialize volume: non-autoprovisioned volume does not match existing volume labels: "
        "existing: map[a:1 b:2], expected: map[c:3]"
    )
    task = bench.created(hands, task)
    assert docker("inspect", "-f", "{{.HostConfig.Binds}}", task.containers[0].docker_id) == f"[{name}:/v]"


def test_an_efs_volume_is_made_before_anything_is_mounted(bench: Bench) -> None:
    """Docker knows driver and options; the mount is the business of the container's start (spec 05 §3.5)."""
    efs = Volume(name="efs", type="efs", configuration={"fileSystemId": "fs-1", "rootDirectory": "/x"})
    hands = bench.hands()
    task = prepared(hands, bench.task(bench.container(), volumes=(efs,)))
    name = task.resources[0].detail["docker_name"]
    assert resource(hands, Action.CREATE_RESOURCE, task, "efs").error is None
    shown = json.loads(docker("volume", "inspect", name))[0]
    assert (shown["Driver"], shown["Options"]["type"], shown["Options"]["device"]) == ("local", "nfs", ":/x")
    assert shown["Options"]["o"].startswith("addr=fs-1.efs.us-west-2.amazonaws.com,nfsvers=4.1,")
    assert resource(hands, Action.REMOVE_RESOURCE, task, "efs").error is None
    assert name not in docker("volume", "ls", "-q").split()


def test_a_volume_that_docker_refuses_is_the_reason_of_the_task(bench: Bench) -> None:
    """The resource's reason is Docker's message (spec 05 §3.4)."""
    volume = Volume(name="v", type="docker", configuration={"scope": "task", "driverOpts": {"no-such-option": "1"}})
    hands = bench.hands()
    task = prepared(hands, bench.task(bench.container(), volumes=(volume,)))
    outcome = resource(hands, Action.CREATE_RESOURCE, task, "v")
    assert outcome.reason.startswith("Error response from daemon: ") and "no-such-option" in outcome.reason


def test_a_hanging_volume_inspect_ends_with_its_time_out(bench: Bench, proxy: DockerProxy) -> None:
    """Only for autoprovisioned volumes is the time-out itself the cause (spec 03 §3.7)."""
    hands = bench.hands(proxy.address)
    proxy.add(Rule("GET", "/volumes/", hang=True))
    with pytest.raises(VolumeFailed) as caught:
        DockerVolumeCalls(hands.api, 0.3).inspect("any")
    assert caught.value.timed_out
    assert str(caught.value) == "Could not transition to inspecting volume; timed out after waiting 300ms"


def test_a_daemon_that_is_away_for_a_moment_loses_no_volume(bench: Bench, proxy: DockerProxy) -> None:
    """A shared volume that is there must not reject its task for good, nor stay behind when its task is cleaned up."""
    hands = bench.hands(proxy.address)
    volumes, name = DockerVolumeCalls(hands.api), f"{bench.prefix}-away"
    for method, path in (("POST", "/volumes/create"), ("GET", "/volumes/"), ("DELETE", "/volumes/")):
        proxy.add(Rule(method, path, drop=True, times=1))
        proxy.add(Rule(method, path, drop_after=True, times=1))
    volumes.create(name, "local", {}, {})
    assert volumes.inspect(name)["Name"] == name
    volumes.remove(name)
    assert name not in docker("volume", "ls", "-q").split()


def test_a_router_in_the_hosts_network_is_not_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never gets an address on Docker's bridge, whatever the task's mode; its start would fail after a minute."""
    monkeypatch.setattr(lifecycle, "BRIDGE_IP_SECONDS", 0.0)
    hands = bench.hands()
    own = json.dumps({"NetworkMode": "host"})
    router = bench.container("router", firelens=Firelens(type="fluentbit"), docker_host_config=own)
    task = bench.created(hands, bench.task(router, network_mode="bridge"), "router")
    assert hands.perform(task, Effect(action=Action.START, target="router")).error is None


def test_a_task_never_runs_without_what_it_needs(bench: Bench) -> None:
    """A kind that this agent lacks refuses the task, in words."""
    hands = bench.hands()
    hands.registry = Registry(TaskCgroups())
    secret = Secret(name="S", value_from="/p", provider="ssm", type="ENVIRONMENT_VARIABLE")
    with pytest.raises(SetupError, match="secrets from SSM Parameter Store, which this agent does not support"):
        hands.resources_for(bench.task(bench.container(secrets=(secret,))))


@needs_v1
def test_the_task_cgroup_has_the_limits_and_holds_the_containers(bench: Bench) -> None:
    """Conformance case 82 on cgroup v1, up to the removal of the directories."""
    hands = bench.hands(limits=None, pids_limit=200)
    assert hands.facts().task_limits_enabled
    task = bench.task(bench.container(cpu_shares=128), cpu=0.5, memory_mib=256)
    task = prepared(hands, task)
    assert resource(hands, Action.CREATE_RESOURCE, task, "cgroup").error is None
    assert resource(hands, Action.CREATE_RESOURCE, task, "cgroup").error is None
    try:
        values = {
            "cpu/{}/cpu.cfs_quota_us": "50000",
            "cpu/{}/cpu.cfs_period_us": "100000",
            "cpu/{}/cpu.shares": "1024",
            "memory/{}/memory.limit_in_bytes": "268435456",
            "memory/{}/memory.use_hierarchy": "1",
            "pids/{}/pids.max": "200",
        }
        for path, value in values.items():
            with open(os.path.join("/sys/fs/cgroup", path.format(f"ecs/{task.id}"))) as file:
                assert file.read().strip() == value, path
        task = bench.started(hands, task)
        shown = docker("inspect", "-f", "{{.HostConfig.CgroupParent}} {{.State.Pid}}", task.containers[0].docker_id)
        parent, pid = shown.split()
        assert parent == f"/ecs/{task.id}"
        membership = subprocess.run(["cat", f"/proc/{pid}/cgroup"], capture_output=True, text=True, check=True).stdout
        assert f":/ecs/{task.id}/" in membership
        bench.do(hands, Action.STOP, task)
        bench.do(hands, Action.REMOVE, task)
    finally:
        assert resource(hands, Action.REMOVE_RESOURCE, task, "cgroup").error is None
    assert not os.path.exists(f"/sys/fs/cgroup/cpu/ecs/{task.id}")
    assert resource(hands, Action.REMOVE_RESOURCE, task, "cgroup").error is None


@needs_v1
def test_a_container_is_not_started_without_the_limits_of_its_task(bench: Bench) -> None:
    """No cgroup outlives a restart of the machine, and Docker would make it anew without limits (trap 29)."""
    hands = bench.hands(limits=None)
    task = prepared(hands, bench.task(bench.container(), memory_mib=256))
    assert resource(hands, Action.CREATE_RESOURCE, task, "cgroup").error is None
    made = replace(task, resources=tuple(replace(r, known=ResourceStatus.CREATED) for r in task.resources))
    made = bench.created(hands, made)
    try:
        assert resource(hands, Action.REMOVE_RESOURCE, made, "cgroup").error is None
        assert not os.path.exists(f"/sys/fs/cgroup/memory/ecs/{task.id}")
        assert bench.do(hands, Action.START, made).error is None
        with open(f"/sys/fs/cgroup/memory/ecs/{task.id}/memory.limit_in_bytes") as file:
            assert file.read().strip() == "268435456"
        bench.do(hands, Action.STOP, made)
        bench.do(hands, Action.REMOVE, made)
    finally:
        assert resource(hands, Action.REMOVE_RESOURCE, made, "cgroup").error is None


@needs_v2
def test_the_task_slice_has_the_limits_and_holds_the_containers(bench: Bench) -> None:
    """The same on cgroup v2, with whichever cgroup driver Docker has: the container is below the limits."""
    hands = bench.hands(limits=None, pids_limit=200)
    assert hands.facts().task_limits_enabled and hands.facts().cgroup_version == "2"
    task = bench.task(bench.container(cpu_shares=128), cpu=0.5, memory_mib=256)
    task = prepared(hands, task)
    assert resource(hands, Action.CREATE_RESOURCE, task, "cgroup").error is None
    assert resource(hands, Action.CREATE_RESOURCE, task, "cgroup").error is None
    slice_ = Path(f"/sys/fs/cgroup/ecstasks.slice/ecstasks-{task.id}.slice")
    try:
        values = {"cpu.max": "50000 100000", "memory.max": "268435456", "pids.max": "200"}
        assert {name: (slice_ / name).read_text().strip() for name in values} == values
        task = bench.started(hands, task)
        pid = docker("inspect", "-f", "{{.State.Pid}}", task.containers[0].docker_id)
        path = Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/")
        container = Path("/sys/fs/cgroup") / path
        assert container.parent == slice_ and task.containers[0].docker_id in container.name
        assert (container / "cpu.weight").read_text() == "5\n", "128 shares, within the task"
        assert pid in (container / "cgroup.procs").read_text().split()
        bench.do(hands, Action.STOP, task)
        bench.do(hands, Action.REMOVE, task)
    finally:
        assert resource(hands, Action.REMOVE_RESOURCE, task, "cgroup").error is None
    assert not slice_.exists()
    assert resource(hands, Action.REMOVE_RESOURCE, task, "cgroup").error is None


@needs_v2
def test_a_task_without_limits_of_its_own_shares_by_weight(bench: Bench) -> None:
    """The sum of its containers' shares becomes the weight of the slice; nothing is bounded."""
    hands = bench.hands(limits=None)
    task = prepared(hands, bench.task(bench.container("a", cpu_shares=512), bench.container("b", cpu_shares=512)))
    assert resource(hands, Action.CREATE_RESOURCE, task, "cgroup").error is None
    slice_ = Path(f"/sys/fs/cgroup/ecstasks.slice/ecstasks-{task.id}.slice")
    shown = {name: (slice_ / name).read_text().strip() for name in ("cpu.weight", "cpu.max", "memory.max")}
    assert resource(hands, Action.REMOVE_RESOURCE, task, "cgroup").error is None
    assert shown == {"cpu.weight": "39", "cpu.max": "max 100000", "memory.max": "max"} and not slice_.exists()
