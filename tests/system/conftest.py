"""A whole tree of its own for each test: `ecs-agent` in local mode on a directory and port of the test's own.

The ports of introspection and credentials are fixed by ECS, so these tests run one after the other and need them free:
also from connections of earlier tests, to which the kernel may have given such a port.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from botocore.config import Config

from common import docker
from services.init import sysctl
from services.init.errors import SysctlError
from services.init.rules import ENDPOINT_PORT, INTROSPECTION_PORT
from tests.fakes.ports import free_port

IMAGE = "ecs-system-test/busybox:1"
LOOP = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"]
TASK_LABEL = "com.amazonaws.ecs.task-arn"
APPLETS = ("sh", "sleep", "echo", "cat", "wget", "env", "true", "false", "test", "trap", "id")


@pytest.fixture(scope="session", autouse=True)
def free_endpoint_ports() -> Iterator[None]:
    """No outgoing connection has a port of the endpoint, and none gets one before the last test (see sysctl.py)."""
    ports = (ENDPOINT_PORT, INTROSPECTION_PORT)
    try:
        ours = sysctl.not_reserved(ports)
        sysctl.reserve(ours)
    except SysctlError:  # the trees say the same, and nearly always the ports are free
        yield
        return
    wait_seconds_for(lambda: all(c.laddr[1:] not in {(p,) for p in ports} for c in psutil.net_connections("tcp")), 75.0)
    yield
    sysctl.give_back(ours)


@pytest.fixture(scope="session")
def engine() -> Any:
    """A client of the Docker Engine, with the test's image made from the system's busybox."""
    client = docker.client(docker.lowest_usable_version(), 60)
    if not client.images(IMAGE):
        client.import_image_from_data(_busybox(), repository=IMAGE.split(":")[0], tag="1")
    return client


def _busybox() -> bytes:
    data = io.BytesIO()
    path = shutil.which("busybox") or "/bin/busybox"
    with tarfile.open(fileobj=data, mode="w") as tar:
        for folder in ("bin", "tmp", "etc"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(info)
        tar.add(path, "bin/busybox")
        for name in APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return data.getvalue()


class Agent:
    """The tree under test and a client of its control plane."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.directory, self.port = directory, free_port()
        self.log = directory / "agent.log"
        keep = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
        self.environment = {
            **keep,
            "ECS_DATADIR": str(directory / "data"),
            "ECS_LOCAL_CONTROL_PLANE": "true",
            "ECS_LOCAL_PORT": str(self.port),
            "ECS_CLUSTER": "default",
            "AWS_DEFAULT_REGION": "us-west-2",
            "AWS_EC2_METADATA_DISABLED": "true",
            "ECS_AVAILABLE_LOGGING_DRIVERS": '["json-file","none"]',
            "ECS_ENABLE_TASK_IAM_ROLE": "true",
            "ECS_ENABLE_TASK_CPU_MEM_LIMIT": "false",
            "ECS_IMAGE_PULL_BEHAVIOR": "prefer-cached",
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.arns: set[str] = set()
        self.ecs = boto3.client(
            "ecs",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="us-west-2",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"max_attempts": 1}, read_timeout=10, connect_timeout=2),
        )

    def start(self) -> None:
        """Start the tree; returns at once."""
        command = [str(Path(sys.executable).parent / "ecs-agent")]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=self.directory)

    def connected(self) -> bool:
        """True when the control plane sees the agent connected."""
        try:
            arns = self.ecs.list_container_instances()["containerInstanceArns"]
            if not arns:
                return False
            found = self.ecs.describe_container_instances(containerInstances=arns)["containerInstances"]
            return any(i["agentConnected"] for i in found)
        except Exception:
            return False

    def programs(self) -> dict[str, psutil.Process]:
        """The tree's processes by program name."""
        assert self.process
        found = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                title = " ".join(child.cmdline())
            except psutil.Error:
                continue  # it ended meanwhile
            if "redis-server" in title:
                found["secrets" if "secrets.sock" in title else "redis"] = child
            elif title.startswith("ecs-agent: "):
                found[title.removeprefix("ecs-agent: ").strip()] = child
        return found

    def run(self, *containers: dict[str, Any], count: int = 1, family: str = "test", **definition: Any) -> list[str]:
        """Register a task definition and run it; returns the task ARNs."""
        self.ecs.register_task_definition(family=family, containerDefinitions=list(containers), **definition)
        answer = self.ecs.run_task(taskDefinition=family, count=count)
        assert not answer["failures"], answer["failures"]
        arns = [t["taskArn"] for t in answer["tasks"]]
        self.arns.update(arns)
        return arns

    def tasks(self, arns: list[str]) -> list[dict[str, Any]]:
        """DescribeTasks."""
        return list(self.ecs.describe_tasks(tasks=arns)["tasks"])

    def statuses(self, arns: list[str]) -> set[str]:
        """The last statuses of these tasks."""
        return {t["lastStatus"] for t in self.tasks(arns)}

    def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def text(self) -> str:
        """The log so far."""
        return self.log.read_text(errors="replace")


def container(name: str = "main", command: list[str] | None = None, **more: Any) -> dict[str, Any]:
    """A container definition on the test's image."""
    return {"name": name, "image": IMAGE, "cpu": 10, "memory": 32, "command": command or LOOP, **more}


@pytest.fixture
def make_agent(engine: Any) -> Iterator[Callable[..., Agent]]:
    """Trees; each is ended afterwards with everything that it ran."""
    made: list[Agent] = []

    def make(**environment: str) -> Agent:
        agent = Agent(Path(tempfile.mkdtemp(prefix="ecs-sys-")), environment)
        made.append(agent)
        agent.start()
        return agent

    yield make
    for agent in made:
        if agent.process and agent.process.poll() is None:
            children = psutil.Process(agent.process.pid).children(recursive=True)
            agent.process.terminate()
            try:
                agent.process.wait(30)
            except subprocess.TimeoutExpired:
                agent.process.kill()
            for child in psutil.wait_procs(children, timeout=5)[1]:
                child.kill()
        _remove_containers(engine, agent)
        shutil.rmtree(agent.directory, ignore_errors=True)


def _remove_containers(engine: Any, agent: Agent) -> None:
    for found in engine.containers(all=True, filters={"label": TASK_LABEL}):
        if found["Labels"].get(TASK_LABEL) in agent.arns:
            engine.remove_container(found["Id"], force=True, v=True)


@pytest.fixture
def agent(make_agent: Callable[..., Agent], eventually: Callable[..., object]) -> Agent:
    """A tree that is connected."""
    made = make_agent()
    wait_connected(made, eventually)
    return made


def wait_connected(agent: Agent, eventually: Callable[..., object]) -> None:
    """Until the agent is connected; the log is shown when it does not."""
    try:
        eventually(agent.connected, seconds=30, pause=0.1)
    except AssertionError:
        raise AssertionError("the agent never connected:\n" + agent.text()[-4000:]) from None


def containers_of(engine: Any, arn: str) -> list[dict[str, Any]]:
    """Docker's list entries of the containers of a task."""
    return list(engine.containers(all=True, filters={"label": f"{TASK_LABEL}={arn}"}))


def wait_seconds_for(condition: Callable[[], object], seconds: float) -> float:
    """Seconds until the condition held; fails after `seconds`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"the condition did not hold within {seconds} s")
        time.sleep(0.05)
    return time.monotonic() - began
