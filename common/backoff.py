"""Delays between attempts: exponential, capped, with jitter that only ever adds.

The reference's retries all have this shape: start, maximum, multiplier, and a jitter that is a fraction of the delay
(ECS agent behaviour, spec 02 §8.4). A backoff belongs to one sequence of attempts; share none between users.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Successive delays in seconds: start, start*multiplier, ... up to maximum, each plus up to `jitter` of itself."""

    start: float
    maximum: float
    multiplier: float = 2.0
    jitter: float = 0.2
    uniform: Callable[[float, float], float] = field(default=random.uniform, repr=False)
    _next: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        self._next = self.start

    def delay(self) -> float:
        """The next delay in seconds."""
        base = self._next
        self._next = min(self.maximum, base * self.multiplier)
        return base + self.uniform(0.0, self.jitter * base)

    def reset(self) -> None:
        """Begin again at `start`: the last attempt went well."""
        self._next = self.start
