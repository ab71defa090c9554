"""Task cgroups on cgroup v2: systemd slices called ecstasks-<task id>.slice (spec 03 §9).

Where systemd runs, it owns the tree and would take limits back that others wrote, so the slice is made as a transient
unit through `busctl`, which comes with systemd and spares the engine a D-Bus library. Elsewhere (a container, another
init) the same directories are made and the same limits written by hand; the end state in the tree is the same.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

from common import command
from common.backoff import Backoff

if TYPE_CHECKING:
    from services.engine.resources.cgroup import Limits

PREFIX = "ecstasks"
SYSTEMD_MARK = "/run/systemd/system"
UNIT_SECONDS = 30.0
WANTED = ("cpu", "memory")
MANAGER = (
    "org.freedesktop.systemd1",
    "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
)


def slice_of(id_: str) -> str:
    """The unit's name, which is also HostConfig.CgroupParent."""
    return f"{PREFIX}-{id_}.slice"


def path_of(id_: str, root: str) -> str:
    """Where the slice is in the tree: each hyphen in the id opens another level (systemd.slice(5), trap 28)."""
    parts, directory = f"{PREFIX}-{id_}".split("-"), root
    for count in range(1, len(parts) + 1):
        directory = os.path.join(directory, f"{'-'.join(parts[:count])}.slice")
    return directory


def initialise_root(root: str) -> None:
    """Open cpu and memory to the children of the root. Raises OSError."""
    _write(os.path.join(root, "cgroup.subtree_control"), " ".join(f"+{name}" for name in WANTED))
    below = os.path.join(root, "system.slice", "cgroup.controllers")
    if not os.path.exists(below):
        below = os.path.join(root, "cgroup.controllers")
    with open(below, encoding="ascii") as file:
        missing = set(WANTED) - set(file.read().split())
    if missing:
        raise OSError(f"{below} does not list the controllers {', '.join(sorted(missing))}")


def create(id_: str, limits: Limits, root: str) -> None:
    """Make the slice with its limits. Raises OSError."""
    directory = path_of(id_, root)
    if has_systemd():
        if not os.path.isdir(directory):
            _start_unit(id_, limits, directory)
        _open_controllers(directory, root)
        return
    os.makedirs(directory, 0o755, exist_ok=True)
    _open_controllers(directory, root, (*WANTED, "pids") if limits.processes else WANTED)
    for name, value in _files(limits):
        _write(os.path.join(directory, name), value)


def remove(id_: str, root: str) -> None:
    """Stop the unit, or remove the directory. Raises OSError."""
    directory = path_of(id_, root)
    if not os.path.isdir(directory):
        return
    if has_systemd():
        _busctl("StopUnit", "ss", slice_of(id_), "replace")
        return
    from services.engine.resources.cgroup import remove_tree

    remove_tree(directory)


def has_systemd() -> bool:
    """Is systemd this machine's init, and can it be spoken to?"""
    return os.path.isdir(SYSTEMD_MARK) and shutil.which("busctl") is not None


def cpu_weight(shares: int) -> int:
    """cgroup v1 shares as a v2 weight."""
    return 1 + ((shares - 2) * 9999) // 262142


def quota_per_second_us(quota_us: int, period_us: int) -> int:
    """CPUQuotaPerSecUSec: rounded up to a multiple of 10 ms, which is all that systemd keeps."""
    per_second = quota_us * 1_000_000 // period_us
    return -(-per_second // 10_000) * 10_000


def unit_arguments(id_: str, limits: Limits) -> list[str]:
    """The arguments of StartTransientUnit for busctl."""
    name = slice_of(id_)
    properties = [
        ["Description", "s", f"cgroup {name}"],
        ["Wants", "as", "1", "system.slice"],
        ["DefaultDependencies", "b", "false"],
        ["MemoryAccounting", "b", "true"],
        ["CPUAccounting", "b", "true"],
        ["IOAccounting", "b", "true"],
    ]
    if limits.period_us:
        quota = quota_per_second_us(limits.quota_us, limits.period_us)
        properties.append(["CPUQuotaPerSecUSec", "t", str(quota)])
    elif limits.shares:
        properties.append(["CPUWeight", "t", str(cpu_weight(limits.shares))])
    if limits.memory_bytes:
        properties.append(["MemoryMax", "t", str(limits.memory_bytes)])
    if limits.processes:
        properties += [["TasksAccounting", "b", "true"], ["TasksMax", "t", str(limits.processes)]]
    flat = [word for property_ in properties for word in property_]
    return ["StartTransientUnit", "ssa(sv)a(sa(sv))", name, "replace", str(len(properties)), *flat, "0"]


def _start_unit(id_: str, limits: Limits, directory: str) -> None:
    end = time.monotonic() + UNIT_SECONDS
    _busctl(*unit_arguments(id_, limits))
    backoff = Backoff(0.01, 0.5)
    while not os.path.isdir(directory):
        if time.monotonic() > end:
            raise TimeoutError(f"systemd has not made {slice_of(id_)} within {UNIT_SECONDS:.0f} s")
        time.sleep(backoff.delay())


def _busctl(method: str, *arguments: str) -> None:
    argv = ("busctl", "--system", f"--timeout={UNIT_SECONDS:.0f}", "call", *MANAGER, method, *arguments)
    try:
        done = command.run(argv, UNIT_SECONDS + 5)
    except command.CommandFailed as error:
        raise OSError(f"systemd cannot be asked: {error}") from error
    if done.status and "already" not in done.err:
        raise OSError(f"systemd refuses {method} {arguments[1] if len(arguments) > 1 else ''}: {done.err.strip()}")


def _open_controllers(directory: str, root: str, wanted: tuple[str, ...] = WANTED) -> None:
    """The controllers must be open in every ancestor."""
    inner = os.path.relpath(os.path.dirname(directory), root)
    path = root
    for part in ("", *([] if inner == "." else inner.split(os.sep))):
        path = os.path.join(path, part) if part else path
        _write(os.path.join(path, "cgroup.subtree_control"), " ".join(f"+{name}" for name in wanted))


def _files(limits: Limits) -> list[tuple[str, str]]:
    files = []
    if limits.period_us:
        quota = quota_per_second_us(limits.quota_us, limits.period_us)
        files.append(("cpu.max", f"{quota * 100_000 // 1_000_000} 100000"))
    elif limits.shares:
        files.append(("cpu.weight", str(cpu_weight(limits.shares))))
    if limits.memory_bytes:
        files.append(("memory.max", str(limits.memory_bytes)))
    if limits.processes:
        files.append(("pids.max", str(limits.processes)))
    return files


def _write(path: str, value: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(value)
