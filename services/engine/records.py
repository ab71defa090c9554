"""Writing the engine's documents: a task and what it announces go into the store in one step.

The engine is the only writer of tasks, so nothing is read back: the workers hold the truth, the store the last saved
form of it. Every call waits for Redis as long as the process is not stopping (Temporary is raised then).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from msgspec.structs import replace

from common import keys, surely
from common.bus import Bus, Change
from common.errors import Temporary
from common.model.agent import DockerFacts, Sent
from common.model.messages import Event
from common.model.task import Task

log = logging.getLogger(__name__)

GROUP = "engine"  # of the consumers of COMMANDS


class Records:
    """The engine's side of the durable store."""

    def __init__(self, bus: Bus, stopping: Callable[[], bool]) -> None:
        self.bus, self.stopping = bus, stopping
        self.in_flight: set[str] = set()  # commands that were taken and are not acknowledged yet

    def save(self, task: Task, events: Iterable[Event], acks: Iterable[str]) -> Task:
        """Save the task with its next revision, append the events, acknowledge the commands. Returns what was saved."""
        saved = replace(task, revision=task.revision + 1)
        change = Change().save(keys.TASK, task.arn, saved)
        for event in events:
            change.append(keys.EVENTS, event)
        self._commit(change, tuple(acks))
        return saved

    def delete(self, task: Task, events: Iterable[Event], acks: Iterable[str]) -> None:
        """Forget the task."""
        change = Change().delete(keys.TASK, task.arn)
        for event in events:
            change.append(keys.EVENTS, event)
        self._commit(change, tuple(acks))

    def forget(self, tasks: Iterable[Task], acks: Iterable[str]) -> None:
        """Forget all these tasks at once, without a word to ECS."""
        change = Change()
        for task in tasks:
            change.delete(keys.TASK, task.arn)
        self._commit(change, tuple(acks))

    def acknowledge(self, *acks: str) -> None:
        """The commands need no document to be changed."""
        self._commit(Change(), acks)

    def _commit(self, change: Change, acks: tuple[str, ...]) -> None:
        change.acknowledge(keys.COMMANDS, GROUP, *acks)
        surely.commit(self.bus.durable, change, self.stopping)
        self.in_flight.difference_update(acks)

    def tasks(self) -> dict[str, Task]:
        """All saved tasks by ARN."""
        return self.bus.durable.all(keys.TASK)

    def sent(self, arn: str) -> Sent | None:
        """What ECS has accepted of the task."""
        return self.bus.durable.get(keys.SENT, arn)

    def publish_facts(self, facts: DockerFacts) -> DockerFacts:
        """Save what is known about Docker; returns the saved document."""
        before = self.bus.durable.get(keys.FACTS, keys.FACTS_ID)
        saved = replace(facts, revision=(before.revision if before else 0) + 1)
        self.bus.durable.commit(Change().save(keys.FACTS, keys.FACTS_ID, saved))
        return saved

    def has_credentials(self, credentials_id: str) -> bool:
        """Whether acs holds these role credentials. Their values are not looked at."""
        try:
            return self.bus.volatile.get(keys.CREDENTIALS, credentials_id, deadline_seconds=2.0) is not None
        except Temporary as error:
            # Never the whole id: who has it can fetch the role's keys.
            log.info("whether credentials %s... are there cannot be told now: %s", credentials_id[:8], error)
            return False
