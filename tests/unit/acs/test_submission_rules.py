"""Batching, redundancy, order and pauses of state submission, against a store in memory (spec 02 §8.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
import redis

from common import keys, surely
from common.bus import Change, Entry
from common.memory import MemoryBus
from common.model.agent import DeviceAttachment, Sent
from common.model.messages import (
    ContainerChanged,
    CredentialsReleased,
    Event,
    ManagedAgentChanged,
    TaskChanged,
    TaskForgotten,
)
from common.model.status import ContainerStatus, TaskStatus
from common.model.task import Task
from common.wire.ecs import BindingRules
from services.acs import submission as module
from services.acs.attachments import Attachments
from services.acs.ecs import ApiError, explain, submit_delay
from services.acs.outbox import Outbox, Report, after, tells_something
from services.acs.submission import GROUP, Submission, _Pauses

A = "arn:task/a"


def container(name: str = "c", status: ContainerStatus = ContainerStatus.RUNNING, arn: str = A) -> ContainerChanged:
    """A container's change."""
    return ContainerChanged(arn=arn, name=name, status=status)


def changed(status: TaskStatus, arn: str = A) -> TaskChanged:
    """A task's change."""
    return TaskChanged(arn=arn, status=status)


class Api:
    """Records bodies; answers from a script of errors."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.script: list[Exception] = []
        self.hold: gevent.event.Event | None = None

    def attempt(self, operation: str, body: Any) -> dict[str, Any]:
        assert operation == "SubmitTaskStateChange"
        self.bodies.append(dict(body))
        if self.hold is not None:
            self.hold.wait()
        if self.script:
            raise self.script.pop(0)
        return {}


class Rig:
    """A submission between a stub bus and a scripted API."""

    def __init__(self) -> None:
        self.bus, self.api = MemoryBus(), Api()
        self.forgotten: list[tuple[str, ...]] = []
        self.there: set[str] = set()  # devices
        self.attachments = Attachments(
            self.bus.durable, lambda: lambda record: record.device in self.there, lambda: self.clock  # type: ignore[arg-type]
        )  # fmt: skip
        self.clock = 1000.0
        self.begin()
        self.consumer = self.bus.durable.consumer(keys.EVENTS, GROUP, Event)

    def begin(self, *foreign: str) -> None:
        """A process begins with what is stored."""
        self.submission = Submission(
            self.bus, self.api, "default", BindingRules(), self.forgotten.append,  # type: ignore[arg-type]
            self.attachments, foreign,
        )  # fmt: skip
        self.submission.restore()
        self.attachments.report = self.submission.attach

    def emit(self, *events: Any) -> list[Entry[Any]]:
        """Events as the engine emits them, taken by the submission."""
        change = Change()
        for event in events:
            change.append(keys.EVENTS, event)
        self.bus.durable.commit(change)
        entries = self.consumer.read(0.01)
        for entry in entries:
            self.submission.take(entry)
        return entries

    def settle(self, until: Callable[[], object], seconds: float = 3.0) -> None:
        """Let greenlets run until a condition holds."""
        with gevent.Timeout(seconds, AssertionError("the condition did not come to hold")):
            while not until():
                gevent.sleep(0.001)

    @property
    def left(self) -> int:
        """Entries that are not settled."""
        return len(self.bus.durable.streams.get(keys.EVENTS, {}))

    def sent(self, arn: str = A) -> Sent:
        """What was saved as accepted."""
        return self.bus.durable.get(keys.SENT, arn) or Sent()


@pytest.fixture
def rig() -> Rig:
    """Nothing sent yet."""
    return Rig()


def statuses(rig: Rig) -> list[str]:
    """The task statuses that went out."""
    return [body["status"] for body in rig.api.bodies]


def test_container_changes_travel_with_their_task_in_order(rig):
    """One call; the same container may stand in it twice."""
    rig.emit(
        container("init"), container("init", ContainerStatus.STOPPED), container("app"), changed(TaskStatus.RUNNING)
    )
    rig.settle(lambda: rig.left == 0)
    (body,) = rig.api.bodies
    assert [(c["containerName"], c["status"]) for c in body["containers"]] == [
        ("init", "RUNNING"), ("init", "STOPPED"), ("app", "RUNNING"),
    ]  # fmt: skip
    assert rig.sent().containers == {"init": ContainerStatus.STOPPED, "app": ContainerStatus.RUNNING}


def test_container_changes_alone_wait_for_the_flush(rig):
    """Which carries the task's present status, and nothing for a task that has stopped."""
    rig.emit(container())
    gevent.sleep(0.01)
    assert rig.api.bodies == []
    task = Task(arn=A, revision=1, known=TaskStatus.CREATED, pull_started_at=1.5)
    rig.bus.durable.commit(Change().save(keys.TASK, A, task))
    rig.submission.flush()
    rig.settle(lambda: rig.left == 0)
    assert (rig.api.bodies[0]["status"], rig.api.bodies[0]["pullStartedAt"]) == ("PENDING", 1.5)
    stopped = Task(arn=A, revision=2, known=TaskStatus.STOPPED)
    rig.bus.durable.commit(Change().save(keys.TASK, A, stopped))
    rig.emit(container("late", ContainerStatus.STOPPED))
    rig.submission.flush()
    gevent.sleep(0.01)
    assert len(rig.api.bodies) == 1
    rig.bus.durable.commit(Change().delete(keys.TASK, A))
    rig.submission.flush()
    assert rig.left == 0


