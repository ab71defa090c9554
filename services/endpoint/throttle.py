"""Token buckets: the global throttle of the task server and that of the fault routes (spec 06 §5).

A bucket starts full, refills continuously, and a denied request costs nothing. Buckets that are full again are the
same as new ones, so they are dropped now and then: the reference keeps every one for ten years (W10).
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import Protocol

SWEEP_AT = 1024  # buckets between two sweeps, at least
LONG_PATH = 512  # characters; a longer one is kept nowhere, or a client could fill the memory with paths


class Throttle(Protocol):
    """Something that grants requests by key; `now` are seconds of a monotonic clock."""

    steady: float

    def take(self, key: tuple[str, str], now: float) -> bool: ...


class Bucket:
    """One bucket: `steady` tokens a second up to `burst`."""

    __slots__ = ("burst", "last", "steady", "tokens")

    def __init__(self, steady: float, burst: float) -> None:
        self.steady, self.burst = steady, burst
        self.tokens, self.last = burst, 0.0

    def take(self, now: float) -> bool:
        """Take one token if a whole one is there."""
        if now > self.last:
            self.tokens = min(self.burst, self.tokens + (now - self.last) * self.steady)
            self.last = now
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


class Buckets:
    """A bucket per key, in this process."""

    def __init__(self, steady: float, burst: float) -> None:
        self.steady, self.burst = steady, burst
        self._buckets: dict[Hashable, Bucket] = {}
        self._sweep_at = SWEEP_AT

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: tuple[str, str], now: float) -> bool:
        """Take one token of the bucket `key`."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._sweep_at:
                self._sweep(now)
            bucket = self._buckets[key] = Bucket(self.steady, self.burst)
            bucket.last = now
        return bucket.take(now)

    def _sweep(self, now: float) -> None:
        full_after = self.burst / self.steady
        self._buckets = {k: b for k, b in self._buckets.items() if now - b.last < full_after}
        self._sweep_at = max(SWEEP_AT, 2 * len(self._buckets))


def key_of(path: str) -> str:
    """The path, or what stands for a long one: buckets keep their keys."""
    if len(path) <= LONG_PATH:
        return path
    return hashlib.blake2b(path.encode("latin-1"), digest_size=16).hexdigest()


def limits(setting: object) -> tuple[float, float]:
    """Steady rate and burst of ECS_TASK_METADATA_RPS_LIMIT, a pair as the configuration gives it or its text."""
    if isinstance(setting, str):
        parts = [part.strip() for part in setting.split(",")]
        try:
            setting = tuple(int(part) for part in parts)
        except ValueError:
            setting = ()
    pair = tuple(setting) if isinstance(setting, tuple | list) else ()
    steady, burst = pair if len(pair) == 2 else (0, 0)
    steady, burst = steady or 40, burst or 60
    return (40.0, 60.0) if steady < 0 or burst < 0 else (float(steady), float(burst))
