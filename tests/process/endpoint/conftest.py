"""An endpoint in this process against real Redis and real sockets, on free ports."""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
import pytest

from common.bus import Bus, Change
from common.config import load
from common.keys import CREDENTIALS, INSTANCE, STATS, TASK
from common.model.agent import ContainerStats, Credentials, Instance, TaskStats
from common.model.status import ContainerStatus, TaskStatus
from common.model.task import Container, Network, Task
from common.process import Context
from services.endpoint.service import Endpoint

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