def test_what_ecs_knows_is_not_told_again(rig):
    """RUNNING behind STOPPED is dropped; the entry is settled all the same."""
    rig.emit(changed(TaskStatus.STOPPED), changed(TaskStatus.RUNNING))
    rig.settle(lambda: rig.left == 0)
    assert statuses(rig) == ["STOPPED"]
    rig.emit(changed(TaskStatus.STOPPED))
    rig.settle(lambda: rig.left == 0)
    assert statuses(rig) == ["STOPPED"]


def test_a_new_status_of_the_task_takes_known_changes_along(rig):
    """Case 53: the call is made for the task, and everything that waited for it is in it."""
    task = Task(arn=A, revision=1, known=TaskStatus.CREATED)
    rig.bus.durable.commit(Change().save(keys.TASK, A, task))
    rig.emit(container())
    rig.submission.flush()
    rig.settle(lambda: rig.left == 0)
    rig.emit(container(), changed(TaskStatus.RUNNING))
    rig.settle(lambda: rig.left == 0)
    assert [c["containerName"] for c in rig.api.bodies[1]["containers"]] == ["c"]
    rig.emit(container())
    rig.submission.flush()
    rig.settle(lambda: rig.left == 0)
    assert len(rig.api.bodies) == 2


def test_an_entry_that_comes_again_is_taken_once(rig):
    """A lost connection to Redis repeats what is in flight, and even what was settled meanwhile."""
    rig.api.hold = gevent.event.Event()
    entries = rig.emit(container(), changed(TaskStatus.RUNNING))
    rig.settle(lambda: rig.api.bodies)
    for entry in entries:
        rig.submission.take(entry)
    rig.api.hold.set()
    rig.settle(lambda: rig.left == 0)
    for entry in entries:
        rig.submission.take(entry)
    gevent.sleep(0.01)
    assert len(rig.api.bodies) == 1


def test_what_was_settled_before_a_read_is_forgotten_with_it(rig):
    """It left the outbox, so that answer cannot hold it; remembered for good it would grow with every task."""
    reader = gevent.spawn(rig.submission.run)
    for number in range(5):
        rig.bus.durable.commit(Change().append(keys.EVENTS, changed(TaskStatus.RUNNING, f"arn:{number}")))
        rig.settle(lambda: rig.left == 0)
    assert len(rig.submission._settled) <= 1
    reader.kill()


def test_reports_of_one_task_are_serial_and_ten_go_out_at_a_time(rig):
    """Over all tasks; a second report of a task waits for the first."""
    rig.api.hold = gevent.event.Event()
    for number in range(25):
        rig.emit(changed(TaskStatus.RUNNING, f"arn:{number}"), changed(TaskStatus.STOPPED, f"arn:{number}"))
    gevent.sleep(0.05)
    assert len(rig.api.bodies) == 10
    rig.api.hold.set()
    rig.settle(lambda: rig.left == 0)
    for number in range(25):
        assert [b["status"] for b in rig.api.bodies if b["task"] == f"arn:{number}"] == ["RUNNING", "STOPPED"]


