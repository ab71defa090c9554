"""The task cgroup: CPU, memory and process limits for all containers of a task together (spec 03 §9).

cgroup v1: a directory /ecs/<task id> in every controller, limits written to its files; they are written to an existing
directory too, because Docker makes the directory without limits when a pause container starts first (trap 29).
cgroup v2: a systemd slice where systemd runs (see slices.py), else the same directory by hand.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from common.backoff import Backoff
from common.model.status import ContainerType
from common.model.task import Resource, Task
from services.engine.core.effects import SetupError
from services.engine.resources import slices
from services.engine.resources.kind import Host, ResourceFailed

if TYPE_CHECKING:
    from services.engine.docker.draft import Draft

log = logging.getLogger(__name__)

KIND = NAME = "cgroup"
ROOT = "ecs"
REASON = "CgroupError: Agent could not create task's platform resources"
MIB = 1024 * 1024
MINIMUM_SHARES, MAXIMUM_SHARES = 2, 262144
CPUSET_FILES = ("cpuset.cpus", "cpuset.mems")
REMOVE_SECONDS = 5.0  # the kernel needs a moment after the last process has gone


class Limits(NamedTuple):
    """What a task cgroup gets; 0 means no limit. `shares` counts only without a quota."""

    quota_us: int = 0
    period_us: int = 0
    shares: int = 0
    memory_bytes: int = 0
    processes: int = 0


def limits_of(task: Task, cpu_period_seconds: float, processes: int) -> Limits:
    """The limits of a task. Raises SetupError when a container may use more memory than the task."""
    containers = [c for c in task.containers if c.type == ContainerType.NORMAL]
    for container in containers:
        if task.memory_mib and container.memory_mib > task.memory_mib:
            raise SetupError(
                "cgroup resource: unable to build resource spec for task: task memory spec builder: container memory "
                f"limit({container.memory_mib}) greater than task memory limit({task.memory_mib})"
            )
    period = round(cpu_period_seconds * 1_000_000)
    shares = min(MAXIMUM_SHARES, sum(max(MINIMUM_SHARES, c.cpu_shares) for c in containers))
    limited = task.cpu > 0
    return Limits(
        quota_us=int(task.cpu * period) if limited else 0,
        period_us=period if limited else 0,
        shares=0 if limited else shares,
        memory_bytes=task.memory_mib * MIB,
        processes=processes,
    )


def cgroup_parent(task: Task, version: str, driver: str = "") -> str:
    """HostConfig.CgroupParent of the task's containers.

    Docker's systemd driver wants the name of the slice, its cgroupfs driver the path: a name would be a directory of
    the root to it, beside the slice, and the task's limits would not hold the containers.
    """
    if version != "2":
        return f"/{ROOT}/{task.id}"
    return slices.path_of(task.id, "/") if driver == "cgroupfs" else slices.slice_of(task.id)


class TaskCgroups:
    """The kind `cgroup`."""

    name = KIND

    def prepare(self, task: Task, host: Host) -> list[Resource]:
        """One cgroup when task limits are enabled; the agent's own tasks have no limits."""
        if not host.facts.task_limits_enabled or task.is_internal:
            return []
        limits = limits_of(task, host.settings.cpu_period_seconds, host.settings.pids_limit)
        return [Resource(kind=KIND, name=NAME, detail=dict(limits._asdict()))]

    def create(self, task: Task, resource: Resource, host: Host) -> dict[str, Any]:
        """Make the cgroup with its limits."""
        limits = Limits(**{k: v for k, v in resource.detail.items() if k in Limits._fields})
        try:
            if host.facts.cgroup_version == "2":
                slices.create(task.id, limits, host.settings.cgroup_path)
            else:
                create_v1(host.settings.cgroup_path, task.id, limits)
        except OSError as error:
            log.error("the cgroup of task %s cannot be made: %s", task.id, error)
            raise ResourceFailed(REASON) from error
        return {}

    def ensure(self, task: Task, resource: Resource, host: Host) -> None:
        """Make it again where it is gone: it ends with the machine, and Docker would make one without limits.

        Raises ResourceFailed.
        """
        root = host.settings.cgroup_path
        unified = host.facts.cgroup_version == "2"
        if not os.path.isdir(slices.path_of(task.id, root) if unified else os.path.join(root, "memory", ROOT, task.id)):
            log.warning("the cgroup of task %s is gone; it is made again", task.id)
            self.create(task, resource, host)

    def cleanup(self, task: Task, resource: Resource, host: Host) -> None:
        """Remove the cgroup; one that is gone is fine."""
        try:
            if host.facts.cgroup_version == "2":
                slices.remove(task.id, host.settings.cgroup_path)
            else:
                remove_v1(host.settings.cgroup_path, task.id)
        except OSError as error:
            raise ResourceFailed(f"the cgroup of task {task.id} cannot be removed: {error}") from error

    def amend(self, draft: Draft, resource: Resource) -> None:
        """Nothing: CgroupParent is part of every request of a limited task."""


