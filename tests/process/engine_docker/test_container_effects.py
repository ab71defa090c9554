"""The container effects against real Docker: what is created, and every failure with its exact text."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from common.model.status import ContainerStatus, ContainerType
from common.model.task import MountPoint, PortMapping, RestartPolicy, Volume, VolumeFrom
from services.engine.core.effects import Action
from services.engine.docker import containers
from tests.fakes import images
from tests.fakes.docker_proxy import DockerProxy, Rule
from tests.fakes.ports import free_ports
from tests.process.engine_docker.conftest import Bench, docker, until, with_container

pytestmark = pytest.mark.docker


def test_a_container_lives_through_create_start_stop_and_remove(bench: Bench) -> None:
    """The ordinary life, with what each step tells about the container."""
    hands = bench.hands()
    task = bench.task(bench.container())
    created = bench.do(hands, Action.CREATE, task)
    assert created.error is None and created.observation is not None
    assert created.observation.status is ContainerStatus.CREATED
    assert created.observation.docker_name == task.containers[0].docker_name
    task = with_container(task, "main", docker_id=created.observation.docker_id)
    started = bench.do(hands, Action.START, task)
    assert started.error is None and started.observation is not None
    assert started.observation.status is ContainerStatus.RUNNING and started.observation.process_id > 0
    assert re.match(r"\d+\.\d+\.\d+\.\d+", started.observation.ip_address)
    stopped = bench.do(hands, Action.STOP, task)
    assert stopped.error is None and stopped.observation is not None
    assert (stopped.observation.status, stopped.observation.exit_code) == (ContainerStatus.STOPPED, 0)
    again = bench.do(hands, Action.STOP, task)
    assert again.error is None  # 304 is what was wanted
    assert bench.do(hands, Action.REMOVE, task).error is None
    assert bench.do(hands, Action.REMOVE, task).error is None  # gone already
    gone = bench.do(hands, Action.INSPECT, task)
    assert gone.gone and gone.error is not None
    assert gone.error.text == f"Error response from daemon: No such container: {task.containers[0].docker_id}"


def test_docker_shows_what_the_reference_agent_would_have_asked_for(bench: Bench) -> None:
    """Names, labels, environment and HostConfig of a create, as docker inspect has them (spec 03 §6.6)."""
    hands = bench.hands()
    source = bench.container("source")
    main = bench.container(
        cpu_shares=0,
        memory_mib=32,
        environment={"A": "1"},
        port_mappings=(PortMapping(container_port=80), PortMapping(container_port=53, protocol="udp")),
        mount_points=(MountPoint(source_volume="host", container_path="/h", read_only=True),),
        volumes_from=(VolumeFrom(source_container="source", read_only=True),),
        links=("source:other",),
        docker_host_config='{"CapAdd":["NET_ADMIN"],"CapDrop":[],"ulimits":[{"Name":"nofile","Soft":64,"Hard":128}]}',
        docker_config='{"user":"1000","Labels":{"com.amazonaws.ecs.cluster":"x","mine":"y"}}',
    )
    task = bench.task(source, main, volumes=(Volume(name="host", host_path=str(bench.tmp)),), credentials_id="cred-1")
    task = bench.started(hands, task, "source")
    task = bench.created(hands, task)
    container = task.containers[1]
    seen = json.loads(docker("inspect", container.docker_id))[0]
    host, config = seen["HostConfig"], seen["Config"]
    assert host["Binds"] == [f"{bench.tmp}:/h:ro"]
    assert (host["CpuShares"], host["Memory"], host["IpcMode"]) == (2, 32 * 1024 * 1024, "shareable")
    assert host["VolumesFrom"] == [f"{task.containers[0].docker_name}:ro"]
    assert host["Links"] == [f"/{task.containers[0].docker_name}:/{container.docker_name}/other"]
    assert host["CapAdd"] == ["NET_ADMIN"] and host["Ulimits"] == [{"Name": "nofile", "Soft": 64, "Hard": 128}]
    assert host["RestartPolicy"]["Name"] in ("", "no") and host["NetworkMode"] == "default"
    assert config["User"] == "1000" and config["Labels"]["mine"] == "y"
    assert config["Labels"]["com.amazonaws.ecs.cluster"] == "default"
    assert config["Labels"]["com.amazonaws.ecs.container-name"] == "main"
    endpoint = container.endpoint_id
    assert {
        "A=1",
        "AWS_REGION=us-west-2",
        "AWS_DEFAULT_REGION=us-west-2",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/cred-1",
        f"ECS_CONTAINER_METADATA_URI_V4=http://169.254.170.2/v4/{endpoint}",
        f"ECS_AGENT_URI=http://169.254.170.2/api/{endpoint}",
    } <= set(config["Env"])
    tcp = host["PortBindings"]["80/tcp"][0]
    assert tcp["HostIp"] == "" and int(tcp["HostPort"]) > 0


def test_the_labels_of_a_container_are_those_that_were_asked_for(bench: Bench) -> None:
    """Docker's inspect has the image's labels as well, which the task metadata does not show (spec 06)."""
    image = f"{bench.prefix}/labelled:1"
    images.make(image, changes=("LABEL maintainer=somebody", 'CMD ["sleep","3600"]'))
    try:
        hands = bench.hands()
        task = bench.task(bench.container(image=image, docker_config='{"Labels":{"mine":"1"}}'))
        created = bench.do(hands, Action.CREATE, task)
        assert created.observation is not None and created.observation.labels is not None
        assert created.observation.labels["mine"] == "1" and "maintainer" not in created.observation.labels
        assert created.observation.labels["com.amazonaws.ecs.container-name"] == "main"
        bench.do(hands, Action.REMOVE, with_container(task, "main", docker_id=created.observation.docker_id))
    finally:
        images.remove(image)


def test_published_ports_come_back_in_docker_order(bench: Bench) -> None:
    """Conformance case 83: the report lists bindings in the order of Docker's keys, IPv4 and IPv6 apart."""
    hands = bench.hands(dynamic_ports=free_ports(60))
    mappings = (
        PortMapping(container_port_range="7000-7002"),
        PortMapping(container_port=91, protocol="udp"),
    )
    task = bench.task(bench.container(port_mappings=mappings))
    created = bench.do(hands, Action.CREATE, task)
    assert created.observation is not None and created.port_ranges.keys() == {"7000-7002"}
    low, _, high = created.port_ranges["7000-7002"].partition("-")
    assert int(high) - int(low) == 2
    task = with_container(task, "main", docker_id=created.observation.docker_id)
    started = bench.do(hands, Action.START, task)
    assert started.observation is not None
    ipv4 = [(b.container_port, b.protocol) for b in started.observation.port_bindings if b.bind_ip == "0.0.0.0"]
    assert ipv4 == [(7000, "tcp"), (7001, "tcp"), (7002, "tcp"), (91, "udp")]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (
            {"docker_host_config": "{oops"},
            "HostConfigError: Unable to decode given host config: invalid character 'o' looking for beginning of "
            "object key string",
        ),
        (
            {"docker_host_config": '{"Init":"yes"}'},
            "HostConfigError: Unable to decode given host config: json: cannot unmarshal string into Go struct field "
            "HostConfig.Init of type bool",
        ),
        (
            {"memory_mib": 2},
            "CannotCreateContainerError: Error response from daemon: Minimum memory limit allowed is 6MB",
        ),
        ({"links": ("nobody",)}, "HostConfigError: Link target not available: nobody"),
        (
            {"docker_api_version": "1.99"},
            "CannotGetDockerClientVersionError: docker client factory: client not found for docker version: 1.99",
        ),
        (
            {"docker_config": '{"StopTimeout":5}'},
            'CannotCreateContainerError: "stop timeout" requires API version 1.25, but the Docker daemon API version '
            "is 1.21",
        ),
        (
            {"image": "no-such-image-anywhere"},
            "CannotCreateContainerError: Error response from daemon: No such image: no-such-image-anywhere:latest",
        ),
    ],
)  # fmt: skip
def test_a_create_that_cannot_be_names_its_cause(bench: Bench, fields: dict[str, object], error: str) -> None:
    """Texts that ECS shows to the customer, to the letter (spec 03 §6.6, §8.6)."""
    outcome = bench.do(bench.hands(), Action.CREATE, bench.task(bench.container(**fields)))
    assert str(outcome.error) == error
    assert outcome.observation is None


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"docker_host_config": '{"NetworkMode":"no-such-network"}'}, "network no-such-network not found"),
        ({"command": ("/no/such/binary",)}, "no such file or directory"),
    ],
)
def test_a_start_that_fails_leaves_no_exit_code(bench: Bench, fields: dict[str, object], text: str) -> None:
    """The container then has an id but never ran, so its exit code means nothing (spec 03 §6.7, §6.11)."""
    hands = bench.hands()
    task = bench.created(hands, bench.task(bench.container(**fields)))
    outcome = bench.do(hands, Action.START, task)
    assert outcome.error is not None and outcome.error.name == "CannotStartContainerError"
    assert outcome.error.text.startswith("Error response from daemon: ") and text in outcome.error.text
    assert outcome.observation is not None
    assert outcome.observation.exit_code is None and outcome.observation.docker_id


