"""What is done in the namespaces of pause containers, and before they end: commands, refusals, drains (spec 04 §11)."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from common.model.status import ContainerStatus, ContainerType
from common.model.task import Attachment, Container, Network, Resource, Task
from services.engine.core.effects import Observation
from services.engine.docker.containers import ContainerFailed, NamedError
from services.engine.network.drain import Drains
from services.engine.network.provision import ProvisioningFailed, families, plan, provision

ARN = "arn:aws:ecs:us-west-2:1:task/c/t1"
PAUSE = "~internal~ecs~pause-"
V4, V6 = "198.18.0.0/16", "fd00:ec2:5c::/48"


def task(ipv4: str = "172.17.0.2", ipv6: str = "", **detail: Any) -> Task:
    """A task whose pause containers run; `detail` replaces members of what was settled."""
    properties = {"ContainerName": "sc", "ServiceConnectConfig": "{}"}
    settled = {"ingress": [{"port": 1, "hostPort": 0}], "egress": {"port": 40002, "ipv4": V4, "ipv6": ""}, **detail}
    bridge = Network(name="bridge", ip_address=ipv4, ipv6_address=ipv6)
    pauses = [Container(name=PAUSE + name, type=ContainerType.CNI_PAUSE, networks=(bridge,)) for name in ("app", "sc")]
    proxy = Container(name="sc", known=ContainerStatus.RUNNING)
    return Task(
        arn=ARN, containers=(Container(name="app"), proxy, *pauses), network_mode="bridge",
        attachments=(Attachment(type="serviceconnectdetail", properties=properties),),
        resources=(Resource(kind="serviceconnect", name="serviceconnect", detail=settled),),
    )  # fmt: skip


def planned(of: Task, name: str) -> list[str]:
    """The commands for a pause container."""
    container = of.container(PAUSE + name)
    assert container is not None
    return [" ".join(command.arguments) for command in plan(of, container)]


def test_an_application_gets_a_route_and_no_rule():
    """Case N39."""
    assert planned(task(), "app") == [f"ip route replace {V4} via 172.17.0.2"]


def test_the_proxy_takes_whatever_is_meant_for_the_services():
    """The rules of spec 04 §11.5, in one table of its own namespace."""
    of = task()
    container = of.container(f"{PAUSE}sc")
    assert container is not None
    restore, rule, route = plan(of, container)
    assert restore.arguments[0] == "iptables-restore"
    assert f"-A PREROUTING -p tcp -m tcp -d {V4} -j TPROXY --tproxy-mark 0x1/0x1 --on-port 40002" in restore.text
    assert "-A PREROUTING -p tcp -m socket -j ECS_SERVICE_CONNECT_DIVERT" in restore.text
    assert (
        rule.arguments == ("ip", "rule", "add", "priority", "32765", "fwmark", "1", "lookup", "100")
        and rule.exists_is_fine
    )
    assert route.arguments == ("ip", "route", "replace", "local", "0.0.0.0/0", "dev", "lo", "table", "100")


def test_both_families_are_set_up_where_both_are_there():
    """By the address of the proxy's pause container."""
    both = task(ipv6="fd00::2", egress={"port": 40002, "ipv4": V4, "ipv6": V6})
    assert planned(both, "app") == [f"ip route replace {V4} via 172.17.0.2", f"ip -6 route replace {V6} via fd00::2"]
    assert [c.split()[0] for c in planned(both, "sc")] == [
        "iptables-restore",
        "ip",
        "ip",
        "ip6tables-restore",
        "ip",
        "ip",
    ]
    only = task(ipv4="", ipv6="fd00::2", egress={"port": 40002, "ipv4": V4, "ipv6": V6})
    assert planned(only, "app") == [f"ip -6 route replace {V6} via fd00::2"]


def test_a_task_that_is_only_called_needs_nothing():
    """Without egress there is no traffic to lead anywhere."""
    assert planned(task(egress={}), "sc") == planned(task(egress={}), "app") == []


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (task(ipv6="fd00::2"), "the proxy has the address fd00::2, and there are no services' addresses for it"),
        (task(ipv4=""), "the proxy has no address on the default bridge"),
        (task(ingress=[], egress={}), "neither ingress nor egress is configured"),
    ],
)
def test_what_cannot_work_is_refused_in_words(of: Task, why: str):
    """As the plugin of the reference validates it (spec 04 §11.5)."""
    with pytest.raises(ProvisioningFailed) as caught:
        planned(of, "app")
    assert str(caught.value) == why


