"""Start the agent in place of this process, and find it again to stop it.

The pid file names a process by pid and start time, so that a recycled pid is never signalled.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from common.config import service_env as environment
from common.config.rules import INSTALLED_RUN_DIR
from common.config.service_host import look
from common.config.service_host import read as _read
from common.tree.run import INIT_LOG, interpreter_flags
from services.init import gpu, initlog

PID_FILE = "start.pid"
AGENT_MODULE = "common.tree.cli"
STOP_SECONDS = 85.0  # below the unit's TimeoutStopSec of 90 s, above the 56 s that the tree may take


def environment_of(environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The environment of the service from this environment and the configuration files, and notes for the operator."""
    instance, user = _read(environment.INSTANCE_FILE), _read(environment.USER_FILE)
    return environment.build(environ, instance, user, look(environ, environment.merge(instance, user, True)))


def wants_gpus() -> bool:
    """Whether the files ask for GPU support; an instance file that does waits for the driver (spec 09 §4.2, §10)."""
    instance, user = _read(environment.INSTANCE_FILE), _read(environment.USER_FILE)
    late = environment.parse(instance)[0].get(environment.GPU) == "true"
    return environment.merge(instance, user, late and gpu.present(wait=True)).get(environment.GPU) == "true"


def run_directory(environ: Mapping[str, str]) -> Path:
    """Where the running service keeps its pid, rules and sockets."""
    files = environment.merge(_read(environment.INSTANCE_FILE), _read(environment.USER_FILE), False)
    return Path(files.get("ECS_RUN_DIR") or environ.get("ECS_RUN_DIR") or INSTALLED_RUN_DIR)


def become_agent(values: Mapping[str, str]) -> None:
    """exec the agent's tree with this interpreter and its flags, so that its status is ours. Raises OSError."""
    directory = Path(values["ECS_RUN_DIR"])
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_pid(directory / PID_FILE)
    argv = [sys.executable, *interpreter_flags().split(), "-m", AGENT_MODULE]
    os.execve(sys.executable, argv, {**values, INIT_LOG: str(initlog.FILE)})


def _write_pid(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"pid": os.getpid(), "started": _started(os.getpid())}, file)


def _started(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot (proc(5), stat field 22); None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[19])


def stop_agent(directory: Path, seconds: float = STOP_SECONDS) -> bool:
    """SIGTERM to the process that `start` became, and wait for its end. False when none runs.

    Raises TimeoutError after `seconds`, OSError when it may not be signalled.
    """
    path = directory / PID_FILE
    try:
        named = json.loads(path.read_text(encoding="utf-8"))
        pid, started = int(named["pid"]), named["started"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if _started(pid) != started:
            return False
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(int(seconds * 1000)):
            raise TimeoutError(f"process {pid} did not end within {seconds:g} s")
    finally:
        os.close(handle)
    return True
