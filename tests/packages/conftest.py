"""Machines to install packages on: a Debian 12 tree with systemd as process 1 of its own namespaces.

The tree is made by debian_tree.py and kept in build/ for the next run. Its network namespace is empty but for loopback:
the netfilter rules and ports of the agent under test are its own. Docker is this machine's: its socket is mounted into
the tree, and a unit of the name docker.service stands for it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
CGROUPS = Path("/sys/fs/cgroup")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# Namespaces, then the file systems that systemd expects, then systemd. $0 is the tree, $1 the name of the cgroup.
BOOT = r"""
set -e
tree=$0
mount --make-rprivate /
mount --bind "$tree" "$tree"
mount -t proc proc "$tree/proc"
mount -t sysfs sysfs "$tree/sys"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 none "$tree/sys/fs/cgroup"
else
    mount -t tmpfs tmpfs "$tree/sys/fs/cgroup"
    for hierarchy in /sys/fs/cgroup/*/; do
        name=$(basename "$hierarchy")
        mkdir "$tree/sys/fs/cgroup/$name"
        case $name in
            unified) mount -t cgroup2 none "$tree/sys/fs/cgroup/$name" ;;
            systemd) mount -t cgroup -o none,name=systemd none "$tree/sys/fs/cgroup/$name" ;;
            *) mount -t cgroup -o "$name" none "$tree/sys/fs/cgroup/$name" ;;
        esac
    done
fi
mount -t tmpfs -o mode=755 tmpfs "$tree/run"
mount -t tmpfs tmpfs "$tree/tmp"
mount --rbind /dev "$tree/dev"
touch "$tree/run/docker.sock"
mount --bind "$1" "$tree/run/docker.sock"
ip link set lo up
exec env -i container=unshare PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$tree" /lib/systemd/systemd
"""


def until(done: Callable[[], object], seconds: float, what: str) -> object:
    """The first true answer; fails the test after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := done():
            return answer
        time.sleep(0.25)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


class Machine:
    """One tree; `boot` runs systemd in it, `run` runs a command in it, booted or not."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self._process: subprocess.Popen[bytes] | None = None
        self._systemd = 0

    @property
    def entry(self) -> list[str]:
        """The command before a command on this machine, with the host's files."""
        return ["nsenter", "-t", str(self._systemd), "-m", "-p", "-n", "-u", "-i", "-C"] if self._systemd else []

    def run(self, *command: str, status: int | None = 0, seconds: float = 120) -> str:
        """Run a command in the tree; returns what it printed. `status` is the expected one (None: any)."""
        return self.host("chroot", str(self.tree), *command, status=status, seconds=seconds)

    def host(self, *command: str, status: int | None = 0, seconds: float = 120) -> str:
        """Run a program of the host in the namespaces of the machine."""
        done = subprocess.run(
            [*self.entry, "env", "-i", f"PATH={PATH}", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds,
        )  # fmt: skip
        assert status is None or done.returncode == status, f"{' '.join(command)}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def boot(self) -> None:
        """Start systemd and wait until it has started what it starts."""
        name = f"packages-{os.getpid()}"
        for hierarchy in _hierarchies():
            _make_cgroup(hierarchy, name)
        docker = os.path.realpath("/var/run/docker.sock")
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child",
             "sh", "-c", BOOT, str(self.tree), docker],
            preexec_fn=lambda: [(h / name / "cgroup.procs").write_text("0") for h in _hierarchies()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")

        def booted() -> bool:
            assert self._process is not None and self._process.poll() is None, "systemd did not start"
            pids = children.read_text().split()
            if not pids or "systemd" not in Path(f"/proc/{pids[0]}/comm").read_text():
                return False
            self._systemd = int(pids[0])
            return self.run("systemctl", "is-system-running", status=None).strip() in ("running", "degraded")

        try:
            until(booted, 90, "systemd is up")
        except AssertionError:
            self.shut_down()
            raise

    def shut_down(self) -> None:
        """End every process of the machine."""
        if self._process is None:
            return
        if self._systemd:
            self.run("systemctl", "stop", "ecs.service", "amazon-ecs-volume-plugin.service", status=None)
            os.kill(self._systemd, signal.SIGKILL)
        else:
            self._process.kill()  # --kill-child takes the rest along
        self._process.wait(30)
        self._process, self._systemd = None, 0
        for hierarchy in _hierarchies():
            _remove_cgroup(hierarchy / f"packages-{os.getpid()}")

    def show(self, unit: str, *names: str) -> list[str]:
        """Values of properties of a unit."""
        return [self.run("systemctl", "show", "--value", "-p", name, unit).strip() for name in names]

    def write(self, path: str, text: str, mode: int = 0o600) -> None:
        """A file of the tree."""
        file = self.tree / path.lstrip("/")
        file.write_text(text)
        file.chmod(mode)

    def remains(self) -> list[str]:
        """Paths of the tree that look like ours, but for records of package managers."""
        ours = re.compile(r"(^|/)\.?(amazon-)?ecs([-._].*)?(/|$)")
        found = []
        for top in ("etc", "usr", "var", "run", "mnt", "lib", "opt", "root", "srv"):
            for folder, folders, files in os.walk(self.tree / top):
                relative = os.path.relpath(folder, self.tree)
                folders[:] = [f for f in folders if f"{relative}/{f}" not in (
                    "var/lib/dpkg", "var/lib/rpm", "var/log/apt", "var/cache/apt")]  # fmt: skip
                found += [f"/{relative}/{name}" for name in [*folders, *files] if ours.search(name)]
        return sorted(found)


def _hierarchies() -> list[Path]:
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in sorted(CGROUPS.iterdir()) if (path / "cgroup.procs").exists() and not path.is_symlink()]


def _make_cgroup(hierarchy: Path, name: str) -> None:
    group = hierarchy / name
    group.mkdir(exist_ok=True)
    for file in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group of version 1, and then nothing may join it
        if hierarchy.name == "cpuset":
            (group / file).write_text((hierarchy / file).read_text())


def _remove_cgroup(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            pass  # a process is still on its way out; an empty group does no harm


LAYERS: dict[Path, list[Path]] = {}  # of the copies: their own changes first


def copy(source: Path, target: Path) -> Path:
    """A tree again, whose changes lie over the source, which must not change any more; a real copy where that fails."""
    layers = LAYERS.get(source, [source])
    changes, work = target.with_name(f"{target.name}.changes"), target.with_name(f"{target.name}.work")
    for folder in (target, changes, work):
        folder.mkdir()
    options = f"lowerdir={':'.join(map(str, layers))},upperdir={changes},workdir={work}"
    if subprocess.run(
        ["mount", "-t", "overlay", "-o", options, "overlay", str(target)], capture_output=True
    ).returncode:
        target.rmdir()
        subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)
    else:
        LAYERS[target] = [changes, *layers]
    return target


@pytest.fixture(scope="session")
def base() -> Path:
    """A minimal Debian with systemd, never changed."""
    tree = BUILD / "tree-bookworm"
    subprocess.run([Path(__file__).with_name("debian_tree.py"), tree], check=True)
    return tree


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory for trees, in memory."""
    folder = BUILD / f"trees.{os.getpid()}"
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(folder)], check=True)
    yield folder
    for tree in [*LAYERS, folder]:
        subprocess.run(["umount", str(tree)], check=True)
    folder.rmdir()


def stated(what: str) -> str:
    """Version or release of the packages, as the change log says."""
    command = [str(ROOT / "packaging/changelog.py"), what]
    environ = {name: value for name, value in os.environ.items() if name != "RELEASE"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environ).stdout.strip()


def built(pattern: str) -> Path:
    """A package of `make packages-to-test`."""
    found = sorted((BUILD / "packages").glob(pattern))
    if not found:
        pytest.fail(f"there is no build/packages/{pattern}: run make test-packages, which builds what it tests")
    return found[-1]


@pytest.fixture(scope="session")
def deb() -> Path:
    return built(f"ecs-init_{stated('version')}-{stated('release')}_*.deb")


@pytest.fixture(scope="session")
def newer_deb() -> Path:
    """A second build, of a higher release."""
    return built(f"ecs-init_{stated('version')}-{stated('release')}.1_*.deb")


@pytest.fixture(scope="session")
def rpm() -> Path:
    return built(f"ecs-init-{stated('version')}-{stated('release')}.*.rpm")


@pytest.fixture(scope="session")
def installed(base: Path, scratch: Path, deb: Path) -> Path:
    """A tree on which apt has installed the package with all that it depends on; never booted, never changed."""
    tree = copy(base, scratch / "installed")
    (tree / "incoming").mkdir()
    shutil.copy(deb, tree / "incoming")
    machine = Machine(tree)
    machine.run("apt-get", "update", "-q", seconds=300)
    machine.run("apt-get", "install", "-q", "-y", "--no-install-recommends", f"/incoming/{deb.name}", seconds=600)
    machine.run("apt-get", "clean")
    return tree


@pytest.fixture(name="until", scope="session")
def until_fixture() -> Callable[..., object]:
    return until


@pytest.fixture(name="copy", scope="session")
def copy_fixture() -> Callable[[Path, Path], Path]:
    return copy


@pytest.fixture(scope="session")
def machine_of() -> type[Machine]:
    return Machine
