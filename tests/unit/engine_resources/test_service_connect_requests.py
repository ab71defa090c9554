"""What is settled about Service Connect when a task arrives, and what its containers are created with (spec 04 §11)."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from common.model.agent import DockerFacts
from common.model.status import ContainerType
from common.model.task import Attachment, Container, Network, PortMapping, Resource, Task
from services.engine.core import relay
from services.engine.core.effects import SetupError
from services.engine.core.service_connect import DIGEST
from services.engine.docker import request
from services.engine.docker.draft import Draft, Refused, World
from services.engine.docker.settings import Settings
from services.engine.resources import service_connect
from services.engine.resources.kind import Host, ResourceFailed
from services.engine.resources.registry import Registry
from services.engine.resources.service_connect import ServiceConnect, needs_certificates, settled
from tests.fakes.create_requests import ARN, world

CONFIG = {
    "egressConfig": {"listenerName": "egress", "listenerPort": 0, "vip": {"ipv4Cidr": " 127.255.0.1/16 "}},
    "dnsConfig": [{"hostName": "api.local", "address": "127.255.0.1"}],
    "ingressConfig": [{"listenerName": "http", "listenerPort": 0, "hostPort": 18080}],
}
INSTANCE = "arn:aws:ecs:us-west-2:1:container-instance/c/i"
IDS = {ARN.rsplit("/", 1)[-1]}


def in_turn(*ports: int) -> Callable[[int, int], int]:
    """Picks these ports, and then all of them again."""
    turn = itertools.cycle(ports)
    return lambda low, high: next(turn)


def task(**more: Any) -> Task:
    """A task with a proxy and an application, not set up yet."""
    properties = {"ContainerName": "sc", "ServiceConnectConfig": json.dumps(CONFIG)}
    app = Container(name="app", port_mappings=(PortMapping(container_port=8080),))
    values: dict[str, Any] = {"containers": (app, Container(name="sc", image="agent")), **more}
    return Task(arn=ARN, attachments=(Attachment(type="serviceconnectdetail", properties=properties),), **values)


def host(loaded: bool = True) -> Host:
    """Where Docker has the agent's image, or not."""
    facts = DockerFacts(service_connect_loaded=loaded, service_connect_digest="sha256:abc")
    return Host(Settings(pause_image="mine/pause:2"), facts, None)  # type: ignore[arg-type]


@pytest.fixture
def kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServiceConnect:
    """The kind, with directories of the test's own, which are given to the user who runs it."""
    monkeypatch.setattr(service_connect, "USER_ID", os.getuid())
    return ServiceConnect(str(tmp_path / "sc"), str(tmp_path / "agent.tar"), in_turn(40001, 40002))


def made(kind: ServiceConnect, name: str, of: Task, where: World) -> Draft:
    """The create request of a container."""
    container = of.container(name)
    assert container is not None
    return request.build(of, container, where, Registry(kind), {})


def there(tmp_path: Path, **more: Any) -> World:
    """This host."""
    settings = Settings(service_connect_logs=str(tmp_path / "logs"), **more)
    return world(settings=settings, instance_arn=INSTANCE)


def pause(name: str, ipv4: str = "172.17.0.2", ipv6: str = "") -> Container:
    """A pause container that runs."""
    bridge = Network(name="bridge", ip_address=ipv4, ipv6_address=ipv6)
    kind = ContainerType.CNI_PAUSE
    return Container(name=f"~internal~ecs~pause-{name}", type=kind, docker_id=f"id-{name}", networks=(bridge,))


def ready(kind: ServiceConnect, *pauses: Container) -> Task:
    """The task as it is when its proxy is created."""
    pauses = pauses or (pause("app", "172.17.0.3"), pause("sc"))
    resources = tuple(kind.prepare(task(), host()))
    return task(containers=(*task().containers, *pauses), resources=resources)


# -- when the task arrives -------------------------------------------------------------------------


def test_listeners_without_a_port_get_free_ones_in_order():
    """Ingress first, then egress; fixed ports and container ports are left alone (case N35)."""
    found = settled(CONFIG, {40001}, in_turn(40001, 40005, 40005, 40006))
    assert found["ephemeral"] == {"http": 40005, "egress": 40006}
    assert found["ingress"] == [{"port": 40005, "hostPort": 18080}]
    assert found["egress"] == {"port": 40006, "ipv4": "127.255.0.0/16", "ipv6": ""}
    assert found["hosts"] == ["api.local:127.255.0.1"]
    fixed = {"ingressConfig": [{"listenerName": "a", "listenerPort": 40007}, {"listenerName": "b"}]}
    found = settled(fixed, set(), in_turn(40007, 40008))
    assert ([i["port"] for i in found["ingress"]], found["ephemeral"]) == ([40007, 40008], {"b": 40008})
    assert found["egress"] == {}


def test_a_host_without_free_ports_refuses_the_task():
    """After a hundred collisions, in the reference's words (spec 04 §11.2)."""
    with pytest.raises(SetupError) as caught:
        settled(CONFIG, {40001}, in_turn(40001))
    words = "maximum number of attempts to generate unique ports reached"
    assert str(caught.value) == f"error initializing ports for Service Connect: {words}"


