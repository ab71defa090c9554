"""The publish cycle: every 20 s what is known of the containers goes to the TCS session (spec 07 §9).

Deadlines are fixed points in time, without jitter, counted from the start of the process and independent of any
connection. The first publish comes at once. Every third tick asks the Service Connect proxies for their metrics and
attaches what is new. EBS volumes are measured by their driver, all at once.

Samples count as published when their message found room; otherwise the next message reports them too. The reference
marks them before and loses them (spec 07 §21).
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable

import gevent
import gevent.event

from common import unixhttp
from common.ebs import staging_path
from common.serviceconnect import admin_socket
from services.telemetry.core import metrics
from services.telemetry.core.book import Book, TaskEntry
from services.telemetry.core.requests import HEALTH, METRICS, Sender, envelope, health_requests, metrics_requests
from services.telemetry.core.samples import PUBLISH_SECONDS
from services.telemetry.core.serviceconnect import wrappers
from services.telemetry.mailbox import Mailbox

log = logging.getLogger(__name__)

SERVICE_CONNECT_EVERY = 3  # ticks
VOLUME_SECONDS = 1.0
ADMIN_REQUEST = "/stats/prometheus?usedonly&filter=metrics_extension&delta"
ADMIN_SECONDS = 2.0
LONGEST_STATS = 4 * 1024 * 1024  # bytes; a proxy with hundreds of routes writes some hundred KiB

VolumeUse = Callable[[str, str, float], tuple[int, int]]
"""(volume id, path, seconds) -> used and total bytes; raises OSError."""


def no_driver(volume_id: str, path: str, seconds: float) -> tuple[int, int]:
    """There is nobody to measure volumes."""
    raise OSError("there is no volume driver")


class Publisher:
    """Fills the mailboxes. `sender` answers who speaks."""

    def __init__(
        self, book: Book, sender: Callable[[], Sender], metrics_box: Mailbox, health_box: Mailbox,
        seconds: float = PUBLISH_SECONDS, volume_use: VolumeUse = no_driver,
    ) -> None:  # fmt: skip
        self._book, self._sender = book, sender
        self._metrics, self._health = metrics_box, health_box
        self._seconds = seconds
        self._volume_use = volume_use

    def run(self, stopping: gevent.event.Event) -> None:
        """Publish now and at every tick until `stopping`."""
        due = time.monotonic()
        self.publish(False)
        ticks = 0
        while True:
            due += self._seconds
            if stopping.wait(max(0.0, due - time.monotonic())):
                return
            ticks += 1
            gevent.spawn(self.publish, ticks % SERVICE_CONNECT_EVERY == 0)

    def publish(self, service_connect: bool) -> None:
        """One publish of metrics and one of health."""
        health = gevent.spawn(self._publish_health)
        try:
            self._publish_metrics(service_connect)
        finally:
            health.join()

    def _publish_metrics(self, service_connect: bool) -> None:
        message_id, sender = str(uuid.uuid4()), self._sender()
        if self._book.idle:
            self._put(self._metrics, METRICS, list(metrics_requests(sender, message_id, [], time.time(), idle=True)))
            return
        if service_connect:
            self._scrape()
        volumes = self._measure_volumes()
        now = time.time()
        report = metrics.report(self._book, now, volumes, service_connect)
        for overdue in report.overdue:
            log.debug("no metrics of a container that runs for longer than 30 s: %s", overdue)
        if not report.tasks:
            log.info("stats engine: no task metrics to report")
            return
        if self._put(self._metrics, METRICS, list(metrics_requests(sender, message_id, report.tasks, now))):
            report.published()

    def _publish_health(self) -> None:
        now = time.time()
        tasks = metrics.health(self._book, now)
        self._put(self._health, HEALTH, list(health_requests(self._sender(), str(uuid.uuid4()), tasks, now)))

    def _put(self, box: Mailbox, kind: str, requests: list[bytes]) -> bool:
        taken = box.put(envelope(kind, inner) for inner in requests)
        if not taken:
            log.warning("the telemetry backend has not taken a message for five minutes; a %s is dropped", kind)
        return taken

    # -- volumes and proxies -------------------------------------------------------------------

    def _measure_volumes(self) -> dict[str, tuple[int, int]]:
        """Used and total bytes by volume id; one that the driver does not tell of in time is left out."""
        volumes = [(entry.arn, id_, path) for entry in self._book.tasks.values() for id_, _, path in entry.volumes]
        measures = [gevent.spawn(self._measure_volume, *volume) for volume in volumes]
        gevent.joinall(measures)
        return {id_: m.value for (_, id_, _), m in zip(volumes, measures, strict=True) if m.value is not None}

    def _measure_volume(self, arn: str, id_: str, directory: str) -> tuple[int, int] | None:
        try:
            return self._volume_use(id_, staging_path(directory), VOLUME_SECONDS)
        except OSError as error:
            log.debug("volume %s of task %s has no metrics: %s", id_, arn, error)
            return None

    def _scrape(self) -> None:
        entries = [e for e in self._book.tasks.values() if e.service_connect]
        gevent.joinall([gevent.spawn(_scrape_one, entry) for entry in entries], timeout=ADMIN_SECONDS + 1)


def driver_volume_use(socket_path: str) -> VolumeUse:
    """Asks the CSI driver behind `socket_path`. The client is loaded when the first volume is measured."""

    def volume_use(volume_id: str, path: str, seconds: float) -> tuple[int, int]:
        from common.csi import CsiError, Driver

        try:
            found = Driver(socket_path).usage(volume_id, path, seconds)
        except CsiError as error:
            raise OSError(str(error)) from error
        return found.used, found.total

    return volume_use


def _scrape_one(entry: TaskEntry) -> None:
    path = admin_socket(entry.arn.rsplit("/", 1)[-1])
    try:
        status, body = unixhttp.get(path, ADMIN_REQUEST, ADMIN_SECONDS, LONGEST_STATS)
    except OSError as error:
        log.debug("the Service Connect proxy at %s gives no metrics: %s", path, error)
        return
    if status == 200 and entry.service_connect is not None:
        entry.service_connect.replace(wrappers(body.decode("utf-8", "replace")))
