"""The audit log of credentials requests (spec 06 §6.4): one line per request, written away from the event loop.

Lines are collected and written a few times a second by a thread of gevent's pool, to the file and to standard output.
A disk that hangs or a reader of stdout that stalls holds up that thread only; the lines that do not fit any more are
counted and the count is logged.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import gevent
import gevent.event

from common.logfiles import RollingFile
from services.endpoint import paths

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.25
BATCH_BYTES = 64 * 1024
WAITING_LINES = 50_000  # kept while the disk does not answer
LONGEST = 1024  # bytes kept of a path or a user agent, which may be a megabyte each
CREDENTIALS_PREFIX = "/v2/credentials/"


class Audit:
    """The log; `now` is the wall clock. `start` begins to write, `stop` writes what is left. A sink must not raise."""

    def __init__(self, sinks: list[Callable[[str], None]], now: Callable[[], float] = time.time) -> None:
        self.sinks, self.now = sinks, now
        self._lines: list[str] = []
        self._lost = 0
        self._wake = gevent.event.Event()
        self._greenlet: gevent.Greenlet | None = None

    def add(self, status: int, peer: str, path: str, agent: str, rest: str) -> None:
        """One request. `peer` is address:port; `rest` is what follows the user agent, or "- " when it failed.

        `path` and `agent` are as WSGI hands them over.
        """
        if len(self._lines) >= WAITING_LINES:
            self._lost += 1
            return
        path, agent = paths.text(path[:LONGEST]), paths.text(agent[:LONGEST])
        if path.startswith(CREDENTIALS_PREFIX):
            path = CREDENTIALS_PREFIX[:-1]  # the id is a secret
        elif not path.isprintable():
            path = path.encode("unicode_escape").decode()[:LONGEST]  # a line end must not begin a line here
        self._lines.append(f'{_stamp(int(self.now()))} {status} {peer or "-"} "{path}" "{agent}" {rest}\n')
        if len(self._lines) == 1:
            self._wake.set()

    def start(self) -> None:
        """Write from now on."""
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Write what is left, and no more."""
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None
        self.flush()

    def alive(self) -> bool:
        """Whether lines are being written."""
        return bool(self._greenlet)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            gevent.sleep(FLUSH_SECONDS)
            self._wake.clear()
            self.flush()

    def flush(self) -> None:
        """Write all waiting lines; returns when they are written."""
        while self._lines:
            lines, self._lines = self._lines, []
            gevent.get_hub().threadpool.apply(self._write, (lines,))
        if self._lost:
            log.warning("%d lines of the audit log were lost because it could not be written in time", self._lost)
            self._lost = 0

    def _write(self, lines: list[str]) -> None:
        text, size = [], 0
        for line in lines:
            text.append(line)
            size += len(line)
            if size >= BATCH_BYTES:
                self._write_batch("".join(text))
                text, size = [], 0
        if text:
            self._write_batch("".join(text))

    def _write_batch(self, text: str) -> None:
        for sink in self.sinks:
            sink(text)


class Silent(Audit):
    """ECS_AUDIT_LOGFILE_DISABLED: no line at all."""

    def __init__(self) -> None:
        super().__init__([])

    def add(self, status: int, peer: str, path: str, agent: str, rest: str) -> None:
        """Keep nothing."""


@lru_cache(maxsize=2)
def _stamp(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


def to_stdout(text: str) -> None:
    """Write to standard output, past Python's buffer, which belongs to the loggers."""
    data = text.encode(errors="backslashreplace")
    descriptor = sys.stdout.fileno()
    while data:
        data = data[os.write(descriptor, data) :]


def of_config(config: Mapping[str, Any]) -> Audit:
    """The audit log that the configuration asks for; every rollover type but `size` is hourly."""
    if config["ECS_AUDIT_LOGFILE_DISABLED"]:
        return Silent()
    file = RollingFile(
        str(config["ECS_AUDIT_LOGFILE"] or "/log/audit.log"),
        rollover="size" if str(config["ECS_LOG_ROLLOVER_TYPE"] or "size") == "size" else "hourly",
        max_bytes=int(float(config["ECS_LOG_MAX_FILE_SIZE_MB"]) * 1_000_000),
        keep=int(config["ECS_LOG_MAX_ROLL_COUNT"]),
    )
    return Audit([told_once(f"{file.path} (ECS_AUDIT_LOGFILE)", file.write), told_once("standard output", to_stdout)])


def told_once(name: str, write: Callable[[str], None]) -> Callable[[str], None]:
    """A sink that says at the begin and at the end of an outage, not at every batch, that it cannot be written."""
    failing = False

    def sink(text: str) -> None:
        nonlocal failing
        try:
            write(text)
        except OSError as error:
            if not failing:
                log.warning("lines of the audit log are lost: %s cannot be written: %s", name, error)
            failing = True
            return
        if failing:
            log.info("the audit log is written again: %s", name)
        failing = False

    return sink
