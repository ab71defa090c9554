"""Heartbeat and readiness of each program, in one small file of the run directory: `<program>.beat`.

A file, because it must work while Redis is away, and because the supervisor reads it too: its modification time is the
heartbeat, its content says whether the program does its work and, in plain words, why not. It also says how often the
program's event loop was blocked, for the metrics of the agent. The file has a fixed size and is overwritten in place,
so that a full disk does not look like a hung program.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

SIZE_BYTES = 1024
DETAIL_BYTES = 800
SUFFIX = ".beat"


class Stalls(NamedTuple):
    """Of an event loop since its program started: how many, how long together, the longest; in seconds."""

    number: int = 0
    seconds: float = 0.0
    longest: float = 0.0


NO_STALLS = Stalls()


@dataclass(frozen=True)
class State:
    """What one program says of itself. Unix seconds: `at` the last heartbeat, `since` the last change of `ready`."""

    program: str
    ready: bool
    detail: str
    pid: int
    at: float
    since: float = 0.0
    stalls: Stalls = NO_STALLS


class Beat:
    """The file of this program."""

    def __init__(self, run_dir: str, program: str) -> None:
        self.path = os.path.join(run_dir, program + SUFFIX)
        self._ready: bool | None = None
        self._since = 0.0
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, ready: bool, detail: str, stalls: Stalls = NO_STALLS) -> None:
        """Beat, and say how things stand. Raises OSError."""
        os.utime(self._fd)
        if ready != self._ready:
            self._ready, self._since = ready, round(time.time(), 3)
        detail = detail.encode()[:DETAIL_BYTES].decode(errors="ignore")
        blocked = (stalls.number, round(stalls.seconds, 3), round(stalls.longest, 3))
        said = {"ready": ready, "pid": os.getpid(), "since": self._since, "stalls": blocked, "detail": detail}
        text = json.dumps(said, ensure_ascii=False).encode()
        if len(text) > SIZE_BYTES:  # full of signs that JSON writes longer
            text = json.dumps(said | {"detail": ""}).encode()
        os.pwrite(self._fd, text.ljust(SIZE_BYTES), 0)


def read(run_dir: str, program: str) -> State | None:
    """What `program` said last, or None when it never ran here (or its file cannot be understood)."""
    path = os.path.join(run_dir, program + SUFFIX)
    try:
        with open(path, "rb") as file:
            said = json.loads(file.read(SIZE_BYTES))
        at, since = os.stat(path).st_mtime, float(said.get("since", 0.0))
        stalls = Stalls(*said.get("stalls", ()))
        return State(program, bool(said["ready"]), str(said["detail"]), int(said["pid"]), at, since, stalls)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_all(run_dir: str) -> Iterator[State]:
    """What every program that ran here said last."""
    names = sorted(n.removesuffix(SUFFIX) for n in os.listdir(run_dir) if n.endswith(SUFFIX))
    for name in names:
        state = read(run_dir, name)
        if state is not None:
            yield state


def clear(run_dir: str) -> None:
    """Forget what the programs of an earlier life of the tree said. Raises OSError."""
    for name in os.listdir(run_dir):
        if name.endswith(SUFFIX):
            os.unlink(os.path.join(run_dir, name))


def last_beat(run_dir: str, program: str) -> float | None:
    """The time of the program's last heartbeat, by the clock of that moment; None when it has no file."""
    try:
        return os.stat(os.path.join(run_dir, program + SUFFIX)).st_mtime
    except FileNotFoundError:
        return None


class Silence:
    """How many looks in a row found a heartbeat where it was.

    Looks are counted and no times compared: a clock that is set, or a machine that was asleep, makes nobody silent.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float | None, int]] = {}

    def looks(self, program: str, beat: float | None) -> int:
        """How many looks before this one found `beat` too; without a heartbeat there is no silence."""
        before, looks = self._seen.get(program, (None, 0))
        looks = looks + 1 if beat is not None and beat == before else 0
        self._seen[program] = (beat, looks)
        return looks

    def forget(self, program: str) -> None:
        """The program is begun anew."""
        self._seen.pop(program, None)
