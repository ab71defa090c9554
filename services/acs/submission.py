"""Submission of state changes to ECS, at least once and in order (ECS agent behaviour, spec 02 §8).

The engine's outbox stream is read here; an entry leaves it in the same commit that saves what ECS accepted. So nothing
is lost when this process dies. One window remains: between ECS's answer and that commit. A crash inside it sends the
same report once more after the restart, which ECS takes as a repetition of a known status. The window is a few
milliseconds; closing it is not possible without a transaction that spans ECS.

Ten attempts at a time over all tasks, one per task; a pause between attempts holds no permit.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Protocol

import gevent
import gevent.lock
import redis

from common import keys, surely
from common.backoff import Backoff
from common.bus import Bus, Change, Entry
from common.errors import Temporary
from common.logs import fields
from common.model.agent import Sent
from common.model.messages import CredentialsReleased, Event, TaskChanged, TaskForgotten
from common.model.status import TaskStatus, wire_task_status
from common.wire.ecs import BindingRules, attached, submit_task
from services.acs.attach import TASK_ENI
from services.acs.attachments import Attachments
from services.acs.ecs import ApiError, submit_delay
from services.acs.outbox import Outbox, Report, after, flush, tells_something

log = logging.getLogger(__name__)

GROUP = "acs"
PERMITS = 10
FLUSH_SECONDS = (10.0, 30.0)
RETRY_START, RETRY_MAXIMUM, RETRY_FACTOR, RETRY_JITTER = 1.0, 30.0, 1.3, 0.2
REJECTIONS = 16  # of one task that wait to be reported
FORGET_SECONDS = 1.0  # between the last report of a task and the end of its credentials
NOTHING = Sent()


class Api(Protocol):
    """What submission needs of the ECS client."""

    def attempt(self, operation: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One attempt, bounded. Raises ApiError or Temporary."""


