"""Run a short host command: an argument vector, a deadline, the text it printed.

The child is spawned with posix_spawn, not with subprocess: under gevent the latter forks in Python, which copies the
page tables of the whole process for a program that runs one millisecond. Output goes into a memory file, so no pipe
can fill up; the wait is a few short sleeps, which yield under gevent.

Under gevent `os.posix_spawn` and `os.waitpid` are its replacements, which hear of a child's end by SIGCHLD. The handler
is installed with the first child, and a child that is quicker than that is waited for in vain: `run` installs it first.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import cache

from msgspec import Struct

_OUTPUT_LIMIT = 8 << 20  # bytes; a listing of ten thousand rules is about 1 MB
_FIRST_PAUSE_SECONDS = 0.001  # most calls are over by then
_LONGEST_PAUSE_SECONDS = 0.02
_KILLED_SECONDS = 5.0  # a process in an uninterruptible wait outlives SIGKILL, and must not hold up its caller
_ENVIRONMENT = ("PATH", "HOME", "XTABLES_LIBDIR", "XTABLES_LOCKFILE")
_DEFAULT_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD)


class CommandFailed(Exception):
    """The command could not be run, or did not end in time. The text names the program."""


class Late(CommandFailed):
    """The command did not end in time and was killed."""


class Result(Struct, frozen=True):
    """How a command ended: exit status (negative: killed by that signal), and what it printed."""

    status: int
    out: str
    err: str

    def complaint(self) -> str:
        """The first line of what the command said was wrong."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[0] if lines else "no message"


@cache
def _hear_of_children(pid: int) -> None:
    """Let the hub of this process, `pid`, hear of its children from now on; a forked one has a hub of its own."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("os"):
        sys.modules["gevent"].get_hub().loop.install_sigchld()


def environment() -> dict[str, str]:
    """What a command inherits: only what such tools read, since the rest may hold passwords of registries."""
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | {"LC_ALL": "C"}


def find(program: str) -> str | None:
    """The path of a program; the directories of administrators' tools count even if PATH lacks them."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(program, path=f"{path}:/usr/sbin:/sbin")


def run(argv: Sequence[str], timeout: float = 10.0, text: str = "") -> Result:
    """Run `argv` and return how it ended; `text` is what it reads.

    Its first element is a path, or a name that PATH knows. `timeout` in seconds; a command that is late is killed, with
    what it started. Raises CommandFailed when it cannot be started, Late when it is late.
    """
    _hear_of_children(os.getpid())
    with ExitStack() as stack:
        given, output, errors = (_memory_file(stack, name) for name in ("in", "out", "err"))
        _write(given, text.encode())
        status = _wait(_spawn(argv, given, output, errors), argv, timeout)
        return Result(status, _text(output), _text(errors))


def _memory_file(stack: ExitStack, name: str) -> int:
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


def _write(descriptor: int, data: bytes) -> None:
    os.write(descriptor, data)  # memory takes it whole
    os.lseek(descriptor, 0, os.SEEK_SET)


def _spawn(argv: Sequence[str], given: int, output: int, errors: int) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate((given, output, errors))]
    try:
        # A process group of its own: Ctrl-C in the terminal must not kill iptables between two rules.
        return os.posix_spawnp(
            argv[0],
            list(argv),
            environment(),
            file_actions=actions,
            setpgroup=0,
            setsigmask=(),
            setsigdef=_DEFAULT_SIGNALS,
        )
    except OSError as error:
        raise CommandFailed(f"{argv[0]} cannot be run: {error.strerror}") from error


def _wait(pid: int, argv: Sequence[str], timeout: float) -> int:
    status = _ended_within(pid, argv, timeout)
    if status is None:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        late = f"{' '.join(argv)} did not end within {timeout:g} s"
        if _ended_within(pid, argv, _KILLED_SECONDS) is None:
            raise Late(f"{late}, and its process {pid} cannot be ended: the kernel holds it")
        raise Late(f"{late} and was killed")
    return status


def _ended_within(pid: int, argv: Sequence[str], seconds: float) -> int | None:
    """The exit status, None when the process has not ended."""
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            reaped, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError as error:
            raise CommandFailed(f"the exit status of {argv[0]} was lost to another waiter") from error
        if reaped == pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _text(descriptor: int) -> str:
    return os.pread(descriptor, _OUTPUT_LIMIT, 0).decode("utf-8", "replace")
