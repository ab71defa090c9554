"""Role credentials when a step needs them: they were there when the step was decided on (spec 03 §4.2).

If they are not there now, the volatile Redis is starting again, and acs writes them anew in a moment: no reason to
fail a task.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from common.backoff import Backoff
from common.model.agent import Credentials

CREDENTIALS_SECONDS = 15.0


def awaited(look: Callable[[str], Credentials | None], id_: str) -> Credentials | None:
    """The credentials that `look` finds within 15 s; None at once for a task that has none."""
    backoff, end = Backoff(0.2, 2.0), time.monotonic() + CREDENTIALS_SECONDS
    while id_:
        found = look(id_)
        if found is not None or time.monotonic() >= end:
            return found
        time.sleep(backoff.delay())
    return None