class Submission:
    """The consumer of EVENTS and the only writer of SENT."""

    def __init__(
        self,
        bus: Bus,
        api: Api,
        cluster: str,
        rules: BindingRules,
        forget_credentials: Callable[[tuple[str, ...]], None],
        attachments: Attachments,
        foreign: Collection[str] = (),
    ) -> None:
        self._bus, self._api, self._cluster, self._rules = bus, api, cluster, rules
        self._forget_credentials = forget_credentials
        self._attachments = attachments
        self._foreign = frozenset(foreign)  # tasks of another instance, of which ECS hears nothing any more
        self.outbox = Outbox()
        self._sent: dict[str, Sent] = {}
        self._in_hand: set[str] = set()  # entries taken and not settled
        self._settled: set[str] = set()  # those that are, since the last read began
        self._permits = gevent.lock.BoundedSemaphore(PERMITS)
        self._in_flight = 0
        self._stopping = False

    # -- life ----------------------------------------------------------------------------------

    def restore(self) -> None:
        """Read what ECS accepted in earlier lives."""
        self._sent = dict(self._bus.durable.all(keys.SENT))

    def run(self) -> None:
        """Read the outbox for the life of the process."""
        consumer = self._bus.durable.consumer(keys.EVENTS, GROUP, Event)
        while not self._stopping:
            self._settled.clear()  # what left the outbox before this read cannot be in its answer
            for entry in consumer.read():
                self.take(entry)

    def flush_forever(self) -> None:
        """Every 10 to 30 s, report what no change of a task took along."""
        while not self._stopping:
            gevent.sleep(random.uniform(*FLUSH_SECONDS))
            self.flush()

    def stop(self, seconds: float) -> None:
        """Start nothing more and let attempts in flight end, so that what ECS accepts is also saved."""
        self._stopping = True
        end = time.monotonic() + seconds
        while self._in_flight and time.monotonic() < end:
            gevent.sleep(0.02)

    def publish_again(self) -> None:
        """The durable Redis lost its data (it keeps none without checkpoints): write the cursor once more."""
        for arn in list(self._sent):  # reports are accepted meanwhile
            if sent := self._sent.get(arn):
                self._bus.durable.commit(Change().save(keys.SENT, arn, sent))

    def forget_tasks(self, tasks: Mapping[str, object]) -> None:
        """Delete the cursors that TaskForgotten left; `tasks` are those that the engine has, by ARN."""
        for arn in [a for a in self._sent if a not in tasks and a not in self.outbox.lanes]:
            self._sent.pop(arn, None)
            self._bus.durable.commit(Change().delete(keys.SENT, arn))

    # -- taking over ---------------------------------------------------------------------------

    def take(self, entry: Entry[Any]) -> None:
        """One entry of the outbox. Entries come again after a lost connection; each is taken once."""
        if entry.id in self._in_hand or entry.id in self._settled:
            return
        self._in_hand.add(entry.id)
        event = entry.message
        if event.arn in self._foreign:
            log.info("a change of a task of another instance is not reported", **fields(task=event.arn))
            self._settle((entry.id,))
        elif isinstance(event, CredentialsReleased):
            gevent.spawn_later(FORGET_SECONDS, self._release, entry.id, event)
        elif isinstance(event, TaskForgotten):
            self._forget_task(event.arn, entry.id)
        elif isinstance(event, TaskChanged):
            self.outbox.report(event, entry.id)
            self._start_sender(event.arn)
        else:
            self.outbox.add(entry.id, event)

    def reject(self, change: TaskChanged) -> None:
        """Report a task that could not even be read from its payload, each time that it comes.

        While ECS is not to be reached the same payload may come for ever; then some of its reports are enough.
        """
        waiting = sum(report.task == change for report in self.outbox.lane(change.arn).reports)
        if waiting >= REJECTIONS:
            return
        self.outbox.report(change, recorded=False)
        self._start_sender(change.arn)

    def attach(self, id_: str) -> None:
        """Report an attachment: in the lane of its task, or in a call of its own when it has no task to wait for."""
        record = self._attachments.due(id_)
        if record is None:
            return
        if record.kind == TASK_ENI:
            self.outbox.attach(record.task_arn, id_)
            self._start_sender(record.task_arn)
        else:
            gevent.spawn(self._send_attachment, id_)

    def flush(self) -> None:
        """Report batched changes, unless the task's last report is about to come or has gone."""
        for arn in self.outbox.batched():
            try:
                task = self._bus.durable.get(keys.TASK, arn)
            except Temporary as error:
                log.debug("the flush of %s waits: %s", arn, error)
                return
            if task is None:
                self._settle(self.outbox.drop_batch(arn))
            elif task.known != TaskStatus.STOPPED:
                self.outbox.report(flush(task))
                self._start_sender(arn)

    def _forget_task(self, arn: str, entry_id: str) -> None:
        """Nothing more is told of the task. Its ARN may come again: that is another task (spec 03 §3.4)."""
        left = self.outbox.drop_batch(arn)
        self._settle((*left, entry_id), Change().delete(keys.SENT, arn))
        self._sent.pop(arn, None)

    def _release(self, entry_id: str, event: CredentialsReleased) -> None:
        try:
            self._forget_credentials(event.credentials_ids)
            self._settle((entry_id,))
        except Temporary as error:
            log.debug("credentials of %s are forgotten after the next start: %s", event.arn, error)
        except redis.ResponseError as error:
            log.error("Redis refuses to forget the credentials of %s (%s); tried again", event.arn, error)
            gevent.spawn_later(RETRY_MAXIMUM, self._release, entry_id, event)

    def _settle(self, entry_ids: tuple[str, ...], change: Change | None = None) -> None:
        """Take entries out of the outbox, together with what `change` holds."""
        settled = (change or Change()).acknowledge(keys.EVENTS, GROUP, *entry_ids)
        surely.commit(self._bus.durable, settled, lambda: self._stopping)
        self._in_hand.difference_update(entry_ids)
        self._settled.update(entry_ids)  # a reader that lost its connection may still hold an answer that has them

    # -- sending -------------------------------------------------------------------------------

    def _start_sender(self, arn: str) -> None:
        lane = self.outbox.lane(arn)
        if not lane.sending:
            lane.sending = True
            gevent.spawn(self._send_all, arn)

    def _send_all(self, arn: str) -> None:
        lane = self.outbox.lane(arn)
        pauses = _Pauses()
        try:
            while lane.reports and not self._stopping:
                settled, pause = self._try_first(lane.reports[0], pauses)
                if settled:
                    lane.reports.popleft()
                if pause:
                    gevent.sleep(pause)
        except Temporary as error:
            log.info("reports of %s stay in the outbox: %s", arn, error)
        finally:
            lane.sending = False
            self.outbox.tidy(arn)

    def _try_first(self, report: Report, pauses: _Pauses) -> tuple[bool, float]:
        """Try to settle one report; answers whether it is settled, and the pause in seconds before going on."""
        try:
            return self._send_first(report, pauses)
        except Temporary:
            raise
        except Exception:
            # Whatever it was: without its sender the task's last report would wait for the next start of the agent.
            pause = pauses.after(None)
            log.exception("a report of %s failed unexpectedly; it is sent again in %.2f s", report.task.arn, pause)
            return False, pause

    def _send_first(self, report: Report, pauses: _Pauses) -> tuple[bool, float]:
        if report.attachment:
            return self._send_task_attachment(report.attachment, pauses)
        sent = self._sent.get(report.task.arn, NOTHING)
        if not tells_something(report, sent):
            log.debug("a report of %s tells nothing new; it is dropped", report.task.arn)
            self._settle(report.entry_ids)
            return True, 0.0
        body = submit_task(self._cluster, report.task, report.containers, report.managed_agents, self._rules)
        try:
            self._attempt(report, sent, body)
        except ApiError as error:
            return self._failed(report, sent, error, pauses)
        except Temporary as error:
            pause = pauses.after(None)
            log.warning("the report of %s waits %.2f s: %s", report.task.arn, pause, error)
            return False, pause
        pauses.reset()
        return True, 0.0

    def _attempt(self, report: Report, sent: Sent, body: Mapping[str, Any]) -> None:
        with ExitStack() as permit:
            permit.enter_context(self._permits)
            with self._flight():
                self._api.attempt("SubmitTaskStateChange", body)
                permit.close()  # the next one goes out while this one is saved
                log.info("reported to ECS", **fields(task=report.task.arn, status=wire_task_status(report.task.status)))
                self._accept(report, sent)

    @contextmanager
    def _flight(self) -> Iterator[None]:
        """An attempt together with the saving of its outcome: `stop` waits for both."""
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    # -- attachments ---------------------------------------------------------------------------

    def _send_task_attachment(self, id_: str, pauses: _Pauses) -> tuple[bool, float]:
        try:
            told = self._attach_once(id_, "SubmitTaskStateChange", self._permits)
        except (ApiError, Temporary) as error:
            refused = isinstance(error, ApiError) and error.code == "InvalidParameterException"
            pause = pauses.after(error if isinstance(error, ApiError) else None)
            log.warning("%s; the report of the attachment %s %s", error, id_, "is dropped" if refused else "waits")
            return refused, pause
        if told:
            pauses.reset()
        return True, 0.0

    def _send_attachment(self, id_: str) -> None:
        """SubmitAttachmentStateChanges until it is accepted, or ECS no longer waits for the device."""
        pauses = _Pauses()
        while not self._stopping:
            try:
                self._attach_once(id_, "SubmitAttachmentStateChanges", nullcontext())
                return
            except (ApiError, Temporary) as error:
                pause = pauses.after(error if isinstance(error, ApiError) else None)
                log.warning("%s; the report of the attachment %s is sent again in %.2f s", error, id_, pause)
            except Exception:
                pause = pauses.after(None)
                log.exception("the report of the attachment %s failed; it is sent again in %.2f s", id_, pause)
            gevent.sleep(pause)

    def _attach_once(self, id_: str, operation: str, permit: AbstractContextManager[Any]) -> bool:
        """One attempt to report an attachment; False when there is nothing to report any more."""
        with permit, self._flight():
            record = self._attachments.due(id_)
            if record is None:
                return False
            task_arn = record.task_arn if record.kind == TASK_ENI else ""
            self._api.attempt(operation, attached(self._cluster, record.arn, task_arn))
            log.info("reported to ECS", **fields(attachment=record.arn, status="ATTACHED"))
            self._attachments.accepted(id_)
        return True

    def _failed(self, report: Report, sent: Sent, error: ApiError, pauses: _Pauses) -> tuple[bool, float]:
        pause = pauses.after(error)
        if error.code == "InvalidParameterException":
            log.error("ECS refuses a report of %s for good; it is dropped: %s", report.task.arn, error)
            # Counted as told: the engine cleans a task up once its STOPPED was told, and nobody will ask again.
            self._accept(report, sent)
            return True, pause
        log.warning("%s; the report of %s is sent again in %.2f s", error, report.task.arn, pause)
        return False, pause

    def _accept(self, report: Report, sent: Sent) -> None:
        """Save what ECS accepted and take the entries out of the outbox, in one commit."""
        if not report.recorded:
            return
        arn = report.task.arn
        told = after(report, sent)
        self._settle(report.entry_ids, Change().save(keys.SENT, arn, told))
        self._sent[arn] = told  # not before it is saved: a report that tells nothing new is dropped without a word


class _Pauses:
    """The pauses of one sender: quick ones for what the SDK would retry, 1 to 30 s for the rest (§8.4, §8.9)."""

    def __init__(self) -> None:
        self._slow = Backoff(RETRY_START, RETRY_MAXIMUM, RETRY_FACTOR, RETRY_JITTER)
        self._quick = 0

    def reset(self) -> None:
        self._slow.reset()
        self._quick = 0

    def after(self, error: ApiError | None) -> float:
        if error is not None and error.retried:
            self._quick += 1
            return submit_delay(self._quick)
        return self._slow.delay()
