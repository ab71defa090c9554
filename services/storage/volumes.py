"""The volumes on record and the work on them: one greenlet per volume, so that one that hangs delays no other.

This process is the only writer of these documents, so memory holds the truth and the store the last saved form of it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

import gevent
from msgspec.structs import replace

from common import keys
from common.backoff import Backoff
from common.bus import Change, Store
from common.csi import CsiError, Driver
from common.ebs import staging_path
from common.logs import fields
from common.model.agent import TaskVolume
from services.storage.devices import NotFound

log = logging.getLogger(__name__)

UNSTAGE_ATTEMPTS = 5
UNSTAGE_PAUSES = (5.0, 10.0, 1.5)  # seconds: first, longest, multiplier (spec 05 §4.4)


class Volumes:
    """`find_device` yields the device of a volume id or raises NotFound; times are in seconds."""

    def __init__(
        self,
        store: Store,
        driver: Driver,
        find_device: Callable[[str], str],
        root: str,
        stage_seconds: float,
        unstage_seconds: float,
    ) -> None:
        self._store, self._driver, self._find_device, self._root = store, driver, find_device, root
        self._stage_seconds, self._unstage_seconds = stage_seconds, unstage_seconds
        self._jobs: dict[str, gevent.Greenlet] = {}
        self._said: dict[str, set[str]] = {}  # volume id -> why it is not staged, each sentence once
        self.by_id: dict[str, TaskVolume] = {}

    def restore(self) -> None:
        """Read what earlier lives of this process saved."""
        self.by_id = dict(self._store.all(keys.VOLUME))
        if self.by_id:
            log.info("%d volumes are on record", len(self.by_id))
        for volume in list(self.by_id.values()):
            path = staging_path(volume.path, self._root)
            if volume.staged and not os.path.ismount(path):
                log.warning("the volume is no longer mounted; it is mounted again", **_named(volume, path=path))
                self._save(replace(volume, staged=False))

    def publish_again(self) -> None:
        """The store has lost its data."""
        for id_, volume in self.by_id.items():
            self._store.commit(Change().save(keys.VOLUME, id_, volume))

    def record(self, volume: TaskVolume) -> None:
        """A volume was announced: save it before anything is done about it."""
        log.info("a volume is to be mounted", **_named(volume))
        self._save(volume)

    def stage(self, volume: TaskVolume) -> None:
        """Begin one attempt to mount the volume, unless something is being done about it."""
        self._begin(volume.volume_id, self._stage)

    def unstage(self, volume: TaskVolume) -> None:
        """Begin to unmount the volume, unless something is being done about it."""
        self._begin(volume.volume_id, self._unstage)

    def stop(self) -> None:
        """End all work; the next life of this process begins it again."""
        gevent.killall(list(self._jobs.values()), timeout=1.0)

    def _begin(self, id_: str, work: Callable[[TaskVolume], None]) -> None:
        job = self._jobs.get(id_)
        if job is None or job.dead:
            self._jobs[id_] = gevent.spawn(work, self.by_id[id_])

    # -- staging -------------------------------------------------------------------------------

    def _stage(self, volume: TaskVolume) -> None:
        try:
            device = self._find_device(volume.volume_id)
            path = staging_path(volume.path, self._root)
            self._driver.stage(volume.volume_id, device, path, volume.file_system, self._stage_seconds)
        except (NotFound, CsiError) as error:
            self._say(volume, str(error))
            return
        self._said.pop(volume.volume_id, None)
        self._save(replace(volume, device=device, staged=True))
        log.info("the volume is mounted", **_named(volume, device=device, path=path))

    def _say(self, volume: TaskVolume, why: str) -> None:
        said = self._said.setdefault(volume.volume_id, set())
        if why not in said:
            said.add(why)
            log.warning("the volume is not mounted yet: %s", why, **_named(volume))

    # -- unstaging -----------------------------------------------------------------------------

    def _unstage(self, volume: TaskVolume) -> None:
        end = time.monotonic() + self._unstage_seconds
        pauses = Backoff(*UNSTAGE_PAUSES, jitter=0.0)
        for attempt in range(1, UNSTAGE_ATTEMPTS + 1):
            try:
                path = staging_path(volume.path, self._root)
                self._driver.unstage(volume.volume_id, path, max(0.1, end - time.monotonic()))
                log.info("the volume is unmounted", **_named(volume))
                break
            except CsiError as error:
                log.warning("the volume is not unmounted (attempt %d): %s", attempt, error, **_named(volume))
            pause = pauses.delay()
            if attempt == UNSTAGE_ATTEMPTS or time.monotonic() + pause >= end:
                log.error("the volume stays mounted; see whether `umount %s` works", path, **_named(volume))
                break
            gevent.sleep(pause)
        self._said.pop(volume.volume_id, None)
        self._store.commit(Change().delete(keys.VOLUME, volume.volume_id))
        del self.by_id[volume.volume_id]

    def _save(self, volume: TaskVolume) -> None:
        saved = replace(volume, revision=volume.revision + 1)
        self._store.commit(Change().save(keys.VOLUME, volume.volume_id, saved))
        self.by_id[volume.volume_id] = saved


def _named(volume: TaskVolume, **more: Any) -> dict[str, Any]:
    return fields(volume=volume.volume_id, attachment=volume.attachment_arn, task=volume.task_arn, **more)
