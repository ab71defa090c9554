"""The files of one container: where they are, and reading them cheaply (spec 07 §17).

The files are opened once per start of a container and read with pread from then on: a pread of a kept descriptor takes
1 us (memory.stat 7, net/dev 4), with open and close around it 8 us more. A cgroup file says ENODEV when the cgroup is
gone, which is how the end of a container, and its restart under the same name, are noticed without asking Docker.

A kept descriptor of /proc/<pid>/net/dev keeps the network namespace until it is closed, a second after the container
ended. That delays nothing: only namespaces that Docker made for a bridge network are read like this, and Docker itself
removes the interfaces in them. That of an awsvpc task, which holds an ENI, is read by `netns`, which keeps nothing.

The container is found by its id in the places where Docker's two cgroup drivers put it, with and without a cgroup of
the task; only when it is in none of them is Docker asked for the process id.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from services.telemetry.core.procfs import HostCpu, host_cpu, total_memory
from services.telemetry.core.readings import form_of

ROOT = "/sys/fs/cgroup"
PROC = "/proc"
CHUNK = 4096  # bytes; most files fit
SURELY_WHOLE = 3072  # bytes; a longer file may come in pieces, since the kernel fills a page with whole records
V1_CONTROLLERS = ("memory", "cpuacct", "cpu", "blkio", "pids")


class Gone(Exception):
    """The container does not run (any more), or its files are not where they were."""


class Host(NamedTuple):
    """What is the same for all containers: the cgroup version, the CPUs of this process, the memory of the machine."""

    unified: bool
    cpus: int
    memory: int  # bytes
    root: str = ROOT
    proc: str = PROC

    def cpu(self) -> HostCpu:
        """CPU time of the host now."""
        return host_cpu(_whole(f"{self.proc}/stat"))


def this_host(root: str = ROOT, proc: str = PROC) -> Host:
    """The host as it is. The number of CPUs is that of this process's affinity, as the reference takes it."""
    unified = os.path.exists(f"{root}/cgroup.controllers")
    return Host(unified, len(os.sched_getaffinity(0)), total_memory(_whole(f"{proc}/meminfo")), root, proc)