def test_a_refused_parameter_drops_the_report_and_counts_as_told(rig, monkeypatch):
    """Otherwise the engine would wait three days before it cleans the task up."""
    monkeypatch.setattr(module, "RETRY_START", 0.01)
    rig.api.script = [ApiError("SubmitTaskStateChange", "InvalidParameterException", "no", 400)]
    rig.emit(changed(TaskStatus.RUNNING), changed(TaskStatus.STOPPED))
    rig.settle(lambda: rig.left == 0)
    assert statuses(rig) == ["RUNNING", "STOPPED"]
    assert rig.sent().task == TaskStatus.STOPPED


def test_any_other_error_is_tried_again_for_ever(rig, monkeypatch):
    """The report stays first in its queue, and its entry in the stream."""
    monkeypatch.setattr(module, "RETRY_START", 0.005)
    rig.api.script = [
        ApiError("SubmitTaskStateChange", code, "", 400) for code in ("ClientException", "AccessDeniedException") * 3
    ]
    rig.emit(changed(TaskStatus.RUNNING), changed(TaskStatus.STOPPED))
    gevent.sleep(0.002)
    assert rig.left == 2
    rig.settle(lambda: rig.left == 0)
    assert statuses(rig) == ["RUNNING"] * 7 + ["STOPPED"]


@pytest.mark.parametrize("fault", [UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), RuntimeError("STS")])
def test_a_fault_that_nobody_foresaw_delays_a_report_and_loses_none(rig, monkeypatch, caplog, fault):
    """The sender goes on with the same report, and the log names the task."""
    monkeypatch.setattr(module, "RETRY_START", 0.005)
    rig.api.script = [fault, fault]
    rig.emit(changed(TaskStatus.RUNNING), changed(TaskStatus.STOPPED))
    rig.settle(lambda: rig.left == 0)
    assert statuses(rig) == ["RUNNING"] * 3 + ["STOPPED"]
    assert [A in record.message for record in caplog.records if record.exc_info] == [True, True]


def test_pauses_are_those_of_the_reference():
    """1, 1.3, 1.69 ... at most 30 s for refusals; 60 to 118 ms, doubling, for what an SDK would retry."""
    pauses = _Pauses()
    refused, busy = ApiError("S", "ClientException", ""), ApiError("S", "", "", 500, retried=True)
    for base in (1.0, 1.3, 1.69):
        assert base <= pauses.after(refused) < base * 1.2
    assert 0.06 <= pauses.after(busy) < 0.118
    assert 0.12 <= pauses.after(busy) < 0.236
    assert submit_delay(200) == 30.0
    pauses.reset()
    assert 1.0 <= pauses.after(refused) < 1.2


def test_a_rejected_task_is_reported_each_time_and_remembered_nowhere(rig):
    """The payload comes again, and so does the answer."""
    for _ in range(2):
        rig.submission.reject(TaskChanged(arn=A, status=TaskStatus.STOPPED, reason="x"))
        gevent.sleep(0.01)
    assert statuses(rig) == ["STOPPED", "STOPPED"]
    assert rig.bus.durable.all(keys.SENT) == {}


def test_a_rejection_that_comes_again_before_it_was_heard_is_reported_again(rig):
    """Twice in one payload, or redelivered at once: ECS hears each (spec 02 §4.4)."""
    rig.api.hold = gevent.event.Event()
    for _ in range(2):
        rig.submission.reject(TaskChanged(arn=A, status=TaskStatus.STOPPED, reason="bad"))
    gevent.sleep(0.01)
    rig.api.hold.set()
    rig.settle(lambda: not rig.submission.outbox.lanes)
    assert statuses(rig) == ["STOPPED", "STOPPED"]


def test_rejections_do_not_pile_up_while_ecs_is_away(rig):
    """The payload comes again and again while the API is down."""
    rig.api.hold = gevent.event.Event()
    for _ in range(3 * module.REJECTIONS):
        rig.submission.reject(TaskChanged(arn=A, status=TaskStatus.STOPPED, reason="bad"))
    rig.submission.reject(TaskChanged(arn=A, status=TaskStatus.STOPPED, reason="worse"))
    gevent.sleep(0.01)
    rig.api.hold.set()
    rig.settle(lambda: not rig.submission.outbox.lanes)
    assert [body["reason"] for body in rig.api.bodies] == ["bad"] * module.REJECTIONS + ["worse"]


