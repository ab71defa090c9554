"""The log of the verbs: ecs-init.log and the console, in the reference's line format (spec 09 §13).

The verbs only append; whoever lives across an hour rotates. A file that cannot be written is no reason to fail: the
console, which is the journal under systemd, has the same lines.
"""

from __future__ import annotations

import logging
import sys
import time
from logging.handlers import WatchedFileHandler
from pathlib import Path

from common.logs import LEVELS, PRINTED, quote

FILE = Path("/var/log/ecs/ecs-init.log")


class _Line(logging.Formatter):
    """level=info time=2018-10-01T01:02:03Z msg="text"."""

    def format(self, record: logging.LogRecord) -> str:
        moment = self.formatTime(record, "%Y-%m-%dT%H:%M:%SZ")
        return f"level={PRINTED.get(record.levelname, 'info')} time={moment} msg={quote(record.getMessage())}"


def open_log(level: str | None = None) -> logging.Logger:
    """The logger of the verbs. A `level` (ECS_LOGLEVEL, any case, empty for info) sets it up first."""
    log = logging.getLogger("ecs-init")
    if level is None:
        return log
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.propagate = False
    formatter = _Line()
    formatter.converter = time.gmtime
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    try:
        handlers.append(WatchedFileHandler(FILE, delay=False))
    except OSError:  # no such directory before the first pre-start, or no permission
        log.debug("%s is not written", FILE)
    for handler in handlers:
        handler.setFormatter(formatter)
        log.addHandler(handler)
    log.setLevel(LEVELS.get(level.lower(), logging.INFO))
    if level and level.lower() not in LEVELS:
        log.error("log level mapping not found")
    return log
