"""An endpoint in this process, or as a child, against real Redis and real sockets, on free ports."""

from __future__ import annotations

import http.client
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
import psutil
import pytest

from common.bus import Bus, Change
from common.config import load
from common.keys import CREDENTIALS, INSTANCE, STATS, TASK
from common.model.agent import ContainerStats, Credentials, Instance, TaskStats
from common.model.status import ContainerStatus, TaskStatus
from common.model.task import Container, Network, Task
from common.process import Context
from services.endpoint import faultroutes, service
from services.endpoint.service import Endpoint
from tests.conftest import PATIENCE
from tests.fakes.ports import free_port
from tests.process.endpoint.faultbench import Ask, asker, awsvpc_task, network_namespace

ROOT = Path(__file__).parents[3]
SERVE = """
from gevent import monkey
monkey.patch_all()
import sys
from common import process
from services.endpoint.service import Endpoint
ports = {"task_port": int(sys.argv[1]), "introspection_port": int(sys.argv[2])}
sys.exit(process.run("endpoint", lambda context: Endpoint(context, **ports).run()))
"""
INSTANCE_ARN = "arn:aws:ecs:us-west-2:111122223333:container-instance/c/77"


class Writers:
    """What engine, acs and telemetry write, over a bus of their own."""

    def __init__(self, run_dir: Path) -> None:
        self.bus = Bus(str(run_dir))
        self.revision = 0

    def _next(self) -> int:
        self.revision += 1
        return self.revision

    def instance(self, cluster: str = "c") -> None:
        document = Instance(revision=self._next(), arn=INSTANCE_ARN, cluster=cluster, region="us-west-2")
        self.bus.durable.commit(Change().save(INSTANCE, "instance", document))

    def task(self, name: str, **more: Any) -> Task:
        """A running bridge task with one container; its endpoint id is "e-<name>", its credentials id "c-<name>"."""
        container = Container(
            name="app",
            image="nginx:1",
            docker_id=name.encode().hex().ljust(64, "0"),
            docker_name=f"ecs-web-1-{name}",
            endpoint_id=f"e-{name}",
            known=ContainerStatus.RUNNING,
            desired=ContainerStatus.RUNNING,
            network_mode="bridge",
            networks=(Network(name="bridge", ip_address="172.17.0.3"),),
        )
        given: dict[str, Any] = {
            "arn": f"arn:aws:ecs:us-west-2:111122223333:task/c/{name}",
            "revision": self._next(),
            "family": "web",
            "version": "1",
            "containers": (container,),
            "known": TaskStatus.RUNNING,
            "desired": TaskStatus.RUNNING,
            "credentials_id": f"c-{name}",
        }
        task = Task(**(given | more))
        self.bus.durable.commit(Change().save(TASK, task.arn, task))
        return task

    def clean_up(self, task: Task) -> None:
        self.bus.durable.commit(Change().delete(TASK, task.arn))

    def credentials(self, id_: str, key: str = "AKID") -> None:
        document = Credentials(
            credentials_id=id_,
            task_arn="arn:t",
            role_type="TaskApplication",
            access_key_id=key,
            expiration="2030-01-01T00:00:00Z",
            revision=self._next(),
        )
        self.bus.volatile.commit(Change().save(CREDENTIALS, id_, document))

    def release(self, id_: str) -> None:
        self.bus.volatile.commit(Change().delete(CREDENTIALS, id_))

    def stats(self, task: Task, rendered: bytes) -> None:
        containers = tuple(
            ContainerStats(docker_id=c.docker_id, name=c.name, rendered=rendered) for c in task.containers
        )
        document = TaskStats(revision=self._next(), arn=task.arn, containers=containers)
        self.bus.volatile.commit(Change().save(STATS, task.arn, document))