def test_a_container_created_before_a_crash_is_found_by_its_name(bench: Bench) -> None:
    """The name is saved before the create call, so a second create adopts instead of failing or doubling."""
    hands = bench.hands()
    task = bench.task(bench.container())
    first, second = bench.do(hands, Action.CREATE, task), bench.do(hands, Action.CREATE, task)
    assert second.error is None and first.observation is not None and second.observation is not None
    assert first.observation.docker_id == second.observation.docker_id


def test_a_foreign_container_with_our_name_is_not_adopted(bench: Bench) -> None:
    """Only labels of the very same task and container make it ours."""
    hands = bench.hands()
    task = bench.task(bench.container())
    bench.created(hands, task)
    other = bench.task(bench.container())
    other = with_container(other, "main", docker_name=task.containers[0].docker_name)
    outcome = bench.do(hands, Action.CREATE, other)
    assert outcome.error is not None and "is already in use by container" in outcome.error.text


def test_a_create_whose_answer_is_lost_makes_one_container(bench: Bench, proxy: DockerProxy) -> None:
    """Docker did it, the answer did not arrive: the next attempt finds the container, within the effect or later."""
    hands = bench.hands(proxy.address)
    task = bench.task(bench.container())
    losing = proxy.add(Rule("POST", "/containers/create", times=4, drop_after=True))
    lost = bench.do(hands, Action.CREATE, task)
    assert lost.error is not None and lost.error.text.endswith("EOF")
    found = bench.do(hands, Action.CREATE, task)
    assert found.error is None
    assert losing.used == 4
    assert len(docker("ps", "-aq", "--filter", f"name={task.containers[0].docker_name}").split()) == 1


