"""The last lines that a program wrote: the file that supervisord keeps of its output, and the one before it."""

from __future__ import annotations

LINES = 200
_BYTES = 64 << 10


def last_lines(path: str | None, count: int = LINES) -> str:
    """At most `count` lines, and 64 KiB, of `path` and its predecessor `path`.1; empty when there is nothing."""
    data = b""
    for name in (path, f"{path}.1") if path else ():
        data = _end(str(name)) + data
        if data.count(b"\n") >= count:
            break
    return b"\n".join(data[-_BYTES:].splitlines()[-count:]).decode(errors="replace")


def _end(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _BYTES))
            return file.read(_BYTES)
    except OSError:
        return b""
