"""A task with Service Connect in bridge mode: on a real Docker, with real rules in the namespaces of its containers.

The proxy is a container of the tests; a listener that is put into its network namespace plays Envoy.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import gevent
import gevent.server
import pytest
from msgspec.structs import replace

from common import keys
from common.bus import Change
from common.model.agent import Instance, Sent
from common.model.messages import ContainerChanged
from common.model.status import ContainerStatus, ContainerType, HealthStatus, TaskStatus
from common.model.task import Attachment, Container, PortMapping
from common.serviceconnect import AGENT_IMAGE
from services.engine import relays
from services.engine.core.effects import Action, Effect
from services.engine.docker import agent_images, hands
from services.engine.network.drain import Drains
from services.engine.resources.registry import Registry, standard
from services.engine.resources.service_connect import ServiceConnect
from tests.fakes import images

pytestmark = pytest.mark.docker

SERVICES = "198.18.0.0/16"  # addresses that nothing else has
INSTANCE = "arn:aws:ecs:us-west-2:1:container-instance/c/i"
SERVE = "trap 'exit 0' TERM; sleep 3600 & wait $!"

# Takes one connection to whatever address it is for, as a transparent proxy does, and says for which it was.
LISTENER = """
import socket, sys
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT
server.bind(("0.0.0.0", int(sys.argv[1])))
server.listen()
print("listens", flush=True)
connection, _ = server.accept()
connection.sendall(f"meant for {connection.getsockname()[0]}:{connection.getsockname()[1]}".encode())
connection.close()
"""


@pytest.fixture
def agent_image():
    """The image that the operator's archive holds; Docker has it."""
    images.make(AGENT_IMAGE, marker="agent", changes=('CMD ["sh","-c","sleep 3600"]',))
    yield
    images.remove(AGENT_IMAGE)


@pytest.fixture
def pause_image():
    """An image whose process only waits."""
    name = f"pause{os.getpid()}/pause:1"
    images.make(name, changes=(f"CMD {json.dumps(['sh', '-c', SERVE])}",))
    yield name
    images.remove(name)


