"""How long a program that keeps failing waits before it starts again.

supervisord's own back-off hides exit statuses and ends in FATAL; the delays here are those of the reference's
supervisor, ecs-init: 0.5 s, doubled per try, at most 15 s, plus up to 10 % (ECS agent behaviour, spec 01 §5). A run
that lasted longer than STEADY_SECONDS and the longest delay begins anew.
"""

from __future__ import annotations

import random

STEADY_SECONDS = 10.0
FREE_STARTS = 2  # a single crash costs nothing
FIRST_SECONDS = 0.5
LONGEST_SECONDS = 15.0


def delay_seconds(starts: list[float], now: float) -> float:
    """How long to wait, given the times of the latest starts (Unix seconds, oldest first)."""
    quick = 0
    later = now
    for start in reversed(starts):
        if later - start > STEADY_SECONDS + LONGEST_SECONDS:
            break
        quick += 1
        later = start
    if quick < FREE_STARTS:
        return 0.0
    delay: float = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(quick - FREE_STARTS, 10))
    return delay * (1 + random.uniform(0, 0.1))