def _whole(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _optional(path: str) -> bytes:
    """The contents, or nothing when the file is not there or the kernel cannot say."""
    try:
        return _whole(path)
    except OSError:
        return b""


# -- finding ---------------------------------------------------------------------------------------


def find_process(host: Host, docker_id: str, task_id: str) -> int | None:
    """The first process of the container, from the cgroup directories that Docker uses; None when there is none."""
    base = host.root if host.unified else f"{host.root}/memory"
    for directory in _places(base, docker_id, task_id):
        if processes := _processes(directory):
            return min(processes, key=lambda pid: _started(host, pid))
    return None


def _processes(directory: str) -> list[int]:
    """Those of a cgroup, or of all cgroups in it: systemd or Docker in a container moves every process further down."""
    if not (processes := _optional(f"{directory}/cgroup.procs")):
        processes = b"".join(_optional(f"{below}/cgroup.procs") for below, _, _ in os.walk(directory))
    return [int(pid) for pid in processes.split()]


def _places(base: str, docker_id: str, task_id: str) -> Iterator[str]:
    scope = f"docker-{docker_id}.scope"
    yield f"{base}/ecs/{task_id}/{docker_id}"
    yield f"{base}/ecstasks.slice/ecstasks-{task_id}.slice/{scope}"
    yield f"{base}/ecstasks.slice/ecstasks-{task_id}.slice/{docker_id}"  # v2 with the cgroupfs driver
    yield f"{base}/docker/{docker_id}"
    yield f"{base}/system.slice/{scope}"


def _started(host: Host, pid: int) -> int:
    """Start time in ticks (proc(5), field 22): the oldest process is the container's own, not an exec's."""
    fields = _optional(f"{host.proc}/{pid}/stat").rpartition(b")")[2].split()
    return int(fields[19]) if len(fields) > 19 else 1 << 63


def directories(host: Host, pid: int, docker_id: str) -> dict[str, str]:
    """The cgroup directories of a process's container: by controller in v1, under "" in v2. Raises Gone.

    The process may be in a cgroup that was made inside of the container; the one that Docker made has all of it.
    """
    found = {}
    for line in _optional(f"{host.proc}/{pid}/cgroup").decode().splitlines():
        _, controllers, path = line.split(":", 2)
        above, named, below = path.partition(docker_id)
        path = f"{above}{named}{below.partition('/')[0]}"
        if host.unified and not controllers:
            found[""] = f"{host.root}{path}"
        for name in controllers.split(",") if not host.unified else ():
            if name in V1_CONTROLLERS:
                found[name] = f"{host.root}/{name}{path}"
    if not found:
        raise Gone(f"process {pid} has no cgroup")
    return found


# -- reading ---------------------------------------------------------------------------------------


class Files:
    """The open files of one running container. Close it when the container is gone."""

    def __init__(self, host: Host, pid: int, docker_id: str, network: bool) -> None:
        self.host, self.pid = host, pid
        self._form = form_of(host.unified)
        self._directories = directories(host, pid, docker_id)
        self._namespace = self._namespace_of(pid)
        own_network = network and self._namespace != self._namespace_of("self")
        self._descriptors = [self._open(name) for name in self._form.FILES]
        self._net_dev = -1
        self._extra: dict[str, int] = {}  # descriptors of what only the whole object needs; opened when it is asked for
        if self._descriptors[0] < 0:
            self.close()
            raise Gone(f"{self._path(self._form.FILES[0])} cannot be opened")
        # The network of the host is not the container's: its file would show the host's interfaces.
        self._net_dev = self._open_net_dev() if own_network else -1
        about = os.fstat(self._descriptors[0])
        self.identity = (about.st_dev, about.st_ino)  # another one under the same path is another run of the container

    def _namespace_of(self, pid: int | str) -> tuple[int, int]:
        try:
            seen = os.stat(f"{self.host.proc}/{pid}/ns/net")
        except OSError as error:
            raise Gone(f"process {pid} is gone: {error}") from error
        return seen.st_dev, seen.st_ino

    def check(self) -> None:
        """Raises Gone when the process is not there any more, or is another one."""
        if self._namespace_of(self.pid) != self._namespace:
            raise Gone(f"process {self.pid} is another one now")

    def _path(self, name: str) -> str:
        if self.host.unified:
            return f"{self._directories['']}/{name}"
        controller, _, file = name.partition("/")
        return f"{self._directories.get(controller, '')}/{file}"

    def _open(self, name: str) -> int:
        try:
            return os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return -1  # a missing file counts as 0

    def _open_net_dev(self) -> int:
        try:
            return os.open(f"{self.host.proc}/{self.pid}/net/dev", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.close()
            raise Gone(f"process {self.pid} is gone: {error}") from error

    def read(self) -> tuple[bytes, ...]:
        """The contents of the files that every sample needs. Raises Gone."""
        try:
            return tuple(_pread(fd) if fd >= 0 else b"" for fd in self._descriptors)
        except OSError as error:
            raise Gone(f"the cgroup is gone: {error}") from error

    def read_network(self) -> bytes:
        """/proc/<pid>/net/dev, or nothing for a container without a network of its own. Raises Gone."""
        try:
            return _pread(self._net_dev) if self._net_dev >= 0 else b""
        except OSError as error:
            raise Gone(f"process {self.pid} is gone: {error}") from error

    def read_extra(self) -> Mapping[str, bytes]:
        """What only the whole stats object shows."""
        if not self._extra and self._descriptors:
            self._extra = {name: self._open(name) for name in self._form.EXTRA_FILES}
        return {name: _quietly(fd) for name, fd in self._extra.items()}

    def close(self) -> None:
        """Close all files."""
        for fd in (*self._descriptors, *self._extra.values(), self._net_dev):
            if fd >= 0:
                os.close(fd)
        self._descriptors, self._extra, self._net_dev = [], {}, -1


def _quietly(fd: int) -> bytes:
    """The contents; nothing for a file that is missing or whose cgroup has gone."""
    try:
        return _pread(fd) if fd >= 0 else b""
    except OSError:
        return b""


def _pread(fd: int) -> bytes:
    data = os.pread(fd, CHUNK, 0)
    if len(data) > SURELY_WHOLE:
        while more := os.pread(fd, CHUNK, len(data)):
            data += more
    return data