class Host:
    """A Docker host with Service Connect; its directories are the test's own."""

    def __init__(self, docker_host, directory: Path, monkeypatch, pause):
        self.docker_host, self.state, self.logs = docker_host, directory / "sc", directory / "logs"
        self.archive = directory / "agent.tar"
        self.archive.write_bytes(b"no tar")
        self.archive.with_name("agent.metadata.json").write_text('{"schemaVersion": 1, "digest": "sha256:abc"}')
        image = agent_images.AgentImage(AGENT_IMAGE, str(self.archive), "Service Connect agent")
        for module in (hands, agent_images):
            monkeypatch.setattr(module, "SERVICE_CONNECT", image)
        monkeypatch.setattr("services.engine.docker.facts.SERVICE_CONNECT", image)
        monkeypatch.setattr(relays, "LOOK_SECONDS", 0.1)
        monkeypatch.setattr(relays, "ENDING_SECONDS", 0.1)
        monkeypatch.setattr(hands, "Drains", lambda: Drains(str(self.state), gevent.sleep))
        kind = ServiceConnect(str(self.state), str(self.archive))
        docker_host.make_registry = lambda: Registry(*(kind if k.name == kind.name else k for k in standard()))
        docker_host.bus.durable.commit(
            Change().save(keys.INSTANCE, keys.INSTANCE_ID, Instance(
                revision=1, arn=INSTANCE, region="us-west-2", service_connect_endpoint="https://sc.example"))
        )  # fmt: skip
        self.settings = {"pause_image": pause, "service_connect_logs": str(self.logs)}

    def start(self):
        """Start the engine."""
        return self.docker_host.start(**self.settings)

    def task(self, name="web", **config):
        """A task with the containers app-1 and sc; `config` replaces members of the configuration."""
        default = {
            "egressConfig": {"listenerName": "egress", "listenerPort": 0, "vip": {"ipv4Cidr": SERVICES}},
            "dnsConfig": [{"hostName": "api.local", "address": "198.18.0.1"}],
            "ingressConfig": [{"listenerName": "http", "listenerPort": 0}],
        }
        properties = {"ServiceConnectConfig": json.dumps({**default, **config}), "ContainerName": "sc"}
        attachment = Attachment(type="serviceconnectdetail", properties=properties)
        app = self.docker_host.task(name)
        first = replace(app.containers[0], name="app-1", port_mappings=(PortMapping(container_port=8080),))
        check = {"Test": ["CMD-SHELL", "test -e /healthy"], "Interval": 200_000_000, "Timeout": 1_000_000_000}
        proxy = Container(
            name="sc", image="whatever:1", essential=True, health_check_type="docker", stop_timeout_seconds=3,
            command=("sh", "-c", "touch /healthy; " + SERVE),
            docker_config=json.dumps({"Healthcheck": {**check, "Retries": 50}, "User": "0"}),
        )  # fmt: skip
        containers = (first, proxy)
        return replace(app, network_mode="bridge", containers=containers, attachments=(attachment,))

    def saved(self, task):
        """The task as it is saved."""
        return self.docker_host.bus.durable.get(keys.TASK, task.arn)

    def of(self, task, name):
        """A container of it."""
        return self.saved(task).container(name)

    def inspect(self, task, name):
        """What Docker says."""
        return json.loads(self.docker_host.docker("inspect", self.of(task, name).docker_id))[0]

    def inside(self, task, name, *command):
        """What a command says in the network namespace of a container."""
        process = self.inspect(task, name)["State"]["Pid"]
        done = subprocess.run(
            ["nsenter", f"--net=/proc/{process}/ns/net", *command], capture_output=True, text=True, timeout=20
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def relay(self):
        """The relay's task."""
        tasks = self.docker_host.bus.durable.all(keys.TASK).values()
        found = [t for t in tasks if t.is_internal and t.known == TaskStatus.RUNNING]
        return found[0] if found else None


@pytest.fixture
def sc_host(docker_host, run_dir, monkeypatch, agent_image, pause_image):
    """See Host; the relay goes with the test."""
    (run_dir / "host").mkdir()
    yield Host(docker_host, run_dir / "host", monkeypatch, pause_image)
    ids = [c.docker_id for t in docker_host.bus.durable.all(keys.TASK).values() for c in t.containers if c.docker_id]
    docker_host.docker("rm", "-f", "-v", *ids)


def runs(host, task):
    """Whether it does."""
    return host.docker_host.known(task) == ["RUNNING"]


def environment(host, task, name):
    """The variables of a container."""
    return dict(entry.split("=", 1) for entry in host.inspect(task, name)["Config"]["Env"])


class Admin:
    """The admin socket of a proxy: notes what it is asked."""

    def __init__(self, path: Path, status: str = "200 OK"):
        self.asked, self.status = [], status
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen()
        self._server = gevent.server.StreamServer(listener, self._answer)
        self._server.start()

    def _answer(self, connection, _):
        self.asked.append(connection.recv(65536).split(b"\r\n")[0].decode())
        connection.sendall(f"HTTP/1.1 {self.status}\r\nContent-Length: 0\r\n\r\n".encode())
        connection.close()

    def close(self):
        """No more."""
        self._server.stop()


def test_traffic_to_other_services_goes_through_the_proxy(sc_host, eventually):
    """From a connect in one container to the proxy in the other, which sees what it was meant for (spec 04 §11.5)."""
    sc_host.start()
    web = sc_host.task()
    sc_host.docker_host.run(web)
    eventually(lambda: runs(sc_host, web), seconds=40)
    names = [c.name for c in sc_host.saved(web).containers]
    assert names == ["app-1", "sc", "~internal~ecs~pause-app-1", "~internal~ecs~pause-sc"]
    proxy = sc_host.inspect(web, "~internal~ecs~pause-sc")
    address = proxy["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    assert sc_host.inside(web, "app-1", "ip", "route", "show", SERVICES).split()[:3] == [SERVICES, "via", address]
    assert "ECS_SERVICE_CONNECT" not in sc_host.inside(web, "app-1", "iptables", "-t", "mangle", "-S")
    port = sc_host.saved(web).resources[0].detail["egress"]["port"]
    process = proxy["State"]["Pid"]
    command = ["nsenter", f"--net=/proc/{process}/ns/net", sys.executable, "-c", LISTENER, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
        try:
            assert listener.stdout.readline() == "listens\n"
            heard = sc_host.inside(web, "app-1", "sh", "-c", "busybox nc -w 5 198.18.7.7 80 </dev/null")
            assert heard == "meant for 198.18.7.7:80"
        finally:
            listener.kill()


def test_a_namespace_that_is_set_up_again_stays_as_it_is(sc_host, eventually):
    """An engine that is killed between the commands and the save runs them all again."""
    engine = sc_host.start()
    web = sc_host.task()
    sc_host.docker_host.run(web)
    eventually(lambda: runs(sc_host, web), seconds=40)
    pauses = ["~internal~ecs~pause-app-1", "~internal~ecs~pause-sc"]

    def state():
        tables = ["iptables-save -t mangle", "ip rule", "ip route show table 100", "ip route"]
        said = [sc_host.inside(web, name, "sh", "-c", f"{table} 2>&1; true") for name in pauses for table in tables]
        return [line for text in said for line in text.splitlines() if not line.startswith((":", "#"))]

    before = state()
    assert len([line for line in before if "TPROXY" in line]) == 1
    for name in pauses:
        outcome = engine.hands.perform(sc_host.saved(web), Effect(action=Action.PROVISION, target=name))
        assert outcome.error is None
    assert state() == before


def test_each_container_lives_in_a_pause_container_that_publishes_its_ports(sc_host, eventually):
    """What Docker is asked for, what the proxy is told, and which ports ECS hears of (spec 04 §11.2, §11.6)."""
    sc_host.start()
    web = sc_host.task()
    sc_host.docker_host.run(web)
    eventually(lambda: runs(sc_host, web), seconds=40)
    listeners = sc_host.saved(web).resources[0].detail
    ingress, egress = listeners["ingress"][0]["port"], listeners["egress"]["port"]
    pauses = {name: sc_host.inspect(web, f"~internal~ecs~pause-{name}") for name in ("app-1", "sc")}
    for name, pause in pauses.items():
        assert pause["HostConfig"]["ExtraHosts"] == ["api.local:198.18.0.1"]
        assert pause["HostConfig"]["NetworkMode"] == "bridge" and not pause["Config"]["Env"]
        joined = sc_host.inspect(web, name)
        assert joined["HostConfig"]["NetworkMode"] == f"container:{pause['Id']}"
        assert not joined["HostConfig"]["PortBindings"] and not joined["Config"].get("ExposedPorts")
    assert set(pauses["app-1"]["Config"]["ExposedPorts"]) == {"8080/tcp"}
    assert set(pauses["sc"]["Config"]["ExposedPorts"]) == {f"{ingress}/tcp", f"{egress}/tcp"}
    assert set(pauses["sc"]["HostConfig"]["PortBindings"]) == {f"{ingress}/tcp"}
    told = environment(sc_host, web, "sc")
    assert json.loads(told["APPNET_LISTENER_PORT_MAPPING"]) == {"egress": egress, "http": ingress}
    addresses = {n: p["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] for n, p in pauses.items()}
    assert json.loads(told["APPNET_CONTAINER_IP_MAPPING"]) == addresses
    assert told["ECS_CONTAINER_INSTANCE_ARN"] == INSTANCE
    assert told["APPMESH_XDS_ENDPOINT"] == "unix:///var/run/ecs/relay/envoy_xds.sock"
    assert told["APPNET_ENVOY_LOG_DESTINATION"] == "/var/log/" and "APPNET_FIPS_MODE_ENABLED" not in told
    state = sc_host.state / web.id
    binds = [
        f"{state}:/var/run/ecs/",
        f"{sc_host.state}/relay/:/var/run/ecs/relay/",
        f"{sc_host.logs / web.id}:/var/log/",
    ]
    assert sc_host.inspect(web, "sc")["HostConfig"]["Binds"] == binds
    for directory in (state, sc_host.state / "relay", sc_host.logs / web.id):
        assert (directory.stat().st_uid, directory.stat().st_mode & 0o777) == (20000, 0o700)
    events = [e for e in sc_host.docker_host.events() if isinstance(e, ContainerChanged) and e.arn == web.arn]
    assert {e.name for e in events} == {"app-1", "sc"}, "pause containers are nobody's business"
    reported = {e.name: e for e in events if e.status == ContainerStatus.RUNNING}
    assert {b.container_port for b in reported["app-1"].port_bindings} == {8080}
    assert {b.container_port for b in reported["sc"].port_bindings} == {ingress}
    assert (reported["app-1"].single_ports, reported["sc"].single_ports) == ((8080,), (ingress,))
    assert reported["sc"].image_digest == "sha256:abc"
    assert sc_host.of(web, "sc").health.status == HealthStatus.HEALTHY


def test_the_proxy_is_drained_once_before_the_first_container_stops(sc_host, eventually):
    """Then applications, proxy and pause containers end in this order, and the sockets go with the task (N40)."""
    sc_host.docker_host.options = {"ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION": "1s"}
    sc_host.start()
    web = sc_host.task()
    sc_host.docker_host.run(web)
    eventually(lambda: runs(sc_host, web), seconds=40)
    admin = Admin(sc_host.state / web.id / "appnet_admin.sock", "503 Service Unavailable")
    sc_host.docker_host.run(web, desired=TaskStatus.STOPPED)
    eventually(lambda: sc_host.docker_host.known(web) == ["STOPPED"], seconds=40)
    admin.close()
    assert admin.asked == ["GET /drain_listeners?inboundonly HTTP/1.1"], "any answer counts"
    ended = {c.name.rpartition("~")[2]: c.finished_at for c in sc_host.saved(web).containers}
    assert ended["app-1"] < ended["sc"] < min(ended["pause-app-1"], ended["pause-sc"])
    sc_host.docker_host.bus.durable.commit(Change().save(keys.SENT, web.arn, Sent(revision=1, task=TaskStatus.STOPPED)))
    eventually(lambda: sc_host.docker_host.known(web) == ["NONE"], seconds=20)
    assert not (sc_host.state / web.id).exists() and (sc_host.state / "relay").exists()


def test_one_relay_serves_the_host_and_follows_its_image(sc_host, eventually):
    """It comes with the first task, survives the engine, is never reported, and ends for a new archive (§11.4)."""
    sc_host.settings["stop_seconds"] = 1.0
    sc_host.start()
    web, api = sc_host.task("web"), sc_host.task("api")
    sc_host.docker_host.run(web, api)
    eventually(lambda: runs(sc_host, web) and runs(sc_host, api) and sc_host.relay(), seconds=60)
    relay = sc_host.relay()
    assert relay.containers[0].type == ContainerType.SERVICE_CONNECT_RELAY
    shown = json.loads(sc_host.docker_host.docker("inspect", relay.containers[0].docker_id))[0]
    assert (shown["HostConfig"]["NetworkMode"], shown["Config"]["User"]) == ("host", "20000")
    assert f"{sc_host.state}/relay:/var/run/ecs/" in shown["HostConfig"]["Binds"]
    told = dict(entry.split("=", 1) for entry in shown["Config"]["Env"])
    assert (told["APPMESH_XDS_ENDPOINT"], told["AWS_REGION"]) == ("https://sc.example", "us-west-2")
    sc_host.docker_host.stopping.set()
    sc_host.docker_host.engine.stop(2.0)
    sc_host.docker_host.stopping = gevent.event.Event()
    engine = sc_host.start()
    eventually(lambda: {web.arn, api.arn, relay.arn} == set(engine.workers))
    engine.relays.look()
    assert set(engine.workers) == {web.arn, api.arn, relay.arn}, "there is one, and it is known again"
    saved = subprocess.run(["docker", "save", AGENT_IMAGE], capture_output=True, check=True, timeout=60).stdout
    sc_host.archive.write_bytes(saved)
    eventually(lambda: sc_host.relay() and sc_host.relay().arn != relay.arn, seconds=40)
    assert sc_host.docker_host.known(web, api) == ["RUNNING"] * 2, "tasks are left alone"
    reported = {e.arn for e in sc_host.docker_host.events() if isinstance(e, ContainerChanged)}
    assert reported == {web.arn, api.arn}


def test_a_namespace_that_cannot_be_set_up_ends_the_task_before_it_begins(sc_host, eventually, caplog):
    """ECS hears no reason, the log tells it; the containers of the task never start (spec 04 §7.1)."""
    sc_host.start()
    vip = {"listenerName": "egress", "listenerPort": 0, "vip": {"ipv6Cidr": "fd00:ec2:5c::/48"}}
    web = sc_host.task(egressConfig=vip)
    sc_host.docker_host.run(web)
    eventually(lambda: sc_host.docker_host.known(web) == ["STOPPED"], seconds=40)
    saved = sc_host.saved(web)
    pause = saved.container("~internal~ecs~pause-sc")
    assert str(pause.error).startswith(
        "ContainerNetworkingError: container resource provisioning: failed to setup network namespace: "
    )
    assert "no services' addresses" in caplog.text
    assert {c.docker_id for c in saved.containers if not c.is_internal} == {""}
    last = [e for e in sc_host.docker_host.events() if e.arn == web.arn][-1]
    assert (last.status.name, last.reason) == ("STOPPED", "")


def test_a_task_is_refused_at_once_when_docker_refuses_the_archive(sc_host, eventually):
    """Waiting would mend nothing, and a STOP would wait with it; the reason says what is wrong and where."""
    images.remove(AGENT_IMAGE)
    sc_host.start()
    web = sc_host.task()
    sc_host.docker_host.run(web)
    eventually(lambda: sc_host.docker_host.known(web) == ["STOPPED"], seconds=20)
    last = [e for e in sc_host.docker_host.events() if e.arn == web.arn][-1]
    assert f"cannot be loaded from {sc_host.archive}: Error response from daemon: " in last.reason
