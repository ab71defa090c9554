"""Start the agent in place of this process, and find it again to stop it.

The pid file names a process by pid and start time, so that a recycled pid is never signalled.
"""

from __future__ import annotations

import glob
import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from services.init import environment

EBS_DIRECTORY = "/mnt/ecs/ebs"
OS_RELEASE = "/etc/os-release"
PID_FILE = "start.pid"
AGENT = "ecs-agent"
STOP_SECONDS = 85.0  # below the unit's TimeoutStopSec of 90 s, above the 64 s that the tree may take
_GPU_CHECKS, _GPU_PAUSE_SECONDS = 11, 3.0


def environment_of(environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The environment of the service from this environment and the configuration files, and notes for the operator."""
    instance, user = _read(environment.INSTANCE_FILE), _read(environment.USER_FILE)
    found = environment.Host(
        os_release=_read(OS_RELEASE),
        ebs_directory=os.path.isdir(EBS_DIRECTORY),
        gpu_devices=environment.parse(instance).get(environment.GPU) == "true" and _wait_for_gpu(),
    )
    return environment.build(environ, instance, user, found)


def _read(path: str) -> str:
    """A file that cannot be read counts as empty, as in the reference (spec 09 §4.2)."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _wait_for_gpu() -> bool:
    """NVIDIA's device files appear late at boot: look eleven times, 3 s apart (spec 09 §4.2)."""
    for check in range(_GPU_CHECKS):
        if check:
            time.sleep(_GPU_PAUSE_SECONDS)
        if glob.glob("/dev/nvidia*"):
            return True
    return False


def become_agent(values: Mapping[str, str]) -> None:
    """exec `ecs-agent`, which stands beside this interpreter. Raises OSError when it is not there."""
    beside = os.path.join(os.path.dirname(sys.executable), AGENT)
    path = beside if os.access(beside, os.X_OK) else shutil.which(AGENT)
    if path is None:
        raise FileNotFoundError(f"could not start Agent: {beside} is not there: install the package again")
    directory = Path(values["ECS_RUN_DIR"])
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_pid(directory / PID_FILE)
    os.execve(path, [path], dict(values))


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