# -- cgroup v1 -------------------------------------------------------------------------------


def is_unified(path: str) -> bool:
    """Is the mount at `path` cgroup v2?"""
    return os.path.exists(os.path.join(path, "cgroup.controllers"))


def controllers_v1(path: str) -> list[str]:
    """The controllers mounted below `path`, one directory per hierarchy (cpu and cpuacct may share one)."""
    found: dict[str, str] = {}
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.name == "unified" or not entry.is_dir():
                continue
            if os.path.exists(os.path.join(entry.path, "cgroup.procs")):
                found.setdefault(os.path.realpath(entry.path), entry.path)
    return list(found)


def initialise_root(path: str) -> None:
    """Make /ecs in every controller (v1), or open cpu and memory to children (v2). Raises OSError."""
    if is_unified(path):
        slices.initialise_root(path)
        return
    controllers = controllers_v1(path)
    if not controllers:
        raise OSError(errno.ENOENT, "no cgroup controller is mounted", path)
    for controller in controllers:
        _make(os.path.join(controller, ROOT))


def create_v1(path: str, id_: str, limits: Limits) -> None:
    """Make /ecs/<id> in every controller and write its limits. Raises OSError."""
    for controller in controllers_v1(path):
        directory = os.path.join(controller, ROOT)
        _make(directory)
        directory = os.path.join(directory, id_)
        _make(directory)
        for name, value in _files(limits):
            if os.path.exists(os.path.join(directory, name)):
                write(os.path.join(directory, name), value)
    hierarchy = os.path.join(path, "memory", ROOT, id_, "memory.use_hierarchy")
    if os.path.isdir(os.path.dirname(hierarchy)) and _read(hierarchy) != "1":
        write(hierarchy, "1")


def _files(limits: Limits) -> list[tuple[str, str]]:
    files = []
    if limits.period_us:
        files += [("cpu.cfs_period_us", str(limits.period_us)), ("cpu.cfs_quota_us", str(limits.quota_us))]
    elif limits.shares:
        files.append(("cpu.shares", str(limits.shares)))
    if limits.memory_bytes:
        files.append(("memory.limit_in_bytes", str(limits.memory_bytes)))
    if limits.processes:
        files.append(("pids.max", str(limits.processes)))
    return files


def _make(directory: str) -> None:
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        return
    if os.path.basename(os.path.dirname(directory)) == "cpuset" or os.path.exists(
        os.path.join(directory, CPUSET_FILES[0])
    ):
        _inherit_cpuset(directory)


def _inherit_cpuset(directory: str) -> None:
    """A new cpuset is empty, and no process may enter an empty one."""
    for name in CPUSET_FILES:
        if not _read(os.path.join(directory, name)):
            write(os.path.join(directory, name), _read(os.path.join(os.path.dirname(directory), name)))


def remove_v1(path: str, id_: str) -> None:
    """Remove /ecs/<id> from every controller. Raises OSError when one stays busy."""
    for controller in controllers_v1(path):
        remove_tree(os.path.join(controller, ROOT, id_))


def remove_tree(directory: str) -> None:
    """Remove a cgroup and those below it. Raises OSError when it stays busy for REMOVE_SECONDS."""
    backoff, end = Backoff(0.02, 0.5), time.monotonic() + REMOVE_SECONDS
    while True:
        try:
            for parent, children, _ in os.walk(directory, topdown=False):
                for child in children:
                    _remove(os.path.join(parent, child))
            _remove(directory)
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > end:
                raise
            time.sleep(backoff.delay())


def _remove(directory: str) -> None:
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return


def write(path: str, value: str) -> None:
    """Write a cgroup file. Raises OSError."""
    with open(path, "w", encoding="ascii") as file:
        file.write(value)


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()