def test_an_accepted_report_is_saved_however_often_redis_refuses(rig, monkeypatch):
    """Without it the engine would wait for ever to hear that its STOPPED was told; ECS hears it once."""
    monkeypatch.setattr(surely, "FIRST_PAUSE_SECONDS", 0.001)
    commit, refusals = rig.bus.durable.commit, [redis.ResponseError("MISCONF no space")] * 3

    def refuse(change, *more, **named):
        if refusals and any(command[0] == "XACK" for command in change.commands):
            raise refusals.pop()
        return commit(change, *more, **named)

    monkeypatch.setattr(rig.bus.durable, "commit", refuse)
    rig.emit(changed(TaskStatus.STOPPED))
    rig.settle(lambda: rig.left == 0)
    assert (refusals, statuses(rig), rig.sent().task) == ([], ["STOPPED"], TaskStatus.STOPPED)


def test_the_arn_of_a_forgotten_task_is_that_of_a_new_one(rig):
    """ECS sends it again: an acknowledgement was lost, or it stops a task that is gone (spec 03 §3.4)."""
    first = [changed(TaskStatus.RUNNING), changed(TaskStatus.STOPPED)]
    rig.emit(*first)
    rig.settle(lambda: rig.left == 0)
    rig.emit(TaskForgotten(arn=A))
    assert (rig.left, rig.bus.durable.all(keys.SENT)) == (0, {})
    rig.emit(*first)
    rig.settle(lambda: rig.left == 0)
    assert statuses(rig) == ["RUNNING", "STOPPED"] * 2


def test_what_was_batched_of_a_forgotten_task_is_not_told_of_the_next(rig):
    """Entries that no report took along leave the outbox."""
    rig.emit(container(status=ContainerStatus.STOPPED), TaskForgotten(arn=A))
    assert rig.left == 0
    rig.emit(changed(TaskStatus.RUNNING))
    rig.settle(lambda: rig.left == 0)
    assert "containers" not in rig.api.bodies[0] or rig.api.bodies[0]["containers"] == []


def test_cursors_are_written_again_while_reports_go_on(rig, monkeypatch):
    """A Redis that lost its data, and a task whose first report is accepted in the midst of it."""
    arns = [f"{A}{n}" for n in range(3)]
    for arn in arns:
        rig.emit(TaskChanged(arn=arn, status=TaskStatus.RUNNING))
    rig.settle(lambda: rig.left == 0)
    rig.bus.durable.lose_everything()
    commit = rig.bus.durable.commit

    def slowly(change, *more, **named):
        rig.submission._sent.setdefault(f"{A}-new", Sent(task=TaskStatus.RUNNING))
        return commit(change, *more, **named)

    monkeypatch.setattr(rig.bus.durable, "commit", slowly)
    rig.submission.publish_again()
    assert set(arns) <= set(rig.bus.durable.all(keys.SENT))


def test_credentials_that_redis_does_not_let_go_are_forgotten_later(rig, monkeypatch):
    """Not only after the next start of the agent."""
    monkeypatch.setattr(module, "FORGET_SECONDS", 0.001)
    monkeypatch.setattr(module, "RETRY_MAXIMUM", 0.001)
    refusals = [redis.ResponseError("LOADING")]

    def forget(ids):
        if refusals:
            raise refusals.pop()
        rig.forgotten.append(ids)

    monkeypatch.setattr(rig.submission, "_forget_credentials", forget)
    rig.emit(CredentialsReleased(arn=A, credentials_ids=("x",)))
    rig.settle(lambda: rig.left == 0)
    assert rig.forgotten == [("x",)]


def test_a_restarted_managed_agent_is_reported_again(rig):
    """RUNNING after RUNNING is news."""
    agent = ManagedAgentChanged(arn=A, container_name="c", name="ExecuteCommandAgent", status="RUNNING", reason="r")
    for _ in range(2):
        rig.emit(agent, changed(TaskStatus.RUNNING))
        rig.settle(lambda: rig.left == 0)
    assert len(rig.api.bodies) == 2
    assert rig.sent().managed_agents == {"c/ExecuteCommandAgent": "RUNNING"}


