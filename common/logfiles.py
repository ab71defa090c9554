"""A log file that rolls over by size or by the hour (ECS agent behaviour, spec 01 §9.2).

Several processes of the tree append to one file; each write is one line with O_APPEND, so lines do not mix. Whoever
first sees the limit locks the file, looks again, and renames it; the others notice that the name points elsewhere and
reopen it. So one full file is renamed once, whoever sees it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time
from collections.abc import Callable


class RollingFile(logging.Handler):
    """Appends lines to `path`; `rollover` is "size", "none", or anything else for hourly.

    Numbered history: `<path>.<N>`, the highest N is the newest. Hourly history: `<path>.<YYYY-MM-DD-HH>` of the
    finished hour. `keep` files of history remain (0 or less: all).
    """

    def __init__(
        self, path: str, rollover: str, max_bytes: int, keep: int, now: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self.path, self.rollover, self.max_bytes, self.keep, self.now = path, rollover, max_bytes, keep, now
        self._fd: int | None = None
        self._hour = ""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.write(self.format(record) + "\n")
        except Exception:
            # A full or read-only disk, or arguments that do not fit the message: no caller must fail for its log line.
            self.handleError(record)

    def write(self, line: str) -> None:
        """Append one line, rolling over first when it is time."""
        if self.rollover == "size" and self.max_bytes <= 0:
            return
        self._roll_if_due()
        fd = self._open()
        os.write(fd, line.encode(errors="backslashreplace"))

    def close(self) -> None:
        """Close the file."""
        self.close_fd()
        super().close()

    def handleError(self, record: logging.LogRecord) -> None:
        """Keep quiet: the stdout sink has the same line."""

    def _open(self) -> int:
        if self._fd is not None and not _is_at(self._fd, self.path):
            os.close(self._fd)
            self._fd = None
        if self._fd is None:
            os.makedirs(os.path.dirname(self.path) or ".", mode=0o767, exist_ok=True)
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        return self._fd

    def _roll_if_due(self) -> None:
        if self.rollover == "none":
            return
        if self.rollover == "size":
            if self._is_full():
                self._roll(self._is_full, self._next_number)
                self._prune(r"\d+", key=int)
            return
        hour = time.strftime("%Y-%m-%d-%H", time.localtime(self.now()))
        if self._hour and hour != self._hour:
            finished = self._hour
            self._roll(lambda: not os.path.exists(f"{self.path}.{finished}"), lambda: finished)
            self._prune(r"\d{4}-\d\d-\d\d-\d\d", key=str)
        self._hour = hour

    def _is_full(self) -> bool:
        try:
            return os.stat(self.path).st_size >= self.max_bytes
        except FileNotFoundError:
            return False

    def _next_number(self) -> str:
        return str(max((int(s) for s in self._history(r"\d+")), default=0) + 1)

    def _roll(self, still_due: Callable[[], bool], suffix: Callable[[], str]) -> None:
        """Rename the file, unless another process of the tree was first."""
        try:
            held = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(held, fcntl.LOCK_EX)  # held by others for the time of a rename
            if _is_at(held, self.path) and still_due():
                self._rename(suffix())
        finally:
            os.close(held)
        self.close_fd()

    def _rename(self, suffix: str) -> None:
        os.rename(self.path, f"{self.path}.{suffix}")

    def close_fd(self) -> None:
        """Let go of the renamed file; the next write opens a new one."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _history(self, pattern: str) -> list[str]:
        folder, name = os.path.split(self.path)
        match = re.compile(re.escape(name) + r"\.(" + pattern + r")$")
        found = (match.match(entry) for entry in os.listdir(folder or "."))
        return [m.group(1) for m in found if m]

    def _prune(self, pattern: str, key: Callable[[str], object]) -> None:
        if self.keep <= 0:
            return
        for suffix in sorted(self._history(pattern), key=key)[: -self.keep]:  # type: ignore[arg-type]
            try:
                os.unlink(f"{self.path}.{suffix}")
            except FileNotFoundError:
                continue  # another process of the tree was first


def _is_at(fd: int, path: str) -> bool:
    """The open file is the one that `path` names now."""
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (named.st_ino, named.st_dev) == (mine.st_ino, mine.st_dev)
