"""Service Connect in the pure core: who is added, who waits for whom, whose ports are reported (spec 04 §2.3, §11)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from common.model.status import ContainerStatus as C
from common.model.status import ContainerType
from common.model.status import TaskStatus as T
from common.model.task import Attachment, Container, PortBinding, PortMapping, Resource, Task
from common.serviceconnect import AGENT_IMAGE
from services.engine.core.begin import begin
from services.engine.core.effects import Action, Observation
from services.engine.core.hosts import demand_of
from services.engine.core.relay import is_needed, running_relay, task_of
from services.engine.core.turn import Surroundings

ARN = "arn:aws:ecs:us-west-2:1:task/c/t1"
PAUSE = "~internal~ecs~pause-"
DETAIL = {
    "ingress": [{"port": 40001, "hostPort": 18080}],
    "egress": {"port": 40002, "ipv4": "198.18.0.0/16", "ipv6": ""},
    "ephemeral": {"http": 40001}, "hosts": [], "pause": "mine/pause:2", "digest": "sha256:abc",
}  # fmt: skip
APP = Container(name="app-1", image="web", essential=True, port_mappings=(PortMapping(container_port=8080),))
PROXY = Container(name="sc", image="anything", essential=True, health_check_type="docker")
PROXIED = Attachment(type="serviceconnectdetail", properties={"ContainerName": "sc", "ServiceConnectConfig": "{}"})


def arrive(*containers: Container, resources: tuple[Resource, ...] = (), **more: object) -> Task:
    """The task after its set-up."""
    found = (Resource(kind="serviceconnect", name="serviceconnect", detail=DETAIL), *resources)
    values = {"attachments": (PROXIED,), "desired": T.RUNNING, **more}
    task = Task(arn=ARN, containers=containers or (APP, PROXY), **values)  # type: ignore[arg-type]
    return begin(task, lambda _: found, False, Surroundings(now=1.0)).task


def waits(task: Task, name: str, step: C) -> list[tuple[str, str]]:
    """For which containers a container waits before a step."""
    container = task.container(name)
    assert container is not None
    needed = container.transition_dependencies.get(int(step))
    return [(d.target, C(d.status).name) for d in needed.containers] if needed else []


def test_in_bridge_mode_each_container_gets_a_pause_container():
    """Case N38: in the order of the containers, essential, provisioned, with the operator's image."""
    task = arrive()
    pauses = [c for c in task.containers if c.type == ContainerType.CNI_PAUSE]
    assert [c.name for c in pauses] == [f"{PAUSE}app-1", f"{PAUSE}sc"]
    assert {(c.essential, c.steady, c.image) for c in pauses} == {(True, C.RESOURCES_PROVISIONED, "mine/pause:2")}
    assert pauses[0].port_mappings == APP.port_mappings
    assert [(m.container_port, m.host_port) for m in pauses[1].port_mappings] == [(40001, 18080)]
    assert all(not c.environment and not c.endpoint_id for c in pauses)


def test_they_wait_for_each_other_as_the_specification_lists():
    """The proxy for all namespaces, their routes for its address, and all of them for its end."""
    task = arrive()
    provisioned = [(f"{PAUSE}app-1", "RESOURCES_PROVISIONED"), (f"{PAUSE}sc", "RESOURCES_PROVISIONED")]
    assert waits(task, "sc", C.CREATED) == provisioned
    assert waits(task, "sc", C.STOPPED) == [("app-1", "STOPPED")]
    assert waits(task, f"{PAUSE}app-1", C.RESOURCES_PROVISIONED) == [(f"{PAUSE}sc", "RUNNING")]
    assert waits(task, f"{PAUSE}sc", C.RESOURCES_PROVISIONED) == []
    for name in ("app-1", "sc"):
        assert waits(task, PAUSE + name, C.STOPPED) == [("sc", "STOPPED")]
    app = task.container("app-1")
    assert app is not None and [(d.container_name, d.condition) for d in app.depends_on] == [("sc", "HEALTHY")]


def test_the_proxy_is_amazons_agent_whatever_the_task_definition_names():
    """Its image is loaded from the operator's archive (spec 04 §11.2)."""
    proxy = arrive().container("sc")
    assert proxy is not None and (proxy.image, proxy.image_digest) == (AGENT_IMAGE, "sha256:abc")


def test_pause_containers_wait_for_the_cgroup():
    """Docker would make it without limits (trap 29)."""
    task = arrive(resources=(Resource(kind="cgroup", name="cgroup"),))
    for container in task.containers:
        needed = container.transition_dependencies[int(C.PULLED)]
        assert [d.target for d in needed.resources] == ["cgroup"]


