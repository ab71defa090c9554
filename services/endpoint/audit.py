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

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.25
BATCH_BYTES = 64 * 1024
WAITING_LINES = 50_000  # kept while the disk does not answer
LONGEST = 1024  # characters kept of a path or a user agent, which may be a megabyte each
CREDENTIALS_PREFIX = "/v2/credentials/"


class Audit:
    """The log; `now` is the wall clock. `start` begins to write, `stop` writes what is left."""

    def __init__(self, sinks: list[Callable[[str], None]], now: Callable[[], float] = time.time) -> None:
        self.sinks, self.now = sinks, now
        self._lines: list[str] = []
        self._lost = 0
        self._wake = gevent.event.Event()
        self._greenlet: gevent.Greenlet | None = None

    def add(self, status: int, peer: str, path: str, agent: str, rest: str) -> None:
        """One request. `peer` is address:port; `rest` is what follows the user agent, or "- " when it failed."""
        if len(self._lines) >= WAITING_LINES:
            self._lost += 1
            return
        if path.startswith(CREDENTIALS_PREFIX):
            path = CREDENTIALS_PREFIX[:-1]  # the id is a secret
        elif not path.isprintable():
            path = path[:LONGEST].encode("unicode_escape").decode()  # a line end in a path must not begin a line here
        if len(path) + len(agent) > LONGEST:
            path, agent = path[:LONGEST], agent[:LONGEST]
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
            try:
                sink(text)
            except OSError as error:
                log.debug("audit lines could not be written: %s", error)


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
    return Audit([_told_once(file), to_stdout])


def _told_once(file: RollingFile) -> Callable[[str], None]:
    """A sink that says once, not at every batch, that the file cannot be written."""
    failing = False

    def sink(text: str) -> None:
        nonlocal failing
        try:
            file.write(text)
            failing = False
        except OSError as error:
            if not failing:
                log.error("the audit log %s (ECS_AUDIT_LOGFILE) cannot be written: %s; its lines go to standard "
                          "output only", file.path, error)  # fmt: skip
            failing = True

    return sink
