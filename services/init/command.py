"""Run a short host command: an argument vector, a deadline, the text it printed.

The child is spawned with posix_spawn, not with subprocess: under gevent the latter forks in Python, which copies the
page tables of the whole process for a program that runs one millisecond. Output goes into a memory file, so no pipe
can fill up; the wait is a few short sleeps, which yield under gevent.

Under gevent `os.posix_spawn` and `os.waitpid` are its replacements. They hear of a child's end by SIGCHLD, and a first
child that is quicker than the installation of that handler is waited for in vain: `prepare` comes first.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Sequence

from msgspec import Struct

_OUTPUT_LIMIT = 8 << 20  # bytes; a listing of ten thousand rules is about 1 MB
_FIRST_PAUSE_SECONDS = 0.001  # most calls are over by then
_LONGEST_PAUSE_SECONDS = 0.02
_ENVIRONMENT = ("PATH", "HOME", "XTABLES_LIBDIR", "XTABLES_LOCKFILE")
_DEFAULT_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD)


class CommandFailed(Exception):
    """The command could not be run, or did not end in time. The text names the program."""


class Result(Struct, frozen=True):
    """How a command ended: exit status (negative: killed by that signal), and what it printed."""

    status: int
    out: str
    err: str

    def complaint(self) -> str:
        """The first line of what the command said was wrong."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[0] if lines else "no message"


def prepare() -> None:
    """Let the hub hear of children from now on. Call it once before the first `run` in a process under gevent."""
    import gevent

    gevent.get_hub().loop.install_sigchld()


def find(program: str) -> str | None:
    """The path of a program; the directories of administrators' tools count even if PATH lacks them."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(program, path=f"{path}:/usr/sbin:/sbin")


def run(argv: Sequence[str], timeout: float = 10.0) -> Result:
    """Run `argv` (its first element is a path) and return how it ended.

    `timeout` in seconds; a command that is late is killed. Raises CommandFailed when it cannot be started or is late.
    """
    output = os.memfd_create("out", os.MFD_CLOEXEC)
    errors = os.memfd_create("err", os.MFD_CLOEXEC)
    try:
        status = _wait(_spawn(argv, output, errors), argv, timeout)
        return Result(status, _text(output), _text(errors))
    finally:
        os.close(output)
        os.close(errors)


def _spawn(argv: Sequence[str], output: int, errors: int) -> int:
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, errors, 2),
    ]
    # A process group of its own: Ctrl-C in the terminal must not kill iptables between two rules.
    # Of the environment only what such tools read: the rest may hold passwords of registries.
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | {"LC_ALL": "C"}
    try:
        return os.posix_spawn(
            argv[0],
            list(argv),
            environment,
            file_actions=actions,
            setpgroup=0,
            setsigmask=(),
            setsigdef=_DEFAULT_SIGNALS,
        )
    except OSError as error:
        raise CommandFailed(f"{argv[0]} cannot be run: {error.strerror}") from error


def _wait(pid: int, argv: Sequence[str], timeout: float) -> int:
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE_SECONDS
    while True:
        done, status = _reap(pid, argv)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise CommandFailed(f"{' '.join(argv)} did not end within {timeout:g} s and was killed")
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _reap(pid: int, argv: Sequence[str]) -> tuple[bool, int]:
    try:
        reaped, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError as error:
        raise CommandFailed(f"the exit status of {argv[0]} was lost to another waiter") from error
    return reaped == pid, status


def _text(descriptor: int) -> str:
    return os.pread(descriptor, _OUTPUT_LIMIT, 0).decode("utf-8", "replace")