def test_outside_of_bridge_mode_there_is_an_order_and_no_pause_container():
    """A task without listeners may be in host mode."""
    task = arrive(network_mode="host")
    assert [c.name for c in task.containers] == ["app-1", "sc"]
    app = task.container("app-1")
    assert app is not None and [d.condition for d in app.depends_on] == ["HEALTHY"]


def test_a_task_without_the_attachment_is_none_of_this():
    """Not even with a container called service-connect: the reference's leftover (W5)."""
    task = arrive(APP, Container(name="service-connect"), attachments=())
    assert [(c.name, c.depends_on) for c in task.containers] == [("app-1", ()), ("service-connect", ())]


def test_a_proxy_without_a_health_check_can_never_be_waited_for():
    """Trap 26: the task is rejected instead of waiting for ever."""
    without = Container(name="sc", image="anything", essential=True)
    task = arrive(APP, without)
    assert task.known == T.STOPPED
    assert task.terminal_reason == f"Task dependencies cannot be resolved, taskArn: {ARN}"


def test_ports_of_pause_containers_take_nothing_of_the_host_twice():
    """What a task asks of the host is the same before and after its set-up."""
    fixed = Container(name="app-1", essential=True, port_mappings=(PortMapping(container_port=80, host_port=8080),))
    assert demand_of(arrive(fixed, PROXY)).tcp == {8080}


def test_the_reported_ports_are_those_of_the_pause_container(brain):
    """Docker knows no ports of a container that joins another's namespace (spec 03 §8.4)."""
    ready = arrive()
    it = brain(*ready.containers, attachments=(PROXIED,), resources=ready.resources)
    pauses = [f"{PAUSE}app-1", f"{PAUSE}sc"]
    bound = {
        pauses[0]: (PortBinding(container_port=8080, host_port=32768),),
        pauses[1]: (PortBinding(container_port=40001, host_port=18080),),
    }
    for name in pauses:
        it.ends(Action.RESOLVE_MANIFEST, name)
        it.ends(Action.PULL, name)
        it.ends(Action.CREATE, name, observation=Observation(docker_id=f"id-{name}"))
    for name in reversed(pauses):
        seen = Observation(docker_id=f"id-{name}", status=C.RUNNING, running=True, port_bindings=bound[name])
        it.ends(Action.START, name, observation=seen)
        it.ends(Action.PROVISION, name)
    it.run("sc")
    assert [e.status for e in it.container_reports("sc")] == [C.RUNNING], "its digest is no news at MANIFEST_PULLED"
    assert it.container_reports("sc")[-1].image_digest == "sha256:abc"
    assert it.container_reports("sc")[-1].port_bindings == bound[f"{PAUSE}sc"]
    assert it.container_reports("sc")[-1].single_ports == (40001,)
    assert not [e for e in it.events if getattr(e, "name", "").startswith("~")]


def test_a_pause_container_without_an_address_ends_the_task_and_its_process(brain, seen):
    """It was started, so it is stopped: nobody would stop it later."""
    ready = arrive()
    it = brain(*ready.containers, attachments=(PROXIED,), resources=ready.resources)
    name = f"{PAUSE}sc"
    it.ends(Action.RESOLVE_MANIFEST, name)
    it.ends(Action.PULL, name)
    it.ends(Action.CREATE, name, observation=Observation(docker_id="id"))
    error = "ContainerNetworkingError: startContainer: failed to resolve container IP"
    it.ends(Action.START, name, error=error, observation=seen.running(name))
    assert [e.target for e in it.effects if e.action is Action.STOP] == [name]
    assert it.task.desired == T.STOPPED


@pytest.mark.parametrize(("desired", "known", "needed"), [
    (T.RUNNING, T.RUNNING, True), (T.RUNNING, T.NONE, True), (T.STOPPED, T.RUNNING, False),
    (T.RUNNING, T.STOPPED, False),
])  # fmt: skip
def test_a_relay_is_needed_as_long_as_tasks_with_a_proxy_run(desired: T, known: T, needed: bool):
    """One that shall stop needs none any more."""
    task = Task(arn=ARN, containers=(PROXY,), attachments=(PROXIED,), desired=desired, known=known)
    assert is_needed([Task(arn="other"), task]) is needed


def test_a_relay_counts_until_it_has_stopped():
    """Two at a time would fight for one socket."""
    relay = task_of("us-west-2", "https://sc.example")
    assert relay.is_internal and relay.arn.startswith("arn:::::/service-connect-relay-")
    assert running_relay([Task(arn=ARN), relay]) is relay
    assert running_relay([replace(relay, desired=T.STOPPED)]) is not None
    assert running_relay([replace(relay, known=T.STOPPED)]) is None
