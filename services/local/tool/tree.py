"""Starting and stopping the process tree, and the note that says which one runs here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from botocore.exceptions import BotoCoreError, ClientError

from services.local.tool import ecs as api
from services.local.tool.settings import Problem, Settings, tree_environment

Json = dict[str, Any]
START_SECONDS = 60.0
STOP_SECONDS = 60.0  # supervisord.conf: the stages of an orderly end take 56 s at most
LOG_TAIL_LINES = 20
LOG_MOST_BYTES = 50 << 20


def agent_command() -> list[str]:
    """The `ecs-agent` beside this interpreter, or on PATH. Raises Problem when there is none."""
    beside = Path(sys.executable).parent / "ecs-agent"
    found = str(beside) if beside.exists() else shutil.which("ecs-agent")
    if not found:
        raise Problem(
            f"ecs-agent is neither in {beside.parent} nor on PATH. Install the distribution "
            "(pip install ecs-agent, or make install in a clone)."
        )
    return [found]


def running(settings: Settings) -> Json | None:
    """The note of the tree that runs in this directory, or None. A note of a dead tree counts as none."""
    try:
        note = json.loads(settings.note.read_text())
        process = psutil.Process(int(note["pid"]))
        alive = abs(process.create_time() - float(note["created"])) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
    return note if alive else None


def start(
    settings: Settings, command: list[str] | None = None, dies_with_caller: bool = False
) -> subprocess.Popen[bytes]:
    """Start the tree in a session of its own, its output in the log file. Raises Problem when one runs already."""
    note = running(settings)
    if note:
        raise Problem(f"A tree already runs in {settings.directory} (pid {note['pid']}). Stop it with: ecs-local down")
    command = command or agent_command()
    for directory in (settings.note.parent, settings.log.parent):
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            directory.chmod(0o700)
        except OSError as error:
            raise Problem(
                f"{directory} cannot be used: {error.strerror}. Set ECS_DATADIR to a directory of yours."
            ) from None
    _shorten(settings.log)
    with open(os.open(settings.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            env=tree_environment(settings, os.environ),
            preexec_fn=_die_with_parent if dies_with_caller else None,
        )
    note = {
        "pid": process.pid,
        "created": psutil.Process(process.pid).create_time(),
        "port": settings.port,
        "region": settings.region,
        "cluster": settings.cluster,
        "log": str(settings.log),
    }
    settings.note.write_text(json.dumps(note))
    settings.note.chmod(0o600)
    return process


def _die_with_parent() -> None:
    """The kernel sends SIGTERM when the caller dies without a word (prctl(2), PR_SET_PDEATHSIG)."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _shorten(log: Path) -> None:
    """Keep one older log, so that the file does not grow for ever."""
    with suppress(OSError):
        if log.stat().st_size > LOG_MOST_BYTES:
            log.replace(log.with_suffix(".log.1"))


def wait_connected(settings: Settings, alive: Callable[[], bool], seconds: float = START_SECONDS) -> Json:
    """The container instance once its agent is registered and connected. Raises Problem with the end of the log."""
    ecs = api.client(settings, read_timeout=3)
    end, last = time.monotonic() + seconds, "the control plane does not answer yet"
    while time.monotonic() < end:
        if not alive():
            raise Problem(f"The process tree ended while it was starting.\n{tail(settings)}")
        try:
            instance = api.connected_instance(ecs, settings.cluster)
        except (BotoCoreError, ClientError) as error:
            last = f"the control plane does not answer yet ({type(error).__name__})"
        else:
            if instance:
                return instance
            last = "the agent is not registered and connected yet"
        time.sleep(0.2)
    raise Problem(f"Not ready after {seconds:.0f} s: {last}.\n{tail(settings)}")


def tail(settings: Settings) -> str:
    """The last lines of the tree's log, for an error message."""
    try:
        with open(settings.log, errors="replace") as log:
            lines = "".join(f"    {line}" for line in deque(log, LOG_TAIL_LINES))
    except OSError as error:
        return f"(no log: {error})"
    return f"The end of {settings.log}:\n{lines}"


def stop(settings: Settings, pid: int, seconds: float = STOP_SECONDS) -> None:
    """SIGTERM, wait, SIGKILL if need be; returns when the process is gone. Raises Problem when it cannot be ended."""
    try:
        process = psutil.Process(pid)
        children = process.children(recursive=True)
        process.send_signal(signal.SIGTERM)
        with suppress(psutil.TimeoutExpired):
            process.wait(seconds)
        left = [p for p in [process, *children] if _alive(p)]
        for one in left:
            one.kill()
        psutil.wait_procs(left, timeout=5)
    except psutil.NoSuchProcess:
        pass  # already gone: that is what was wanted
    except psutil.AccessDenied:
        raise Problem(f"The tree (pid {pid}) belongs to another user; stop it as that user.") from None
    settings.note.unlink(missing_ok=True)


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