def test_ports_of_ranges_are_container_ports_too():
    """A listener inside a range of the application would take its port away."""
    ranged = Container(name="a", port_mappings=(PortMapping(container_port_range="40000-40002"),))
    assert {40000, 40001, 40002} <= service_connect.container_ports(Task(arn=ARN, containers=(ranged,)))


def test_without_the_agents_image_the_task_is_refused_in_words(kind: ServiceConnect):
    """The operator learns what to put where."""
    with pytest.raises(SetupError, match=r"Docker has not got the image of its agent; put it at .*agent\.tar"):
        kind.prepare(task(), host(loaded=False))
    assert kind.prepare(Task(arn=ARN, containers=(Container(name="a"),)), host(loaded=False)) == []


def test_a_task_that_comes_before_its_image_waits_for_the_load(
    kind: ServiceConnect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The image is loaded beside, after the start: a task that came first would be rejected for good."""
    monkeypatch.setattr(service_connect, "LOOK_SECONDS", 0.0)
    (tmp_path / "agent.tar").touch()
    known = itertools.chain([host(loaded=False).facts] * 3, itertools.repeat(host().facts))
    waiting = dataclasses.replace(host(loaded=False), latest_facts=lambda: next(known))
    (resource,) = kind.prepare(task(), waiting)
    assert resource.detail[DIGEST] == "sha256:abc"


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no archive", r"put it at .*agent\.tar$"),
        ("an external instance", "instances outside of EC2 do not run it$"),
        ("an archive that Docker refuses", r"it cannot be loaded from .*agent\.tar: unexpected EOF$"),
        ("a load that lasts", r"put it at .*agent\.tar$"),
    ],
)
def test_a_task_does_not_wait_for_an_image_that_does_not_come(case: str, words: str, tmp_path: Path):
    """Not at all where nothing will be loaded, and never longer than a bound."""
    if case != "no archive":
        (tmp_path / "agent.tar").touch()
    bound = 0.0 if case == "a load that lasts" else 60.0
    kind = ServiceConnect(str(tmp_path / "sc"), str(tmp_path / "agent.tar"), load_seconds=bound)
    looks = []
    settings = Settings(external=case == "an external instance")
    where = Host(
        settings, DockerFacts(), None, latest_facts=lambda: looks.append(1) or DockerFacts(),  # type: ignore[arg-type,func-returns-value]
        refused=lambda: "unexpected EOF" if case == "an archive that Docker refuses" else "",
    )  # fmt: skip
    with pytest.raises(SetupError, match=f"Docker has not got the image of its agent; {words}"):
        kind.prepare(task(), where)
    assert len(looks) == 1


# -- when containers are created -------------------------------------------------------------------


def test_the_proxy_is_told_ports_addresses_and_sockets(kind: ServiceConnect, tmp_path: Path):
    """Spec 04 §11.2; the task definition's own Config would win."""
    found = made(kind, "sc", ready(kind), there(tmp_path))
    told = dict(entry.split("=", 1) for entry in found.body["Env"])
    assert told["APPNET_LISTENER_PORT_MAPPING"] == '{"egress":40002,"http":40001}'
    assert told["APPNET_CONTAINER_IP_MAPPING"] == '{"app":"172.17.0.3","sc":"172.17.0.2"}'
    assert told["APPNET_AGENT_ADMIN_UDS_PATH"] == "/var/run/ecs/appnet_admin.sock"
    assert (told["ENVOY_ENABLE_IAM_AUTH_FOR_XDS"], told["APPNET_AGENT_ADMIN_MODE"]) == ("0", "uds")
    assert found.body["User"] == str(os.getuid())
    assert found.body["HostConfig"]["NetworkMode"] == "container:id-sc"
    assert "PortBindings" not in found.body["HostConfig"]
    mine = made(kind, "sc", _with(ready(kind), docker_config='{"User":"7"}'), there(tmp_path))
    assert mine.body["User"] == "7"


def _with(of: Task, **changes: Any) -> Task:
    return replace(of, containers=tuple(replace(c, **changes) if c.name == "sc" else c for c in of.containers))


def test_a_log_driver_of_the_task_definition_takes_the_place_of_the_directory(kind: ServiceConnect, tmp_path: Path):
    """Then nothing is written to the host."""
    logs = '{"LogConfig":{"Type":"json-file"}}'
    found = made(kind, "sc", _with(ready(kind), docker_host_config=logs), there(tmp_path))
    assert not [e for e in found.body["Env"] if e.startswith("APPNET_ENVOY_LOG_DESTINATION")]
    assert not (tmp_path / "logs").exists()


def test_on_an_ipv6_only_host_the_addresses_are_ipv6(kind: ServiceConnect, tmp_path: Path):
    """A container without one stops the task, by name."""
    both = (pause("app", ipv6="fd00::3"), pause("sc", ipv6="fd00::2"))
    found = made(kind, "sc", ready(kind, *both), there(tmp_path, ipv6_only=True))
    assert 'APPNET_CONTAINER_IP_MAPPING={"app":"fd00::3","sc":"fd00::2"}' in found.body["Env"]
    with pytest.raises(Refused) as caught:
        made(kind, "sc", ready(kind, pause("app"), both[1]), there(tmp_path, ipv6_only=True))
    words = "instance is IPv6-only but no IPv6 address found for container 'app'"
    assert str(caught.value.error) == f"CannotCreateContainerError: {words}"


def test_a_container_whose_pause_container_is_not_there_is_refused(kind: ServiceConnect, tmp_path: Path):
    """Anything else would run it without its network."""
    with pytest.raises(Refused, match="the network pause container of the task has not been created"):
        made(kind, "app", ready(kind, pause("sc")), there(tmp_path))


def test_directories_that_cannot_be_made_are_the_error_of_the_create(kind: ServiceConnect, tmp_path: Path):
    """In the reference's words."""
    (tmp_path / "sc").write_text("a file in the way")
    with pytest.raises(Refused) as caught:
        made(kind, "sc", ready(kind), there(tmp_path))
    assert str(caught.value.error).startswith(f"CannotCreateContainerError: failed to mkdir {tmp_path}/sc/")


def test_the_relay_gets_its_directories_and_keeps_the_hosts_network(kind: ServiceConnect, tmp_path: Path):
    """Spec 04 §11.4."""
    it = relay.task_of("us-west-2", "https://sc.example")
    it = replace(it, resources=tuple(kind.prepare(it, host())))
    found = made(kind, relay.NAME, it, there(tmp_path)).body
    assert found["HostConfig"]["NetworkMode"] == "host"
    assert found["HostConfig"]["Binds"] == [
        f"{tmp_path}/sc/relay:/var/run/ecs/", f"{tmp_path}/sc/relay/:/var/run/ecs/relay/",
        f"{tmp_path}/logs/relay:/var/log/",
    ]  # fmt: skip
    assert found["Healthcheck"]["Interval"] == 5_000_000_000
    kind.cleanup(it, it.resources[0], host())
    assert (tmp_path / "sc" / "relay").is_dir(), "it serves the next relay"


@pytest.mark.parametrize(
    ("region", "needed"),
    [("us-west-2", False), ("us-gov-west-1", False), ("cn-north-1", False), ("us-iso-east-1", True),
     ("us-isob-east-1", True), ("eu-isoe-west-1", True), ("eusc-de-east-1", True), ("", True), ("nowhere", True)],
)  # fmt: skip
def test_the_hosts_certificates_are_needed_where_the_images_own_do_not_serve(region: str, needed: bool):
    """In partitions other than aws, aws-us-gov and aws-cn, and in regions that nobody knows."""
    assert needs_certificates(f"arn:aws:ecs:{region}:1:container-instance/c/i") is needed
    assert needs_certificates("") is True


def test_a_directory_that_somebody_else_has_put_there_is_not_given_away(kind: ServiceConnect, tmp_path: Path):
    """A link would give whatever it leads to to the processes of the image."""
    (tmp_path / "sc").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "sc" / next(iter(IDS))).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="failed to chown"):
        made(kind, "sc", ready(kind), there(tmp_path))


