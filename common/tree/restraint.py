"""How long a program that ended waits before it is started again.

supervisord's own back-off ends in FATAL and hides exit statuses; the delays here are those of the reference's
supervisor, ecs-init: 0.5 s, doubled with each failure, at most 15 s, each plus up to 10 % (spec 09 §9.1). The reference
never begins anew; here a run of STEADY_SECONDS does, or a failure months later would wait 15 s.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from common.backoff import Backoff

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 15.0
STEADY_SECONDS = 600.0


class Restraint:
    """The memory of one program's failures."""

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._backoff = Backoff(FIRST_SECONDS, LONGEST_SECONDS, jitter=0.1, uniform=uniform)

    def delay(self, ran_seconds: float) -> float:
        """Seconds to wait after a run that lasted so long."""
        if ran_seconds >= STEADY_SECONDS:
            self._backoff.reset()
        return self._backoff.delay()

    def forget(self) -> None:
        """Somebody stopped the program on purpose: its next failure is the first."""
        self._backoff.reset()