def test_credentials_end_about_a_second_after_the_last_report(rig, monkeypatch):
    """A container that is just stopping may still ask for them."""
    monkeypatch.setattr(module, "FORGET_SECONDS", 0.05)
    rig.emit(CredentialsReleased(arn=A, credentials_ids=("x", "y")))
    gevent.sleep(0.02)
    assert (rig.forgotten, rig.left) == ([], 1)
    rig.settle(lambda: rig.left == 0)
    assert rig.forgotten == [("x", "y")]


def test_the_cursor_of_a_cleaned_up_task_is_deleted(rig):
    """And one that Redis lost is written again."""
    rig.emit(changed(TaskStatus.STOPPED))
    rig.settle(lambda: rig.left == 0)
    rig.bus.durable.lose_everything()
    rig.submission.publish_again()
    assert rig.sent().task == TaskStatus.STOPPED
    rig.submission.forget_tasks(rig.bus.durable.all(keys.TASK))
    assert rig.bus.durable.all(keys.SENT) == {}


def test_a_new_life_knows_what_was_accepted(rig):
    """Nothing is told twice after a restart."""
    rig.emit(changed(TaskStatus.RUNNING))
    rig.settle(lambda: rig.left == 0)
    rig.begin()
    rig.emit(changed(TaskStatus.RUNNING))
    rig.settle(lambda: rig.left == 0)
    assert len(rig.api.bodies) == 1


def test_tasks_of_another_instance_are_not_reported(rig):
    """A copied disk brings their last changes along; ECS would take them for news of this instance."""
    rig.begin("arn:task/foreign")
    rig.emit(changed(TaskStatus.STOPPED, "arn:task/foreign"), changed(TaskStatus.RUNNING))
    rig.settle(lambda: rig.left == 0)
    assert [body["task"] for body in rig.api.bodies] == [A]


def test_an_attachment_waits_in_the_lane_of_its_task_and_takes_nothing_along(rig):
    """Container changes that wait for their task's report must not be lost with it (spec 02 §13, 5)."""
    rig.attachments.announced([DeviceAttachment(arn="x/1", kind="task-eni", device="m", task_arn=A, expires_at=2e3)])
    rig.there.add("m")
    rig.emit(container())
    rig.attachments.look()
    rig.settle(lambda: len(rig.api.bodies) == 1)
    rig.emit(changed(TaskStatus.RUNNING))
    rig.settle(lambda: rig.left == 0)
    first, second = rig.api.bodies
    assert first == {"attachments": [{"attachmentArn": "x/1", "status": "ATTACHED"}], "cluster": "default", "task": A}
    assert [c["containerName"] for c in second["containers"]] == ["c"]


def test_a_status_never_goes_back():
    """`after` takes the higher of what was known and what is told."""
    sent = Sent(revision=3, task=TaskStatus.STOPPED, containers={"c": ContainerStatus.STOPPED})
    report = Report(changed(TaskStatus.RUNNING), (container("c"), container("d")))
    known = after(report, sent)
    assert (known.revision, known.task) == (4, TaskStatus.STOPPED)
    assert known.containers == {"c": ContainerStatus.STOPPED, "d": ContainerStatus.RUNNING}
    assert tells_something(report, sent)
    assert not tells_something(report, known)


def test_lanes_in_which_nothing_happens_are_forgotten():
    """A busy agent must not grow with every task it ever had."""
    outbox = Outbox()
    outbox.add("1", container())
    assert outbox.drop_batch(A) == ("1",)
    assert outbox.lanes == {}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("AccessDeniedException", "needs the permission ecs:SubmitTaskStateChange"),
        ("RequestExpired", "the clock of this machine"),
        ("SignatureDoesNotMatch", "the clock of this machine"),
        ("UnrecognizedClientException", "the access key is unknown or has expired"),
    ],
)
def test_permissions_and_clocks_are_named_in_plain_words(code, words):
    """The reader should know what to do at three in the morning."""
    assert words in explain("SubmitTaskStateChange", code, "text")
