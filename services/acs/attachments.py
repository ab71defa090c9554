"""The attachments that ECS announced: waited for, reported once, kept until their task is gone (spec 02 §6).

A record is saved before its message is acknowledged. While ECS waits for a device, the machine is looked at every
LOOK_SECONDS; when the device is there the report goes out, and when its time is over the record is dropped without a
word to ECS, which counts the same time. A device is known by its MAC address or volume id: a message about a known one
changes nothing, unless it is another attachment of a volume whose first one is done with.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gevent.event
from msgspec.structs import replace

from common import keys
from common.bus import Change, Store
from common.logs import fields
from common.model.agent import DeviceAttachment
from services.acs.attach import EBS, INSTANCE_ENI
from services.acs.devices import Presence

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
KEPT_SECONDS = 3600.0  # a task's payload follows its ATTACHED within seconds; without a task by then, it is gone


class Attachments:
    """The only writer of ATTACHMENT documents. `look_around` tells which devices are there now."""

    def __init__(self, store: Store, look_around: Callable[[], Presence], now: Callable[[], float] = time.time) -> None:
        self._store, self._look_around, self._now = store, look_around, now
        self._records: dict[str, DeviceAttachment] = {}  # by id
        self._news = gevent.event.Event()
        self.report: Callable[[str], None] = lambda id_: None  # a device is there; called once in a life of the process

    # -- taking over ---------------------------------------------------------------------------

    def restore(self) -> None:
        """Read what earlier processes saved; what they found and could not report is reported again."""
        self._records = dict(self._store.all(keys.ATTACHMENT))
        for id_, record in list(self._records.items()):
            if record.attached and self.due(id_):
                self.report(id_)
        self._news.set()

    def announced(self, records: Iterable[DeviceAttachment]) -> None:
        """Save what is new. Raises Temporary when the process stops before it is durable."""
        for record in records:
            known = next((r for r in self._records.values() if _is_known(r, record)), None)
            if known is not None:
                log.info("the attachment of a known device is announced again", **_named(record))
                continue
            self._save(self._free_id(record), record)
            log.info("a device is announced", **_named(record))
            self._news.set()

    def _free_id(self, record: DeviceAttachment) -> str:
        """The last part of the ARN; with the device behind it where another device has that one already."""
        id_ = record.arn.rpartition("/")[2] or record.device
        taken = self._records.get(id_)
        return id_ if taken is None or taken.device == record.device else f"{id_}:{record.device}"

    # -- waiting -------------------------------------------------------------------------------

    def run(self) -> None:
        """Look for devices for the life of the process."""
        while True:
            self._news.wait()
            while self.waiting():
                self.look()
                gevent.sleep(LOOK_SECONDS)
            self._news.clear()

    def waiting(self) -> list[str]:
        """The ids of attachments that ECS has not been told of."""
        return [id_ for id_, record in self._records.items() if not record.sent]

    def look(self) -> None:
        """Drop what is overdue and report what has come."""
        is_there: Presence | None = None
        for id_ in self.waiting():
            record = self._records[id_]
            if record.expires_at <= self._now():
                log.warning("ECS was not told in time of a device; it no longer waits for it", **_named(record))
                self._delete(id_)
            elif not record.attached:
                is_there = is_there or self._look_around()
                if is_there(record):
                    log.info("a device is there", **_named(record))
                    self._save(id_, replace(record, attached=True))
                    self.report(id_)

    # -- reporting -----------------------------------------------------------------------------

    def due(self, id_: str) -> DeviceAttachment | None:
        """The record when ECS still has to be told, else None; asked before each attempt."""
        record = self._records.get(id_)
        if record is None or record.sent or not record.attached or record.expires_at <= self._now():
            return None
        return record

    def accepted(self, id_: str) -> None:
        """ECS has been told."""
        record = self._records.get(id_)
        if record is not None and not record.sent:
            self._save(id_, replace(record, sent=True))

    # -- forgetting ----------------------------------------------------------------------------

    def forget_tasks(self, tasks: Mapping[str, object]) -> None:
        """Delete the records of tasks that the engine has cleaned up; `tasks` are those it has, by ARN."""
        for id_, record in list(self._records.items()):
            over = record.sent and record.kind != INSTANCE_ENI and record.task_arn not in tasks
            if over and record.expires_at + KEPT_SECONDS < self._now():
                self._delete(id_)

    def publish_again(self) -> None:
        """The durable Redis lost its data: write everything once more."""
        for id_ in list(self._records):  # others come and go meanwhile
            if record := self._records.get(id_):
                self._store.commit(Change().save(keys.ATTACHMENT, id_, record))

    def _save(self, id_: str, record: DeviceAttachment) -> None:
        saved = replace(record, revision=record.revision + 1)
        self._store.commit(Change().save(keys.ATTACHMENT, id_, saved))
        self._records[id_] = saved

    def _delete(self, id_: str) -> None:
        self._store.commit(Change().delete(keys.ATTACHMENT, id_))
        self._records.pop(id_, None)


def _is_known(saved: DeviceAttachment, record: DeviceAttachment) -> bool:
    """The same device; but a volume whose attachment was reported may be attached again, to another task."""
    another = saved.kind == EBS and saved.sent and saved.arn != record.arn
    return saved.device == record.device and not another


def _named(record: DeviceAttachment) -> dict[str, Any]:
    return fields(attachment=record.arn, attachmentType=record.kind, device=record.device, task=record.task_arn)
