"""Files and directories of a task below the data directory: written whole, removed whole, never outside.

The paths are built from the task's id each time; an id or a cluster that would lead elsewhere is refused, so that no
lost or strange value ever reaches a removal (spec 05, trap 34).
"""

from __future__ import annotations

import os
import tempfile
import time

import gevent

from common import command
from common.backoff import Backoff

RENAME_ATTEMPTS = 5
REMOVE_SECONDS = 60.0
LONGEST_TEXT = 500  # of what rm says: it prints whole paths


def task_directory(root: str, *parts: str) -> str:
    """`root/parts...`, absolute. Raises ValueError for a part that is no plain name."""
    for part in parts:
        if not part or part in (".", "..") or "/" in part or "\0" in part:
            raise ValueError(f"{part!r} is not the name of a directory")
    return os.path.join(os.path.abspath(root), *parts)


def remove(directory: str) -> None:
    """Remove a directory with all that is in it; one that is gone is fine. Raises OSError.

    What is in it may be a container's work, as much and as deep as it likes. Python's own removal keeps a descriptor
    for each level, until the process has none left for anything else; rm needs a few, and waits for the disk alone.
    """
    try:
        done = command.run(("rm", "-rf", "--one-file-system", "--", directory), REMOVE_SECONDS)
    except command.CommandFailed as error:
        raise OSError(f"{directory} is not removed: {error}") from None
    if done.status:
        lines = done.err.strip().splitlines() or [f"{directory} is not removed: rm ended with {done.status}"]
        raise OSError(lines[-1][:LONGEST_TEXT])


def said(action: str, path: str, error: OSError) -> str:
    """An error of the system in the words that people know from the agent: `mkdir /a/b: permission denied`."""
    return f"{action} {path}: {(error.strerror or str(error)).lower()}"


def cluster_name(cluster: str) -> str:
    """The name in a cluster's name or ARN."""
    return cluster.rsplit("/", 1)[-1] or "default"


class Writer:
    """A file in the making: a temporary one beside its place until `finish`. Use it in a `with` statement."""

    def __init__(self, directory: str, prefix: str, mode: int = 0o600) -> None:
        self._descriptor, self.path = tempfile.mkstemp(prefix=prefix, dir=directory)
        self._mode = mode

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *info: object) -> None:
        """What was not finished goes."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            return

    def write(self, content: bytes) -> None:
        """Append. Raises OSError."""
        view = memoryview(content)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def finish(self, path: str, attempts: int = 1) -> None:
        """Put the file into its place. Raises OSError."""
        os.fchmod(self._descriptor, self._mode)
        # fsync may take as long as the disk likes: not in the hub's thread.
        gevent.get_hub().threadpool.apply(os.fsync, (self._descriptor,))
        os.close(self._descriptor)
        self._descriptor = -1
        backoff = Backoff(0.5, 5.0, 1.5, jitter=0.0)
        for attempt in range(1, attempts + 1):
            try:
                os.replace(self.path, path)
                return
            except OSError:
                if attempt == attempts:
                    raise
            time.sleep(backoff.delay())
