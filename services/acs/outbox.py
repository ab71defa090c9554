"""Which state changes travel together, and whether a report is worth sending. Pure (spec 02 §8.4).

Container changes wait for the next report of their task: a change of the task itself, or the flush every 10 to 30 s.
Reports of one task are sent in order. What ECS accepted is in the task's Sent document, and a report that tells nothing
new is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from msgspec.structs import replace

from common.model.agent import Sent
from common.model.messages import ContainerChanged, ManagedAgentChanged, TaskChanged
from common.model.status import TaskStatus
from common.model.task import Task


@dataclass(frozen=True)
class Report:
    """One SubmitTaskStateChange, and the stream entries that it settles.

    `recorded` is False for the rejection of a task that never existed here: it is always sent, and remembered nowhere.
    `attachment` is the id of an attachment of the task: the report then carries nothing but that.
    """

    task: TaskChanged
    containers: tuple[ContainerChanged, ...] = ()
    managed_agents: tuple[ManagedAgentChanged, ...] = ()
    entry_ids: tuple[str, ...] = ()
    recorded: bool = True
    attachment: str = ""


@dataclass
class Lane:
    """What waits for one task: changes to be batched, and reports to be sent in order."""

    containers: list[ContainerChanged] = field(default_factory=list)
    managed_agents: list[ManagedAgentChanged] = field(default_factory=list)
    entry_ids: list[str] = field(default_factory=list)
    reports: deque[Report] = field(default_factory=deque)
    sending: bool = False

    @property
    def has_batch(self) -> bool:
        """Changes wait for a report to travel in."""
        return bool(self.containers or self.managed_agents)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is being sent."""
        return not (self.has_batch or self.reports or self.sending)


class Outbox:
    """The lanes of all tasks."""

    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}

    def lane(self, arn: str) -> Lane:
        """The lane of a task, made when there is none."""
        return self.lanes.setdefault(arn, Lane())

    def add(self, entry_id: str, change: ContainerChanged | ManagedAgentChanged) -> None:
        """Batch a change."""
        lane = self.lane(change.arn)
        if isinstance(change, ContainerChanged):
            lane.containers.append(change)
        else:
            lane.managed_agents.append(change)
        lane.entry_ids.append(entry_id)

    def report(self, change: TaskChanged, *entry_ids: str, recorded: bool = True) -> Report:
        """Queue a report; it takes along what is batched."""
        lane = self.lane(change.arn)
        report = Report(
            change, tuple(lane.containers), tuple(lane.managed_agents), (*lane.entry_ids, *entry_ids), recorded
        )
        if not recorded:
            report = Report(change, recorded=False)
        else:
            lane.containers, lane.managed_agents, lane.entry_ids = [], [], []
        lane.reports.append(report)
        return report

    def attach(self, arn: str, id_: str) -> None:
        """Queue the report of an attachment; what is batched waits for a report of the task itself."""
        self.lane(arn).reports.append(Report(TaskChanged(arn=arn, status=TaskStatus.NONE), attachment=id_))

    def batched(self) -> Iterator[str]:
        """The tasks with changes that wait for a report."""
        return (arn for arn, lane in list(self.lanes.items()) if lane.has_batch)

    def drop_batch(self, arn: str) -> tuple[str, ...]:
        """Forget what is batched; answers the entries that are settled by that."""
        lane = self.lane(arn)
        ids = tuple(lane.entry_ids)
        lane.containers, lane.managed_agents, lane.entry_ids = [], [], []
        self.tidy(arn)
        return ids

    def tidy(self, arn: str) -> None:
        """Forget a lane in which nothing happens."""
        lane = self.lanes.get(arn)
        if lane is not None and lane.idle:
            del self.lanes[arn]


def flush(task: Task) -> TaskChanged:
    """The carrier of a flush: the task's present status and times, no reason."""
    return TaskChanged(
        arn=task.arn,
        status=task.known,
        pull_started_at=task.pull_started_at,
        pull_stopped_at=task.pull_stopped_at,
        execution_stopped_at=task.execution_stopped_at,
    )


def tells_something(report: Report, sent: Sent) -> bool:
    """True when ECS does not know all of it yet.

    Changes of a managed agent are always news: a restarted agent is reported RUNNING again (spec 02 §8.6), and entries
    of the stream are not handled twice.
    """
    return (
        not report.recorded
        or sent.task < report.task.status
        or any(sent.containers.get(c.name, 0) < c.status for c in report.containers)
        or bool(report.managed_agents)
    )


def after(report: Report, sent: Sent) -> Sent:
    """What ECS knows once it accepted `report`; nothing is ever lowered."""
    containers = dict(sent.containers)
    for change in report.containers:
        containers[change.name] = max(change.status, containers.get(change.name, change.status))
    agents = dict(sent.managed_agents)
    agents.update({f"{a.container_name}/{a.name}": a.status for a in report.managed_agents})
    return replace(
        sent,
        revision=sent.revision + 1,
        task=max(sent.task, report.task.status),
        containers=containers,
        managed_agents=agents,
    )
