"""Keeping a part of a process at work: what every service does with the loops it is made of.

A greenlet that dies of an unexpected error takes nothing with it: the process stays up, says that it is ready, and does
half its work. So each loop runs under `keep`, which begins it again after a pause and says loudly that it had to.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from common.backoff import Backoff
from common.errors import Temporary

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.5, 5.0  # what was away is back within seconds, mostly
GOOD_RUN_SECONDS = 60.0  # after that long the pauses begin anew


def keep(name: str, job: Callable[[], object], wait: Callable[[float], bool]) -> None:
    """Run `job` until it returns; begin it again when it fails, for ever, since the others cannot do without it.

    `wait` pauses for so many seconds; False from it means that the process is to stop.
    """
    backoff = Backoff(FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS)
    while True:
        began = time.monotonic()
        try:
            job()
            return
        except Temporary as error:
            log.warning("%s pauses: %s", name, error)
        except Exception:
            log.critical("%s failed and is begun again", name, exc_info=True)
        if time.monotonic() - began > GOOD_RUN_SECONDS:
            backoff.reset()
        if not wait(backoff.delay()):
            return
