"""Everything the control plane knows, in memory, written through to the store.

One process, one thread, cooperative greenlets: no method here yields between reading and writing, so none needs a lock.
`save`, `change`, `next_number` and `forget_old` are the only writers. They write to the disk first: what the disk does
not take has not happened, so a client that was told of the failure may try again. Sessions learn of work for an agent
through `on_work`.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from common.clock import Clock
from services.local.core import laptop, lifecycle
from services.local.core.errors import cluster_not_found, invalid
from services.local.core.names import Names, cluster_name, resource_id
from services.local.core.records import Cluster, Definition, Delivery, Instance, Task
from services.local.store import Store

log = logging.getLogger("local.state")
Json = dict[str, Any]
Record = TypeVar("Record", Cluster, Definition, Instance, Task)
STOPPED_KEPT_SECONDS = 3600  # spec 11 §4: stopped tasks stay visible for an hour
TOKEN_KEPT_SECONDS = 24 * 3600  # API reference, "Ensuring idempotency": a client token is remembered for 24 hours


class Token(msgspec.Struct):
    """A client token: what was asked with it and what came of it."""

    fingerprint: str
    tasks: list[str]
    at: float


class State:
    """Clusters, task definitions, container instances, tasks, tags, tokens and the sequence number."""

    def __init__(self, store: Store, names: Names, clock: Clock) -> None:
        self.store, self.names, self.clock = store, names, clock
        self.connected: Callable[[str], bool] = lambda instance_arn: False
        self.on_work: Callable[[str], None] = lambda instance_arn: None
        self.clusters: dict[str, Cluster] = self._load("cluster", Cluster)
        self.definitions: dict[str, Definition] = self._load("definition", Definition)
        self.instances: dict[str, Instance] = self._load("instance", Instance)
        self.tasks: dict[str, Task] = self._load("task", Task)
        self.tags: dict[str, list[Json]] = self._load("tags", list[Json])
        self.tokens: dict[str, Token] = self._load("token", Token)
        self.counters: dict[str, int] = self._load("counter", int)

    def _load(self, kind: str, type_: Any) -> Any:
        """The documents of a kind; one that cannot be read is skipped and stays in the file."""
        found: dict[str, Any] = {}
        for key, body in self.store.load(kind):
            try:
                found[key] = msgspec.json.decode(body, type=type_)
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                log.warning("%s %s in %s is unreadable and is left out: %s", kind, key, self.store.path, error)
        return found

    # -- writing ----------------------------------------------------------------------------------------------------

    def save(
        self,
        *records: Cluster | Definition | Instance | Task,
        tags: Mapping[str, list[Json]] | None = None,
        tokens: Mapping[str, Token] | None = None,
    ) -> None:
        """Remember the records, the tags by ARN and the client tokens: all of it or, with an sqlite3.Error, nothing."""
        tags, tokens = tags or {}, tokens or {}
        puts = [(_kind(r), self._key(r), msgspec.json.encode(r)) for r in records]
        puts += [("tags", arn, msgspec.json.encode(value)) for arn, value in tags.items()]
        puts += [("token", token, msgspec.json.encode(value)) for token, value in tokens.items()]
        if puts:
            self.store.write(puts)
        for record in records:
            self._table(record)[self._key(record)] = record
        self.tags.update(tags)
        self.tokens.update(tokens)

    def change(self, record: Record, **members: Any) -> Record:
        """Remember the record with other members; returns what is remembered now."""
        changed = msgspec.structs.replace(record, **members)
        self.save(changed)
        return changed

    def _table(self, record: Any) -> dict[str, Any]:
        tables: dict[str, Any] = {
            "cluster": self.clusters,
            "definition": self.definitions,
            "instance": self.instances,
            "task": self.tasks,
        }
        table: dict[str, Any] = tables[_kind(record)]
        return table

    @staticmethod
    def _key(record: Cluster | Definition | Instance | Task) -> str:
        if isinstance(record, Cluster):
            return record.name
        return f"{record.family}:{record.revision}" if isinstance(record, Definition) else record.arn

    def next_number(self, counter: str) -> int:
        """1, 2, 3, … also across restarts."""
        number = self.counters.get(counter, 0) + 1
        self.store.write([("counter", counter, msgspec.json.encode(number))])
        self.counters[counter] = number
        return number

    def forget_old(self) -> None:
        """Drop tasks that stopped over an hour ago, deleted definitions that no task uses, tokens older than a day."""
        now = self.clock.now()
        tasks = [
            t.arn
            for t in self.tasks.values()
            if not t.live and now - t.view.get("stoppedAt", now) > STOPPED_KEPT_SECONDS
        ]
        tokens = [k for k, t in self.tokens.items() if now - t.at > TOKEN_KEPT_SECONDS]
        used = {t.view["taskDefinitionArn"] for arn, t in self.tasks.items() if arn not in tasks}
        deleted = [
            k
            for k, d in self.definitions.items()
            if d.view["status"] == "DELETE_IN_PROGRESS" and d.view["taskDefinitionArn"] not in used
        ]
        gone = [("task", a) for a in tasks] + [("tags", a) for a in tasks] + [("token", k) for k in tokens]
        gone += [("definition", k) for k in deleted]
        if not gone:
            return
        self.store.write([], gone)
        tables: dict[str, dict[str, Any]] = {
            "task": self.tasks, "tags": self.tags, "token": self.tokens, "definition": self.definitions}  # fmt: skip
        for kind, key in gone:
            tables[kind].pop(key, None)

    # -- finding ----------------------------------------------------------------------------------------------------

    def cluster(self, name_or_arn: str | None) -> Cluster:
        """The active cluster that a request names (`default` when it names none); ClusterNotFoundException."""
        cluster = self.clusters.get(cluster_name(name_or_arn))
        if cluster is None or cluster.view["status"] != "ACTIVE":
            raise cluster_not_found()
        return cluster

    def instance(self, cluster: Cluster, id_or_arn: str) -> Instance | None:
        """The container instance of the cluster, or None."""
        found = self.instances.get(self.names.instance(cluster.name, resource_id(id_or_arn, "container-instance")))
        return found or self.instances.get(id_or_arn)

    def task(self, cluster: Cluster, id_or_arn: str) -> Task | None:
        """The task of the cluster, or None."""
        return self.tasks.get(self.names.task(cluster.name, resource_id(id_or_arn, "task")))

    def cluster_arn(self, instance_arn: str) -> str:
        """The ARN of the cluster to which a registered instance belongs."""
        return self.names.cluster(self.instances[instance_arn].cluster)

    def tasks_on(self, instance_arn: str) -> list[Task]:
        """The tasks placed on an instance and not yet stopped, oldest first."""
        return [t for t in self.tasks.values() if t.instance == instance_arn and t.live]

    def definition_of(self, task: Task) -> Json:
        """The view of the task definition of a task."""
        key = task.view["taskDefinitionArn"].rsplit("/", 1)[-1]
        return self.definitions[key].view

    def attributes(self, instance_arn: str) -> set[str]:
        """The names of what an instance can do and is."""
        return {a["name"] for a in self.instances[instance_arn].view.get("attributes") or []}

    def sent_definition(self, task: Task) -> Json:
        """The definition of a task as its instance can run it."""
        return laptop.fit(self.definition_of(task), self.attributes(task.instance)).definition

    # -- what several operations do ---------------------------------------------------------------------------------

    def delivery(self, desired: str) -> Delivery:
        """A new message for an agent, not yet acknowledged."""
        return Delivery(desired=desired, message_id=str(uuid.uuid4()), sequence=self.next_number("sequence"))

    def stop(self, task: Task, reason: str | None, code: str = "UserInitiated") -> Task:
        """Want the task stopped; the agent is told until it acknowledges. Returns the task as it is now."""
        if not task.live:
            return task
        view = lifecycle.request_stop(task.view, reason, self.clock.now(), code)
        delivery = task.delivery if task.delivery.desired == "STOPPED" else self.delivery("STOPPED")
        task = self.change(task, view=view, delivery=delivery)
        self.on_work(task.instance)
        return task

    def need_task(self, cluster: Cluster, id_or_arn: str) -> Task:
        """The task, or the service's InvalidParameterException."""
        task = self.task(cluster, id_or_arn)
        if task is None:
            raise invalid("The referenced task was not found.")
        return task


def _kind(record: Cluster | Definition | Instance | Task) -> str:
    return type(record).__name__.lower()
