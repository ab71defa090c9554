"""Cleanup on disk pressure: unused images go, whatever their age, until the disk has room again.

Not in the reference. When the file system of Docker's root directory is fuller than `high` percent, images go one by
one, the longest unused first, until it is below `low`; what is in use or excluded never goes. Tracked images go first,
then, when untracked cleanup is on, untracked ones. Percentages are those of `df`: blocks reserved for root count as
neither used nor free.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from typing import Any, NamedTuple

from common.logs import fields
from services.images.core.space import Gone
from services.images.cycle import Cycle

log = logging.getLogger(__name__)

DEFAULT_GAP_PERCENT = 10


class Thresholds(NamedTuple):
    """Percent of the file system: removing begins above `high` and ends below `low`."""

    high: int
    low: int


def thresholds_of(config: Mapping[str, Any]) -> Thresholds | None:
    """The options; None when the feature is off. A low that is not below high is replaced by high - 10."""
    high, low = int(config["ECS_IMAGE_CLEANUP_DISK_HIGH_PERCENT"]), int(config["ECS_IMAGE_CLEANUP_DISK_LOW_PERCENT"])
    if not high:
        if low:
            log.warning("ECS_IMAGE_CLEANUP_DISK_LOW_PERCENT has no effect: set ECS_IMAGE_CLEANUP_DISK_HIGH_PERCENT too")
        return None
    chosen = low if 0 < low < high else max(1, high - DEFAULT_GAP_PERCENT)
    if low and chosen != low:
        log.warning("ECS_IMAGE_CLEANUP_DISK_LOW_PERCENT (%d) is not below ECS_IMAGE_CLEANUP_DISK_HIGH_PERCENT (%d); "
                    "%d is used", low, high, chosen)  # fmt: skip
    return Thresholds(high, chosen)


def used_percent(path: str) -> float:
    """How full the file system of `path` is, as `df` shows it. Raises OSError."""
    info = os.statvfs(path)
    used = info.f_blocks - info.f_bfree
    return 100.0 * used / ((used + info.f_bavail) or 1)


class Pressure:
    """Watches one file system. `used` gives its percentage and may raise OSError."""

    def __init__(self, thresholds: Thresholds, used: Callable[[], float]) -> None:
        self.thresholds, self._used = thresholds, used
        self._told = False  # that nothing more can go, or that the disk cannot be measured

    def check(self, make: Callable[[], Cycle]) -> Gone | None:
        """Measure, and remove what is needed with a cycle that `make` gives; None when there was no pressure."""
        try:
            percent = self._used()
        except OSError as error:
            self._warn_once(f"the disk of Docker's root directory cannot be measured: {error}")
            return None
        if percent <= self.thresholds.high:
            self._told = False
            return None
        return self._relieve(make(), percent)

    def _relieve(self, cycle: Cycle, percent: float) -> Gone:
        before = percent
        for remove in (self._remove_tracked, self._remove_untracked):
            if percent >= self.thresholds.low:
                percent = remove(cycle, percent)
        if cycle.gone.images:
            log.warning(
                "the disk was fuller than ECS_IMAGE_CLEANUP_DISK_HIGH_PERCENT: unused images were removed",
                **fields(before=round(before, 1), after=round(percent, 1), images=cycle.gone.images,
                         bytes=cycle.gone.space_bytes),
            )  # fmt: skip
        if percent > self.thresholds.high:
            self._warn_once(f"the disk of Docker's root directory is {percent:.1f} % full and no more image may be "
                            "removed: all others are in use or excluded")  # fmt: skip
        return cycle.gone

    def _remove_tracked(self, cycle: Cycle, percent: float) -> float:
        limits, tried = replace(cycle.limits, minimum_age_seconds=-inf), set[str]()
        while percent >= self.thresholds.low:
            image = cycle.next_tracked(tried, limits)
            if image is None:
                break
            tried.add(image.image_id)
            cycle.remove_tracked(image)
            percent = self._used()
        return percent

    def _remove_untracked(self, cycle: Cycle, percent: float) -> float:
        limits = replace(cycle.limits, untracked_minimum_age_seconds=-inf)
        found = cycle.removable_untracked(limits) if cycle.untracked else []
        for image in sorted(found, key=lambda i: (i.young_since, i.id)):
            if percent < self.thresholds.low:
                break
            if cycle.remove_untracked(image, limits):
                percent = self._used()
        return percent

    def _warn_once(self, text: str) -> None:
        if not self._told:
            log.warning("%s", text)
        self._told = True
