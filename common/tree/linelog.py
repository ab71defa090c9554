"""The log of ecs-init and of the volume plugin: one line per message in a file of its own and on the console.

The line is the reference's, `level=info time=2018-10-01T01:02:03Z msg="text"`, without further fields; the file is
renamed by the local hour and the 24 newest of the renamed ones are kept (spec 09 §13). One process per file rotates;
the others only append and notice when the name points elsewhere. A file that cannot be written is no reason to fail:
the console, which is the journal under systemd, has the same lines.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
import time

from common.logfiles import RollingFile
from common.logs import LEVELS, PRINTED, quote

KEPT_HOURS = 24


class LineFormatter(logging.Formatter):
    """level=info time=2018-10-01T01:02:03Z msg="text"."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        return f"level={PRINTED.get(record.levelname, 'info')} time={stamp} msg={quote(text)}"


class LineFile(RollingFile):
    """Appends lines to a file; renames it by the hour when it `rotates`. A new file gets the mode of the old one."""

    def __init__(self, path: str, rotates: bool) -> None:
        super().__init__(path, "hourly" if rotates else "none", 0, KEPT_HOURS)
        self._mode: int | None = None
        self.setFormatter(LineFormatter())

    def _rename(self, suffix: str) -> None:
        try:
            self._mode = stat.S_IMODE(os.stat(self.path).st_mode)
        except FileNotFoundError:
            self._mode = None
        super()._rename(suffix)

    def _open(self) -> int:
        descriptor = super()._open()
        if self._mode is not None:
            os.fchmod(descriptor, self._mode)
            self._mode = None
        return descriptor


def open_log(name: str, path: str, level: str = "", rotates: bool = False) -> logging.Logger:
    """Set up the logger `name`: stderr and `path`. `level` is one of ECS_LOGLEVEL's words, in any case; else info."""
    log = logging.getLogger(name)
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.propagate = False
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(LineFormatter())
    for handler in (console, LineFile(path, rotates)):
        log.addHandler(handler)
    log.setLevel(LEVELS.get(level.lower(), logging.INFO))
    if level and level.lower() not in LEVELS:
        log.error("log level mapping not found")
    return log