def test_a_start_that_hangs_ends_with_the_time_out_text(bench: Bench, proxy: DockerProxy) -> None:
    """The deadline is ours, not Docker's, and is printed the way Go prints it."""
    hands = bench.hands(proxy.address, start_seconds=1.0)
    task = bench.created(hands, bench.task(bench.container()))
    proxy.add(Rule("POST", "/start$", hang=True))
    began = time.monotonic()
    outcome = bench.do(hands, Action.START, task)
    assert str(outcome.error) == "DockerTimeoutError: Could not transition to started; timed out after waiting 1s"
    assert 0.9 < time.monotonic() - began < 3


def test_a_refused_stop_is_tried_five_times(bench: Bench, proxy: DockerProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conformance case 13: exactly five stop calls, then the daemon's text."""
    monkeypatch.setattr(containers.time, "sleep", lambda seconds: None)
    hands = bench.hands(proxy.address)
    task = bench.started(hands, bench.task(bench.container()))
    proxy.add(Rule("POST", "/stop$", status=500, message="cannot do that"))
    outcome = bench.do(hands, Action.STOP, task)
    assert str(outcome.error) == "CannotStopContainerError: Error response from daemon: cannot do that"
    assert proxy.count("POST", "/stop$") == 5


def test_stopping_a_container_that_is_gone_is_final(bench: Bench, proxy: DockerProxy) -> None:
    """A 404 will not become better by asking again (spec 03 §6.9)."""
    hands = bench.hands(proxy.address)
    task = bench.created(hands, bench.task(bench.container()))
    docker("rm", "-f", task.containers[0].docker_id)
    outcome = bench.do(hands, Action.STOP, task)
    assert outcome.gone and not outcome.retriable
    assert proxy.count("POST", "/stop$") == 1


def test_a_daemon_that_is_away_is_named_as_such(bench: Bench, proxy: DockerProxy) -> None:
    """The text of the reference's client, when it does not come back in time; a ping shows the same."""
    hands = bench.hands(proxy.address, away_seconds=0.2)
    task = bench.created(hands, bench.task(bench.container()))
    proxy.refuse()
    wanted = f"Cannot connect to the Docker daemon at {proxy.address}. Is the docker daemon running?"
    outcome = bench.do(hands, Action.INSPECT, task)
    assert outcome.error is not None and outcome.error.text == wanted and not outcome.gone
    ping = bench.do(hands, Action.PING, task)
    assert ping.error is not None and ping.error.text == wanted
    proxy.listen()
    assert bench.do(hands, Action.PING, task).error is None


def test_namespaces_are_shared_through_the_pause_container(bench: Bench) -> None:
    """pidMode and ipcMode `task` (spec 03 §6.6.7)."""
    hands = bench.hands()
    pause = bench.container("~internal~ecs~pause~namespace", type=ContainerType.NAMESPACE_PAUSE, endpoint_id="")
    task = bench.task(bench.container(), pause, pid_mode="task", ipc_mode="task")
    early = bench.do(hands, Action.CREATE, task)
    assert early.stop_task and early.error is not None
    task = bench.started(hands, task, pause.name)
    task = bench.created(hands, task)
    shared = json.loads(docker("inspect", task.containers[0].docker_id))[0]["HostConfig"]
    own = json.loads(docker("inspect", task.containers[1].docker_id))[0]["HostConfig"]
    wanted = f"container:{task.containers[1].docker_id}"
    assert (shared["PidMode"], shared["IpcMode"]) == (wanted, wanted)
    assert (own["IpcMode"], own["NetworkMode"]) == ("shareable", "none")


def test_ports_of_a_running_container_are_not_given_out_again(bench: Bench) -> None:
    """After an agent restart the picker learns from inspects who holds what (W19)."""
    ports = free_ports(2)
    before = bench.hands(dynamic_ports=ports)
    mapping = (PortMapping(container_port=80),)
    first = bench.started(before, bench.task(bench.container(port_mappings=mapping)))
    after = bench.hands(dynamic_ports=ports)
    after.picker._free = lambda port, protocol: True  # as if Docker published without a proxy process
    assert bench.do(after, Action.INSPECT, first).error is None
    second = bench.created(after, bench.task(bench.container(port_mappings=mapping)))
    third = bench.do(after, Action.CREATE, bench.task(bench.container(port_mappings=mapping)))
    assert str(third.error) == "HostConfigError: error retrieving docker port map: a host port is unavailable"
    assert bench.do(after, Action.STOP, first).error is None
    assert bench.do(after, Action.CREATE, bench.task(bench.container(port_mappings=mapping))).error is None
    bench.do(after, Action.REMOVE, second)


def test_a_restarting_container_keeps_its_ports_while_it_is_down(bench: Bench) -> None:
    """A restart policy starts the same container again: its published port must still be its own."""
    hands = bench.hands(dynamic_ports=free_ports(1))
    policy = RestartPolicy(enabled=True, restart_attempt_period_seconds=1)
    mapping = (PortMapping(container_port=80),)
    task = bench.started(hands, bench.task(bench.container(port_mappings=mapping, restart_policy=policy)))
    docker("kill", task.containers[0].docker_id)
    assert bench.do(hands, Action.INSPECT, task).observation is not None
    other = bench.do(hands, Action.CREATE, bench.task(bench.container(port_mappings=mapping)))
    assert other.error is not None
    assert bench.do(hands, Action.START, task).error is None


def test_a_metadata_file_that_a_crash_cut_off_is_completed(bench: Bench, tmp_path: Path) -> None:
    """The engine that died after the start has not written it; the first inspect of the next one does (W8)."""
    first = bench.hands(metadata_file=True, data_dir=str(tmp_path))
    task = bench.started(first, bench.task(bench.container()))
    path = tmp_path / "metadata" / bench.prefix / task.id / "main" / "ecs-container-metadata.json"

    def status() -> str:
        return str(json.loads(path.read_text()).get("MetadataFileStatus", ""))

    until(lambda: status() == "READY")
    document = json.loads(path.read_text())
    assert document["ContainerID"] == task.containers[0].docker_id
    assert document["Networks"][0]["NetworkMode"] == "bridge"
    del document["MetadataFileStatus"]
    path.write_text(json.dumps(document))
    bench.do(bench.hands(metadata_file=True, data_dir=str(tmp_path)), Action.INSPECT, task)
    until(lambda: status() == "READY")
    bench.do(first, Action.STOP, task)
    bench.do(first, Action.REMOVE, task)
    assert not path.exists()
