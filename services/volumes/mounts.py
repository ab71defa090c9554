"""Mount and unmount by the host's own commands, so that helpers such as mount.efs do their part (spec 09 §14.6).

The commands are found in PATH and run without a shell, in a session of their own: a helper may leave a process behind
that carries the traffic (TLS tunnel), and it must live on when the plugin ends. What a command says goes into a file,
not a pipe, since such a process keeps a pipe open for as long as it lives.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from services.volumes.errors import PluginError

MOUNT_SECONDS = 240.0  # mount.efs itself gives up after three minutes at most
UNMOUNT_SECONDS = 60.0
KILLED_SECONDS = 5.0  # the kernel may hold a mount longer than SIGKILL counts; the volume's lock must not wait for it
_TEXT_LIMIT = 64 << 10  # bytes
_NOT_MOUNTED = ("not mounted", "no mount point specified")
MOUNT_TABLE = Path("/proc/self/mountinfo")

Runner = Callable[[Sequence[str], float], tuple[int, str]]


def run(argv: Sequence[str], seconds: float) -> tuple[int, str]:
    """(exit status, what it said on stderr). Raises OSError when it cannot be started, TimeoutError when it is late."""
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=_environment(),
            start_new_session=True,
        )
        try:
            status = child.wait(seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(KILLED_SECONDS)
            raise TimeoutError(f"{argv[0]} did not end within {seconds:g} s and was killed") from None
        said.seek(0)
        return status, said.read(_TEXT_LIMIT).decode("utf-8", "replace")


def _environment() -> dict[str, str]:
    """Helpers of mount read more than PATH (proxies, regions); nothing of the agent's configuration is for them."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ECS_")} | {"LC_ALL": "C"}


class Mounter:
    """Runs `mount` and `umount`. `runner` stands for the commands in tests."""

    def __init__(self, runner: Runner = run) -> None:
        self._run = runner

    def mount(self, options: Mapping[str, str], path: str) -> None:
        """Mount the device of the options at `path`. Raises PluginError with what `mount` said."""
        device = options.get("device", "")
        missing = [name for name, value in (("device", device), ("target", path)) if not value]
        if missing:
            raise PluginError(f"missing required fields: [{','.join(missing)}]")
        argv = ["mount"]
        for flag, name in (("-t", "type"), ("-o", "o")):
            if options.get(name):
                argv += [flag, options[name]]
        try:
            status, said = self._run([*argv, device, path], MOUNT_SECONDS)
        except TimeoutError as error:
            raise PluginError(f"mounting volume failed: {error}") from error
        except OSError as error:  # the program could not be started; the reference has no text of it either
            raise PluginError("mounting volume failed: ") from error
        if status != 0:
            raise PluginError(f"mounting volume failed: {said}")

    def unmount(self, path: str) -> None:
        """Unmount lazily: the network namespace that carried the traffic may be gone. Not mounted is fine.

        Raises PluginError with what `umount` said.
        """
        program = shutil.which("umount")
        if program is None:
            raise PluginError('unmounting volume failed: exec: "umount": executable file not found in $PATH')
        try:
            status, said = self._run([program, "-l", path], UNMOUNT_SECONDS)
        except OSError as error:
            raise PluginError(f"unmounting volume failed: {error}") from error
        if status != 0 and not any(sign in said for sign in _NOT_MOUNTED):
            raise PluginError(f"unmounting volume failed: {said}")


def is_mounted(path: str, table: Path = MOUNT_TABLE) -> bool:
    """Whether something is mounted at `path` in this mount namespace (proc(5), mountinfo field 5)."""
    wanted = os.path.normpath(path)
    for line in table.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split(" ")
        if len(fields) > 4 and _unescape(fields[4]) == wanted:
            return True
    return False


def _unescape(field: str) -> str:
    for code, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, sign)
    return field