def test_on_an_external_instance_the_refusal_names_no_place(kind: ServiceConnect):
    """Nothing that the operator could put anywhere would help."""
    outside = host(loaded=False)
    outside.settings = Settings(external=True)
    with pytest.raises(SetupError, match="instances outside of EC2 do not run it"):
        kind.prepare(task(), outside)


def test_whatever_a_container_left_in_its_directory_is_removed(kind: ServiceConnect, tmp_path: Path):
    """Also directories nested more deeply than the process may hold files open, or than Python can follow."""
    deep = tmp_path / "sc" / next(iter(IDS))
    deep.mkdir(parents=True)
    dig = "import os\nfor _ in range(1500):\n    os.mkdir('d')\n    os.chdir('d')"
    subprocess.run([sys.executable, "-c", dig], cwd=deep, check=True)
    try:
        kind.cleanup(task(), Resource(kind="serviceconnect", name="serviceconnect"), host())
        assert not deep.exists()
    finally:
        subprocess.run(["rm", "-rf", str(deep)], check=True)


def test_only_the_tasks_own_directory_is_removed(kind: ServiceConnect, tmp_path: Path):
    """Built from the task's id; an id that leads elsewhere is refused (trap 27)."""
    mine, other = tmp_path / "sc" / next(iter(IDS)), tmp_path / "sc" / "other"
    for directory in (mine, other):
        directory.mkdir(parents=True)
    resource = Resource(kind="serviceconnect", name="serviceconnect")
    kind.cleanup(task(), resource, host())
    assert not mine.exists() and other.exists()
    kind.cleanup(task(), resource, host())  # again
    with pytest.raises(ResourceFailed):
        kind.cleanup(replace(task(), arn="arn:aws:ecs:us-west-2:1:task/c/.."), resource, host())
    assert other.exists()
