"""Which containers are watched, and what is known of each (spec 07 §3, §7).

The book is kept from the task documents alone: `apply` makes it agree with one document and says which containers came
and went. A document that shows a container as not running removes it, so nothing can bring a stopped one back. A
container that its restart policy starts again stays in the book with its samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from common import serviceconnect
from common.model.status import ContainerType, TaskStatus
from common.model.task import Container, Health, Task
from services.telemetry.core.dockerstats import DockerStats, Interface
from services.telemetry.core.numbers import NANOSECONDS, parse_time
from services.telemetry.core.samples import STREAM_LENGTH, Queue
from services.telemetry.core.serviceconnect import Holder

EBS = "amazonebs"


@dataclass
class Watched:
    """One running container of a watched task."""

    docker_id: str
    name: str
    docker_name: str
    type: ContainerType
    own_network: bool  # whether Docker's numbers for this container have networks
    restart_policy: bool
    queue: Queue
    started_at: int  # nanoseconds, its first start
    sampled: bool = True
    checks_health: bool = False
    health: Health = field(default_factory=Health)
    restarts: int = 0
    last: DockerStats | None = None  # the latest whole reading, rewritten when it had restarted
    before: DockerStats | None = None  # what it had used before its last restart
    restart_seen_at: int = 0  # nanoseconds; 0 = it never restarted

    def age(self, now: float) -> float:
        """Seconds since its first start; a container without a start time is infinitely old."""
        return now - self.started_at / NANOSECONDS if self.started_at else float("inf")


@dataclass
class Network:
    """The network of an awsvpc task: samples, and the interfaces as last read."""

    queue: Queue = field(default_factory=lambda: Queue(STREAM_LENGTH))
    interfaces: dict[str, Interface] | None = None


@dataclass
class TaskEntry:
    """A task with at least one watched container."""

    arn: str
    family: str
    version: str
    network_mode: str
    container_count: int
    containers: dict[str, Watched] = field(default_factory=dict)  # by Docker id
    network: Network | None = None
    has_proxy: bool = False  # a Service Connect task, whether its proxy runs or not
    service_connect: Holder | None = None  # from when the proxy runs
    volumes: tuple[tuple[str, str, str], ...] = ()  # EBS: id, name, directory below /mnt/ecs/ebs

    @property
    def sampled(self) -> list[Watched]:
        """The containers whose use is measured."""
        return [c for c in self.containers.values() if c.sampled]

    def pause(self) -> Watched | None:
        """The container that holds the network of an awsvpc task."""
        return next((c for c in self.containers.values() if c.type == ContainerType.CNI_PAUSE), None)


@dataclass(frozen=True)
class Difference:
    """What `Book.apply` changed."""

    added: tuple[Watched, ...] = ()
    removed: tuple[Watched, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


class Book:
    """All watched tasks by ARN."""

    def __init__(self, metrics: bool = True, queue_length: int = STREAM_LENGTH) -> None:
        self.metrics = metrics
        self.queue_length = queue_length
        self.tasks: dict[str, TaskEntry] = {}

    def __iter__(self) -> Iterator[tuple[TaskEntry, Watched]]:
        """Every sampled container with its task."""
        for entry in list(self.tasks.values()):
            for container in entry.sampled:
                yield entry, container

    @property
    def idle(self) -> bool:
        """No sampled container and no Service Connect task: there is nothing to report."""
        return not any(e.service_connect or e.sampled for e in self.tasks.values())

    def apply(self, task: Task) -> Difference:
        """Make the book agree with a task document."""
        running = {c.docker_id: c for c in task.containers if c.docker_id and c.known.is_running}
        if not watchable(task) or not running:
            return self.forget(task.arn)
        entry = self.tasks.get(task.arn)
        if entry is None:
            entry = self.tasks[task.arn] = TaskEntry(task.arn, "", "", "", 0)
        entry.family, entry.version = task.family, task.version
        entry.network_mode, entry.container_count = task.network_mode or "bridge", len(task.containers) - 1
        entry.volumes = _volumes(task)
        removed = tuple(entry.containers.pop(id_) for id_ in list(entry.containers) if id_ not in running)
        added = []
        for id_, container in running.items():
            if id_ not in entry.containers:
                entry.containers[id_] = self._watch(task, container)
                added.append(entry.containers[id_])
            watched = entry.containers[id_]
            watched.health, watched.restarts = container.health, container.restart_count
        self._attach(entry, task)
        return Difference(tuple(added), removed)

    def forget(self, arn: str) -> Difference:
        """The task is gone."""
        entry = self.tasks.pop(arn, None)
        return Difference(removed=tuple(entry.containers.values())) if entry else Difference()

    def _watch(self, task: Task, container: Container) -> Watched:
        return Watched(
            docker_id=container.docker_id,
            name=container.name,
            docker_name=container.docker_name,
            type=container.type,
            own_network=task.network_mode != "awsvpc" and container.network_mode not in ("host", "none"),
            restart_policy=bool(container.restart_policy and container.restart_policy.enabled),
            queue=Queue(self.queue_length),
            started_at=parse_time(container.started_at),
            sampled=self.metrics,
            checks_health=container.health_check_type == "docker",
        )

    def _attach(self, entry: TaskEntry, task: Task) -> None:
        if self.metrics and entry.network is None and entry.network_mode == "awsvpc" and entry.pause():
            entry.network = Network()
        name = serviceconnect.proxy_name(task)
        entry.has_proxy = bool(name)
        if name and entry.service_connect is None and any(c.name == name for c in entry.containers.values()):
            entry.service_connect = Holder()


def watchable(task: Task) -> bool:
    """A task of the user (it has an ARN and a family) that has not stopped."""
    return bool(task.arn and task.family and not task.is_internal and task.known < TaskStatus.STOPPED)


def _volumes(task: Task) -> tuple[tuple[str, str, str], ...]:
    return tuple(
        (p.get("volumeId", ""), p.get("volumeName", ""), p.get("sourceVolumeHostPath", ""))
        for p in (a.properties for a in task.attachments if a.type == EBS)
    )