def test_addresses_of_the_other_family_are_refused():
    """The reference's check of an IPv6 range takes an IPv4 range too (spec 04 §11.1)."""
    with pytest.raises(ProvisioningFailed, match="not of the family"):
        families("", "fd00::2", {"ipv4": "", "ipv6": V4})


# -- provisioning ------------------------------------------------------------------------------------


def refused(of: Task, name: str, look: Any) -> str:
    """Why provisioning fails."""
    container = of.container(name)
    assert container is not None
    with pytest.raises(ProvisioningFailed) as caught:
        provision(of, container, look)
    return str(caught.value)


def test_only_pause_containers_of_service_connect_are_provisioned():
    """Nothing must ever be run in another namespace."""
    words = "cannot setup netns - only valid for SC-enabled task pause container"
    for of, name in ((replace(task(), attachments=()), f"{PAUSE}sc"), (task(), "app")):
        assert refused(of, name, None) == f"container resource provisioning bridge mode: {words}"


def test_a_container_that_cannot_be_inspected_is_an_error_with_its_name():
    """Spec 04 §7.2."""

    def look() -> Observation:
        raise ContainerFailed(NamedError("CannotInspectContainerError", "no"))

    where = f"cannot setup netns - error inspecting container {PAUSE}sc"
    text = f"container resource provisioning bridge mode: {where}: CannotInspectContainerError: no"
    assert refused(task(), f"{PAUSE}sc", look) == text


def test_a_process_that_ended_meanwhile_is_not_mistaken_for_another():
    """Its number may belong to any process by then, this one included (trap 3)."""
    seen = [Observation(process_id=os.getpid(), running=True), Observation(process_id=0)]
    text = refused(task(), f"{PAUSE}sc", lambda: seen.pop(0))
    assert text.endswith(f"its process {os.getpid()} has ended")


def test_the_agents_own_namespace_is_never_touched():
    """Where Docker counts processes otherwise, its number may be that of anybody on this host (trap 24)."""
    seen = Observation(process_id=os.getpid(), running=True)
    text = refused(task(), f"{PAUSE}sc", lambda: seen)
    assert text.endswith(f"its process {os.getpid()} is in the agent's own network namespace")


# -- draining ----------------------------------------------------------------------------------------


class Proxy:
    """An admin socket that notes requests; its first `silent` callers hear nothing."""

    def __init__(self, root: Path, silent: int = 0) -> None:
        (root / "t1").mkdir(parents=True)
        self.asked: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(root / "t1" / "appnet_admin.sock"))
        self._listener.listen()
        self._silent = silent
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(65536).split(b"\r\n")[0].decode())
                if len(self.asked) > self._silent:
                    connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    def close(self) -> None:
        """No more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


def test_a_proxy_is_drained_once_for_all_stops_of_its_task(tmp_path: Path):
    """Case N40; any answer counts, and a silent one is asked again."""
    proxy, pauses = Proxy(tmp_path, silent=1), []
    drains = Drains(str(tmp_path), pauses.append)
    for _ in range(3):
        drains.before_stop(task())
    proxy.close()
    assert proxy.asked == ["GET /drain_listeners?inboundonly HTTP/1.1"] * 2
    assert pauses == [1.0]


def test_stops_that_come_together_share_one_failed_attempt(tmp_path: Path):
    """A proxy that hangs delays the task once, not once for each of its containers."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        time.sleep(0.05)

    drains = Drains(str(tmp_path), pause)
    stops = [threading.Thread(target=drains.before_stop, args=(task(),)) for _ in range(4)]
    for stop in stops:
        stop.start()
    for stop in stops:
        stop.join(5)
    assert pauses == [1.0] * 2


def test_a_proxy_that_is_away_keeps_nothing_from_stopping(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Three tries, a warning, and again at the next stop."""
    pauses: list[float] = []
    drains = Drains(str(tmp_path), pauses.append)
    drains.before_stop(task())
    drains.before_stop(task())
    assert pauses == [1.0] * 4
    assert caplog.text.count("the Service Connect proxy of task t1 is not drained") == 2


def test_a_proxy_that_does_not_run_is_not_waited_for(tmp_path: Path):
    """Nor is one of a task that has none: the reference loses two seconds at each stop."""
    drains = Drains(str(tmp_path), pytest.fail)
    proxy = task().container("sc")
    assert proxy is not None
    drains.before_stop(replace(task(), containers=(replace(proxy, known=ContainerStatus.CREATED),)))
    drains.before_stop(Task(arn=ARN, containers=(Container(name="app"),)))
