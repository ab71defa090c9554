"""How often each class of routes was answered with which status, for /metrics.

A fixed table of 64-bit numbers, so that nothing a client sends makes it grow. With one worker it is plain memory. With
several it is a file under the run directory that all of them map: each writes its own block without a lock, and the
worker that serves /metrics adds the blocks up. A worker that is started again goes on with its block, so the sums
never go back. The file's name carries a digest of the layout: another version of the agent begins another file.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

TASKS, INTROSPECTION = "tasks", "introspection"
REQUESTS, FAULTS = "requests", "faults"  # the two limits
ROUTES = {
    TASKS: ("credentials", "metadata_v2", "metadata_v3", "metadata_v4", "stats", "associations", "task_protection",
            "fault_injection", "redirect", "not_found", "malformed"),
    INTROSPECTION: ("metadata", "tasks", "license", "metrics", "debug", "commands", "redirect", "malformed"),
}  # fmt: skip
OTHER = 0  # a status that is not in the list: ECS chooses that of its own errors
STATUSES = (200, 301, 400, 403, 404, 405, 408, 409, 413, 429, 431, 500, 501, 502, 503, 504, 505, OTHER)
LIMITS = (REQUESTS, FAULTS)

_ROWS = [(server, route) for server, routes in ROUTES.items() for route in routes]
_AT = {
    (*row, status): at for at, (row, status) in enumerate((row, status) for row in _ROWS for status in STATUSES)
}  # fmt: skip
_OTHERS = {row: _AT[(*row, OTHER)] for row in _ROWS}
_THROTTLED = {limit: len(_AT) + at for at, limit in enumerate(LIMITS)}
SIZE = len(_AT) + len(LIMITS)
WORD_BYTES = 8
_LAYOUT = hashlib.blake2b(repr((_ROWS, STATUSES, LIMITS)).encode(), digest_size=4).hexdigest()


class Counts:
    """The table; `worker` is the number of this process, from 1, of `workers` that share `folder`."""

    def __init__(self, folder: Path | None = None, worker: int = 1, workers: int = 1) -> None:
        size = SIZE * WORD_BYTES * max(worker, workers)
        if folder is None or workers == 1:
            memory = mmap.mmap(-1, size)
        else:
            descriptor = os.open(folder / f"endpoint-{_LAYOUT}.counts", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(descriptor).st_size < size:
                    os.ftruncate(descriptor, size)
                memory = mmap.mmap(descriptor, size)
            finally:
                os.close(descriptor)
        self._all = memoryview(memory).cast("Q")
        self._own = self._all[(worker - 1) * SIZE : worker * SIZE]

    def answered(self, server: str, route: str, status: int) -> None:
        """One more request of this class of routes was answered."""
        at = _AT.get((server, route, status))
        self._own[_OTHERS[server, route] if at is None else at] += 1

    def throttled(self, limit: str) -> None:
        """One more request was denied by a limit."""
        self._own[_THROTTLED[limit]] += 1

    def answers(self) -> Iterator[tuple[str, str, str, int]]:
        """Server, class of routes, status and number of all answers that occurred, over all workers."""
        for (server, route, status), at in _AT.items():
            number = self._sum(at)
            if number:
                yield server, route, str(status) if status else "other", number

    def denials(self) -> Iterator[tuple[str, int]]:
        """Limit and number of the requests that it denied, over all workers."""
        for limit, at in _THROTTLED.items():
            yield limit, self._sum(at)

    def _sum(self, at: int) -> int:
        return sum(self._all[at::SIZE])
