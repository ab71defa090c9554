"""The process `storage`: mounts the EBS volumes that ECS announces, and unmounts them when their task has stopped.

A process of its own, because it is needed only where the operator has installed the CSI driver (the tree starts it
nowhere else), and because a driver that hangs must touch neither the session nor the tasks. It reads the attachments
that `acs` keeps and the tasks of the `engine`, and writes which volumes are mounted; `acs` then reports ATTACHED. Every
change of these documents makes it look; while there is something to do it looks twice a second (ECS agent behaviour,
spec 05 §4.2). There is nothing to remember but the documents, so it may be killed at any moment.
"""

from __future__ import annotations

import logging
import time

import gevent

from common import ebs, keys
from common.bus import RESET, FeedItem, Store
from common.csi import Driver
from common.host_paths import host_path
from common.process import Context
from services.storage import devices
from services.storage.core.plan import Plan, plan
from services.storage.driver import DriverTask
from services.storage.volumes import Volumes

log = logging.getLogger(__name__)

TICK_SECONDS, IDLE_SECONDS, AT_ONCE_SECONDS = 0.5, 5.0, 0.001
SETTLE_SECONDS = 0.1  # a burst of changes must not turn into as many looks
REFILL_SECONDS = 60.0  # after the store lost its data, the others have written theirs again by then
LOG_DIRECTORY = "/var/log/ecs/daemons/ebs-csi-driver"


def serve(context: Context, root: str = ebs.VOLUMES, log_directory: str = LOG_DIRECTORY) -> int:
    """Run until the tree stops. `root` is where volumes are mounted."""
    config, store = context.config, context.bus.durable
    socket_path = host_path(config["CSIDriverSocketPath"])
    volumes = Volumes(
        store, Driver(socket_path), devices.find, root, config["NodeStageTimeout"], config["NodeUnstageTimeout"]
    )
    storage = Storage(store, volumes, DriverTask(store, socket_path, log_directory, root))
    storage.restore()
    context.ready()
    work = gevent.spawn(storage.run)
    work.link(lambda _: context.stopping.set())  # it never ends by itself; what it raises ends the process
    context.stopping.wait()
    volumes.stop()
    work.kill(timeout=1.0)
    if work.ready():
        work.get()
    return 0


class Storage:
    """One look after the other."""

    def __init__(self, store: Store, volumes: Volumes, driver: DriverTask) -> None:
        self._store, self._volumes, self._driver = store, volumes, driver
        self._feed = store.feed()
        self._epoch = ""
        self._complete_from = 0.0  # time.monotonic()
        self._busy = False
        self._refused: set[str] = set()

    def restore(self) -> None:
        """Take up what earlier lives left."""
        self._epoch = self._store.epoch()
        self._volumes.restore()
        self._driver.restore()

    def run(self) -> None:
        """Look for the life of the process."""
        while True:
            self.turn()

    def turn(self) -> None:
        """Wait for news, or for the next tick, and do what there is to do."""
        time.sleep(TICK_SECONDS if self._busy else SETTLE_SECONDS)
        news = self._feed.read(AT_ONCE_SECONDS if self._busy else IDLE_SECONDS)
        if RESET in news:
            self._check_epoch()
        if self._busy or any(self._concerns(item) for item in news):
            self._busy = self.look()

    def _concerns(self, item: FeedItem) -> bool:
        of_a_task = item.kind == keys.TASK.name and bool(self._volumes.by_id)
        return item == RESET or item.kind == keys.ATTACHMENT.name or of_a_task

    def look(self) -> bool:
        """Do what there is to do; False when that is nothing."""
        attachments = [a for a in self._store.all(keys.ATTACHMENT).values() if a.kind == ebs.KIND]
        if not attachments and not self._volumes.by_id:
            return False
        tasks = self._store.all(keys.TASK)
        complete = time.monotonic() >= self._complete_from
        found = plan(attachments, self._volumes.by_id, tasks, time.time(), complete)
        self._complain(found)
        if found.new:
            for volume in found.new:
                self._volumes.record(volume)
            found = plan(attachments, self._volumes.by_id, tasks, time.time(), complete)
        if found.stage or found.unstage:
            runs = self._driver.runs(tasks)
            for volume in found.stage if runs else ():
                self._volumes.stage(volume)
            for volume in found.unstage:
                self._volumes.unstage(volume)
        return bool(found) or not complete

    def _complain(self, found: Plan) -> None:
        refused = dict(found.refused or {})
        for arn in refused.keys() - self._refused:
            log.error("the volume of attachment %s is not mounted: %s", arn, refused[arn])
        self._refused = set(refused)

    def _check_epoch(self) -> None:
        now = self._store.epoch()
        if now != self._epoch:
            log.warning("the durable store has lost its data; what is known of volumes is written again")
            self._epoch, self._complete_from = now, time.monotonic() + REFILL_SECONDS
            self._volumes.publish_again()
            self._driver.publish_again()
