"""A file that is replaced as a whole: a reader finds what it held or what it shall hold, never a part of it.

The new content goes into a temporary file beside it, which then takes its name (POSIX rename is atomic).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def replace(path: str | Path, content: bytes, mode: int = 0o600, durable: bool = False, prefix: str = ".") -> None:
    """Let `path` hold `content`. `durable`: also after a loss of power. `prefix`: of the temporary file's name.

    Takes as long as the disk likes. Raises OSError; the former file is whole then, and the temporary one gone.
    """
    directory = os.path.dirname(path) or "."
    descriptor, temporary = tempfile.mkstemp(prefix=prefix, dir=directory)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(descriptor, mode)
            if durable:
                file.flush()
                os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        _sync(directory)


def _sync(directory: str) -> None:
    """Make the name durable, too."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
