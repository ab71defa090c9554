"""The process `images`: a cycle every ECS_IMAGE_CLEANUP_INTERVAL, the first after one whole interval, and a look at
the disk every minute when ECS_IMAGE_CLEANUP_DISK_HIGH_PERCENT is set.

Cycles are off when ECS_DISABLE_IMAGE_CLEANUP is true or images are kept on purpose (`prefer-cached`); with the latter
the disk is still kept from filling when that was asked for. When both are off it waits for the end of the tree (ECS
agent behaviour, spec 08 §3). The Docker SDK and the client of Redis are imported when the first work begins: for most
of its life this process only sleeps.
"""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING

from common.clock import SystemClock
from common.process import Context
from services.images.core.arrivals import Arrivals

if TYPE_CHECKING:
    from services.images.core.space import Gone
    from services.images.cycle import Cycle
    from services.images.pressure import Pressure

CHECK_SECONDS = 60.0  # between two looks at the disk


def why_off(context: Context) -> str:
    """The reason why no cycle runs, or an empty text."""
    if context.config["ECS_DISABLE_IMAGE_CLEANUP"]:
        return "image cleanup is off: ECS_DISABLE_IMAGE_CLEANUP is true"
    if context.config["ECS_IMAGE_PULL_BEHAVIOR"] == "prefer-cached":
        return "image cleanup is off: ECS_IMAGE_PULL_BEHAVIOR is prefer-cached"
    return ""


def serve(context: Context) -> int | None:
    """Run cycles until the tree stops."""
    return Service(context).run()


class Service:
    """When what is done, and what it gave in all."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.off = why_off(context)
        self.pressure = self._pressure()
        self.total: Gone | None = None
        self.arrivals = Arrivals()

    def run(self) -> int:
        """Run until the tree stops."""
        interval = inf if self.off else float(self.context.config["ECS_IMAGE_CLEANUP_INTERVAL"])
        check = CHECK_SECONDS if self.pressure else inf
        now = time.monotonic()
        cycle_due, check_due = now + interval, now + check
        self._tell()
        while not self._wait_until(min(cycle_due, check_due)):
            if time.monotonic() >= check_due:
                self.look_at_disk()
                check_due = time.monotonic() + check
            if time.monotonic() >= cycle_due:
                self.cycle()
                cycle_due = max(cycle_due + interval, time.monotonic())
        return 0

    def _wait_until(self, due: float) -> bool:
        """True when the tree stops."""
        seconds = None if due == inf else max(0.0, due - time.monotonic())
        return self.context.stopping.wait(seconds)

    def cycle(self) -> None:
        """One cycle; a fault ends the cycle, not the process."""
        try:
            gone = self._make_cycle().run()
        except Exception as error:
            self._failed("the image cleanup cycle", error)
        else:
            self._done("image cleanup cycle done", gone)

    def look_at_disk(self) -> None:
        """Remove images if the disk is too full."""
        if self.pressure is None:
            return
        try:
            gone = self.pressure.check(self._make_cycle)
        except Exception as error:
            self._failed("the image cleanup for a full disk", error)
        else:
            if gone is not None and gone.images:
                self._done("image cleanup for a full disk done", gone)

    def _failed(self, what: str, error: Exception) -> None:
        from common import docker
        from services.images.daemon import FAULTS

        if isinstance(error, FAULTS):
            self.context.log.warning("%s stopped early; it is tried again as usual: %s", what, docker.message_of(error))
        else:
            self.context.log.error("%s failed; it is tried again as usual", what, exc_info=True)

    def _done(self, what: str, gone: Gone) -> None:
        from common.logs import fields
        from services.images.core.space import Gone

        self.total = self.total or Gone()
        self.total.add(gone)
        self.context.log.info(
            what, **fields(images=gone.images, containers=gone.containers, bytes=gone.space_bytes,
                           imagesInAll=self.total.images, containersInAll=self.total.containers,
                           bytesInAll=self.total.space_bytes),
        )  # fmt: skip
        self._tell()

    def _tell(self) -> None:
        """What `ecs-agent healthcheck` prints."""
        told = [self.off or f"a cycle every {self.context.config['ECS_IMAGE_CLEANUP_INTERVAL']:.0f} s"]
        if self.pressure is not None:
            told.append(
                "images go when the disk is above {} %, until it is below {} %".format(*self.pressure.thresholds)
            )
        if self.total is not None:
            told.append(f"removed since the start: {self.total.images} images and {self.total.containers} containers, "
                        f"{self.total.space_bytes / 1e6:.0f} MB")  # fmt: skip
        self.context.ready("; ".join(told))

    def _pressure(self) -> Pressure | None:
        config = self.context.config
        wanted = config["ECS_IMAGE_CLEANUP_DISK_HIGH_PERCENT"] or config["ECS_IMAGE_CLEANUP_DISK_LOW_PERCENT"]
        if not wanted or config["ECS_DISABLE_IMAGE_CLEANUP"]:
            return None
        from services.images.pressure import Pressure, thresholds_of

        thresholds = thresholds_of(config)
        return Pressure(thresholds, self._disk_percent) if thresholds else None

    def _disk_percent(self) -> float:
        from common.keys import FACTS, FACTS_ID
        from services.images.pressure import used_percent

        facts = self.context.bus.durable.get(FACTS, FACTS_ID)
        if facts is None or not facts.root_dir:
            raise OSError("the engine has not told yet where Docker keeps its files")
        return used_percent(facts.root_dir)

    def _make_cycle(self) -> Cycle:
        from services.images.cycle import Cycle, docker_clients, limits_of

        config = self.context.config
        untracked = bool(config["ECS_ENABLE_UNTRACKED_IMAGE_CLEANUP"])
        return Cycle(self.context.bus, limits_of(config), SystemClock(), docker_clients(), untracked, self.arrivals)
