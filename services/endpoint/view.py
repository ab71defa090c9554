"""What the endpoints know, in memory, with every index that a request needs (spec 06 §22).

Fed by `follow`; does no I/O itself, so it answers the same way whether Redis is there or not. A document replaces its
predecessor as a whole: what was rendered from the predecessor goes with it, and a response never mixes two moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from common.model.agent import Credentials, DockerFacts, Instance, Session, TaskStats
from common.model.status import TaskStatus
from common.model.task import Container, Task
from services.endpoint.reply import Reply
from services.endpoint.shapes import Place

TASK_ROLE, EXECUTION_ROLE = "TaskApplication", "TaskExecution"


@dataclass(eq=False, slots=True)
class TaskEntry:
    """A task document with the answers rendered from it. `under_way`: it is on its way to another state."""

    task: Task
    answers: dict[object, Reply] = field(default_factory=dict)
    under_way: bool = field(init=False)

    def __post_init__(self) -> None:
        task = self.task
        self.under_way = task.known < task.desired or any(c.known < c.desired for c in task.containers)

    def answer(self, key: object, render: Callable[[], Reply]) -> Reply:
        """The answer under `key`, rendered on the first request after a change."""
        reply = self.answers.get(key)
        if reply is None:
            reply = self.answers[key] = render()
        return reply


@dataclass(eq=False, slots=True)
class Member:
    """A container of a task, as an index entry."""

    entry: TaskEntry
    container: Container


@dataclass(eq=False, slots=True)
class StatsEntry:
    """The latest stats of a task, when they were read, and whether newer ones are known to exist."""

    stats: TaskStats | None = None
    read_at: float = float("-inf")
    changed: bool = True
    by_id: dict[str, bytes] = field(default_factory=dict)  # docker id -> rendered stats
    answers: dict[object, Reply] = field(default_factory=dict)


class View:
    """Tasks, instance, credentials and stats. `hide_zone` is ECS_DISABLE_TASK_METADATA_AZ."""

    def __init__(self, hide_zone: bool = False) -> None:
        self.hide_zone = hide_zone
        self.instance = Instance()
        self.facts = DockerFacts()
        self.place = Place()
        self.tasks: dict[str, TaskEntry] = {}
        self.by_endpoint: dict[str, Member] = {}
        self.by_docker: dict[str, Member] = {}  # Docker id, or Docker name while there is no id
        self.by_address: dict[str, TaskEntry] = {}
        self.known_credentials: dict[str, str] = {}  # credentials id -> ARN of the task that names it
        self.credentials: dict[str, Credentials] = {}
        self.credential_answers: dict[str, tuple[Reply, str]] = {}
        self.stats: dict[str, StatsEntry] = {}
        self.sessions: dict[str, Session] = {}  # "acs" and "tcs", for /metrics
        self.introspection_answer: Reply | None = None

    # -- tasks -------------------------------------------------------------------------------------

    def set_task(self, task: Task) -> None:
        """A task is new or has changed."""
        self._forget(task.arn)
        entry = TaskEntry(task)
        self.tasks[task.arn] = entry
        for container in task.containers:
            self._index(entry, container)
        if task.local_ip_address:
            self.by_address[task.local_ip_address] = entry
        for id_ in _credentials_ids(task):
            self.known_credentials[id_] = task.arn

    def _index(self, entry: TaskEntry, container: Container) -> None:
        key = container.docker_id or container.docker_name
        if key:
            self.by_docker[key] = Member(entry, container)
        # The reference writes this index when it stores the Docker id, before `docker start`.
        if container.endpoint_id and container.docker_id:
            self.by_endpoint[container.endpoint_id] = Member(entry, container)

    def remove_task(self, arn: str) -> None:
        """A task was cleaned up."""
        self._forget(arn)
        self.stats.pop(arn, None)

    def _forget(self, arn: str) -> None:
        self.introspection_answer = None
        entry = self.tasks.pop(arn, None)
        if entry is None:
            return
        for container in entry.task.containers:
            _drop(self.by_docker, container.docker_id or container.docker_name, entry)
            _drop(self.by_endpoint, container.endpoint_id, entry)
        if self.by_address.get(entry.task.local_ip_address) is entry:
            del self.by_address[entry.task.local_ip_address]
        for id_ in _credentials_ids(entry.task):
            if self.known_credentials.get(id_) == arn:
                del self.known_credentials[id_]

    # -- the agent ---------------------------------------------------------------------------------

    def set_instance(self, instance: Instance) -> None:
        """The container instance was registered, or registered again: everything rendered may name it."""
        self.instance = instance
        zone, zone_id = instance.availability_zone, instance.availability_zone_id
        if self.hide_zone:
            zone = zone_id = ""
        self.place = Place(instance.cluster, zone, zone_id, instance.vpc_id)
        for entry in self.tasks.values():
            entry.answers.clear()
        self.credential_answers.clear()
        self.introspection_answer = None

    # -- credentials -------------------------------------------------------------------------------

    def set_credentials(self, id_: str, credentials: Credentials) -> None:
        """Credentials arrived or were refreshed; the whole value is replaced."""
        self.credentials[id_] = credentials
        self.credential_answers.pop(id_, None)

    def remove_credentials(self, id_: str) -> None:
        """Credentials were released."""
        self.credentials.pop(id_, None)
        self.credential_answers.pop(id_, None)

    # -- stats -------------------------------------------------------------------------------------

    def stats_of(self, arn: str) -> StatsEntry:
        """The stats entry of a task; empty when there is none yet."""
        entry = self.stats.get(arn)
        if entry is None:
            entry = self.stats[arn] = StatsEntry()
        return entry

    def set_stats(self, arn: str, stats: TaskStats | None, read_at: float) -> None:
        """Stats were read; None when telemetry has none for this task."""
        entry = self.stats_of(arn)
        if stats is not entry.stats:
            known = () if stats is None else (c for c in stats.containers if c.docker_id)
            entry.by_id = {c.docker_id: c.rendered for c in known}
            entry.answers.clear()
        entry.stats, entry.read_at, entry.changed = stats, read_at, False


def is_tracked(task: Task, container: Container) -> bool:
    """Whether the container has stats: from the moment the engine saw it run until it saw it stop (spec 06 §14.3).

    Telemetry notices both a second later at most; until it has a sample there is none to show, which is no error.
    """
    runs = bool(container.docker_id) and container.known.is_running
    return runs and bool(task.family) and not task.is_internal and task.known < TaskStatus.STOPPED


def _credentials_ids(task: Task) -> Iterable[str]:
    """The ids that are known because of this task; that of the task role ends when it was released."""
    if task.credentials_id and not task.credentials_released:
        yield task.credentials_id
    if task.execution_credentials_id:
        yield task.execution_credentials_id


def _drop(index: dict[str, Member], key: str, entry: TaskEntry) -> None:
    member = index.get(key)
    if member is not None and member.entry is entry:
        del index[key]