@dataclass
class Answer:
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def fetch(port: int, path: str, method: str = "GET", body: bytes | None = None, timeout: float = 5.0) -> Answer:
    """One request over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, {"User-Agent": "test"})
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


class Running:
    """An endpoint that runs in a greenlet."""

    def __init__(self, run_dir: Path, **environment: str) -> None:
        given = {"ECS_AUDIT_LOGFILE": str(run_dir / "audit.log"), "AWS_DEFAULT_REGION": "us-west-2"}
        config = load(given | environment)
        self.context = Context("endpoint", config, str(run_dir), logging.getLogger("endpoint"))
        self.endpoint = Endpoint(self.context, task_port=0, introspection_port=0)
        self.greenlet = gevent.spawn(self.endpoint.run)

    @property
    def listening(self) -> bool:
        return len(self.endpoint.servers) == 2

    def get(self, path: str, **more: Any) -> Answer:
        return fetch(self.endpoint.port_of(self.endpoint.tasks), path, **more)

    def look(self, path: str, **more: Any) -> Answer:
        return fetch(self.endpoint.port_of(self.endpoint.introspection), path, **more)

    def stop(self) -> None:
        self.context.stopping.set()
        self.greenlet.join(10)


@pytest.fixture
def writers(redis_servers, run_dir: Path) -> Writers:
    """The other processes."""
    return Writers(run_dir)


@pytest.fixture
def start(redis_servers, run_dir: Path, eventually) -> Iterator[Callable[..., Running]]:
    """Start an endpoint and wait until it listens (or not, with `wait=False`)."""
    running: list[Running] = []

    def make(wait: bool = True, **environment: str) -> Running:
        one = Running(run_dir, **environment)
        running.append(one)
        if wait:
            eventually(lambda: one.listening)
        return one

    yield make
    for one in running:
        one.stop()


class Child:
    """The endpoint as a process, so that its memory, limits and times are its own.

    It can be killed and started again on the same ports.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.tasks, self.introspection = run_dir, free_port(), free_port()
        self.log = run_dir / "endpoint.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = os.environ | {
            "ECS_RUN_DIR": str(self.run_dir),
            "ECS_DATADIR": str(self.run_dir),
            "ECS_AUDIT_LOGFILE": str(self.run_dir / "audit.log"),
            "AWS_DEFAULT_REGION": "us-west-2",
            "ECS_TASK_METADATA_RPS_LIMIT": "100000,100000",
        }
        python = [sys.executable, "-c", SERVE, str(self.tasks), str(self.introspection)]
        command = ["sh", "-c", 'ulimit -Sn 256; exec "$@"', "sh", *python]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def get(self, path: str, port: int = 0, timeout: float = 5.0) -> tuple[int, bytes]:
        """Status and body; status 0 when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.tasks, timeout=timeout)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def series(self, start: str) -> float:
        """The sum of the metrics whose line begins so."""
        lines = self.get("/metrics", self.introspection)[1].decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))

    @property
    def facts(self) -> psutil.Process:
        assert self.process is not None
        return psutil.Process(self.process.pid)


@pytest.fixture
def child(writers, run_dir: Path, eventually) -> Iterator[Child]:
    """A serving process that knows the task "a" and its credentials."""
    writers.instance()
    task = writers.task("a")
    writers.credentials("c-a")
    writers.stats(task, b'{"read":"x"}')
    one = Child(run_dir)
    one.start()
    eventually(lambda: one.get("/v2/credentials/c-a")[0] == 200, seconds=20)
    yield one
    one.kill()


@pytest.fixture
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a guest of tests/vm a process costs fifty times what it costs outside: the deadlines grow with it."""
    for module, name in ((faultroutes, "DEADLINE_SECONDS"), (service, "WRITE_SECONDS")):
        monkeypatch.setattr(module, name, getattr(module, name) * PATIENCE)


@pytest.fixture
def namespace() -> Iterator[int]:
    """The pid of a process alone in its network namespace."""
    with network_namespace() as pid:
        yield pid


@pytest.fixture
def post(slow_machine, start, writers, namespace) -> Ask:
    """Asks a fault route of the task "a", which is in `namespace`."""
    writers.instance()
    awsvpc_task(writers, namespace)
    return asker(start())
