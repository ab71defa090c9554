"""What the tests of the process `telemetry` share: containers, a telemetry backend, the process itself."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import DockerException, ImageNotFound

from common.bus import Bus, Change
from common.keys import INSTANCE, INSTANCE_ID, TASK
from common.model.agent import Instance
from common.model.status import ContainerStatus, TaskStatus
from common.model.task import Container, Task
from tests.process.telemetry.tcs_server import TcsServer

ROOT = Path(__file__).parents[3]
IMAGE = "telemetry-test/busybox:1"
INSTANCE_ARN = "arn:aws:ecs:us-west-2:123456789012:container-instance/default/0123456789abcdef"


@pytest.fixture(scope="session")
def daemon() -> docker.APIClient:
    """A Docker client, with the tests' image in the daemon."""
    busybox = shutil.which("busybox")
    client = docker.APIClient(version="1.40", timeout=60)
    try:
        client.ping()
    except DockerException as error:
        pytest.skip(f"no Docker Engine: {error}")
    if busybox is None:
        pytest.skip("no static busybox to make an image of")
    try:
        client.inspect_image(IMAGE)
    except ImageNotFound:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            archive.add(busybox, "bin/busybox")
            for name in ("sh", "sleep", "dd", "wget", "true"):
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(link)
        client.import_image_from_data(data.getvalue(), repository=IMAGE.split(":")[0], tag="1")
    return client


def stats_of(client: docker.APIClient, docker_id: str) -> dict[str, Any]:
    """Docker's stats object of now; without one-shot the daemon takes two readings, a second apart."""
    url = f"{client.base_url}/v1.41/containers/{docker_id}/stats"
    answer = client.get(url, params={"stream": "0", "one-shot": "1"})
    answer.raise_for_status()
    return dict(answer.json())


class Containers:
    """Makes containers and the task documents that describe them; everything is removed afterwards."""

    def __init__(self, client: docker.APIClient) -> None:
        self.client = client
        self.ids: list[str] = []

    def start(self, script: str = "sleep 3600", **host_config: object) -> str:
        """Start a container; returns its id."""
        made = self.client.create_container(
            IMAGE, ["sh", "-c", script], name=f"telemetry-{uuid.uuid4().hex[:12]}",
            host_config=self.client.create_host_config(**host_config),
        )  # fmt: skip
        self.ids.append(made["Id"])
        self.client.start(made["Id"])
        return str(made["Id"])

    def describe(self, docker_id: str, name: str = "app", **more: object) -> Container:
        """The container as the engine would describe it."""
        facts = self.client.inspect_container(docker_id)
        return Container(
            name=name,
            docker_id=docker_id,
            docker_name=facts["Name"].lstrip("/"),
            known=ContainerStatus.RUNNING,
            started_at=facts["State"]["StartedAt"],
            network_mode=facts["HostConfig"]["NetworkMode"],
            **more,
        )

    def remove_all(self) -> None:
        """Remove what was made."""
        for docker_id in self.ids:
            try:
                self.client.remove_container(docker_id, force=True)
            except DockerException:
                continue  # the test removed it


@pytest.fixture
def containers(daemon: docker.APIClient) -> Iterator[Containers]:
    """Containers of this test."""
    made = Containers(daemon)
    yield made
    made.remove_all()


@pytest.fixture
def tcs() -> Iterator[TcsServer]:
    """A telemetry backend."""
    server = TcsServer()
    yield server
    server.stop()


def task_of(*containers: Container, **more: object) -> Task:
    """A running task with these containers."""
    arn = f"arn:aws:ecs:us-west-2:123456789012:task/default/{uuid.uuid4().hex}"
    values = {"arn": arn, "family": "web", "version": "3", "known": TaskStatus.RUNNING, "revision": 1, **more}
    return Task(containers=containers, **values)


class Tree:
    """The process `telemetry` on a bus of the test's own."""

    def __init__(self, run_dir: Path, server: TcsServer) -> None:
        self.run_dir, self.server = run_dir, server
        self.bus = Bus(str(run_dir))
        self.process: subprocess.Popen[bytes] | None = None
        self.log = run_dir / "telemetry.log"

    def register(self) -> None:
        """What acs does: the instance has an ARN."""
        instance = Instance(revision=1, arn=INSTANCE_ARN, cluster="default", region="us-west-2")
        self.bus.durable.commit(Change().save(INSTANCE, INSTANCE_ID, instance))

    def save(self, task: Task) -> None:
        """What the engine does: a task changed."""
        self.bus.durable.commit(Change().save(TASK, task.arn, task))

    def start(self, module: str = "services.telemetry", **environment: str) -> None:
        """Start the process; `brisk` is the one with short periods."""
        inherited = {k: v for k, v in os.environ.items() if "proxy" not in k.lower() and not k.startswith("AWS_")}
        environment = {
            **inherited,
            "ECS_RUN_DIR": str(self.run_dir),
            "ECS_DATADIR": str(self.run_dir),
            "ECS_CLUSTER": "default",
            "ECS_BACKEND_HOST": self.server.url,
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
            "AWS_DEFAULT_REGION": "us-west-2",
            "ECS_LOGFILE": "",
            "ECS_LOGLEVEL": "debug",
            **environment,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", module], cwd=ROOT, env=environment,
            stdout=self.log.open("ab"), stderr=subprocess.STDOUT,
        )  # fmt: skip

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(12)


@pytest.fixture
def tree(run_dir: Path, redis_servers: object, tcs: TcsServer) -> Iterator[Tree]:
    """The process, its Redis servers and its backend; the process is started by the test."""
    made = Tree(run_dir, tcs)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait(10)


Eventually = Callable[..., object]
