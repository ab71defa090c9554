"""A Docker daemon of the test's own is restarted while tasks run, with live-restore and without it.

The daemon has its own network namespace, and data, state and socket in the test's directory; the tasks have no network.
Nothing of the machine's own Docker is touched.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from tests.fakes import images

pytestmark = pytest.mark.docker

RUNNING, STOPPED = "RUNNING", "STOPPED"
IMAGE = "own/busybox:1"
PATIENT = "trap 'exit 7' TERM; sleep 3600 & wait $!"


class Daemon:
    """`dockerd` in a directory of its own; `restart` keeps the data."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.address = directory, f"unix://{directory}/docker.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        """Start it and wait until it answers."""
        words = [
            # In a network namespace of its own: a daemon without a bridge removes docker0 where it finds one.
            "unshare", "--net", "dockerd", "--host", self.address,
            "--data-root", f"{self.directory}/data", "--exec-root", f"{self.directory}/exec",
            "--pidfile", f"{self.directory}/docker.pid", "--shutdown-timeout=3",
            "--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false", *more,
        ]  # fmt: skip
        with open(self.directory / "daemon.log", "ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log)
        end = time.monotonic() + 20
        while self.docker("version").returncode:
            assert time.monotonic() < end, (self.directory / "daemon.log").read_text()[-2000:]
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it by its pid."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(20)
        for left in ("docker.pid", "exec/containerd/containerd.pid"):  # after SIGKILL
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.directory / left)

    def docker(self, *words: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """The docker command."""
        command = ["docker", "-H", self.address, *words]
        return subprocess.run(command, input=data, capture_output=True, check=False, timeout=60)

    def clean(self) -> None:
        """Remove the containers, end the daemon and what mounts and processes it may have left."""
        ids = self.docker("ps", "-aq").stdout.decode().split()
        if ids:
            self.docker("rm", "-f", *ids)
        self.stop()
        with open("/proc/mounts") as mounts:
            points = [line.split()[1] for line in mounts]
        for point in sorted((p for p in points if p.startswith(str(self.directory))), reverse=True):
            subprocess.run(["umount", "-l", point], check=False)
        for process in psutil.process_iter(["cmdline"]):
            if str(self.directory) in " ".join(process.info["cmdline"] or ()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()  # a shim or containerd that outlived its daemon


@pytest.fixture
def daemon():
    """A running daemon with the image; everything of it is gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="ecs-dockerd-"))
    daemon = Daemon(directory)
    daemon.start()
    imported = daemon.docker("import", "-", IMAGE, data=images.archive())
    assert imported.returncode == 0, imported.stderr
    yield daemon
    daemon.clean()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def own_host(make_docker_host, daemon):
    """An engine's host on that daemon."""
    return make_docker_host(IMAGE, daemon.address)


def test_a_restart_with_live_restore_loses_no_task(daemon, own_host, eventually):
    """Two tasks run on and one arrives meanwhile; ECS hears nothing of the restart, and a stop works afterwards."""
    daemon.stop()
    daemon.start("--live-restore")
    own_host.start(direct=True)
    web, api, late = own_host.task("web"), own_host.task("api"), own_host.task("late")
    own_host.run(web, api)
    eventually(lambda: own_host.known(web, api) == [RUNNING] * 2, seconds=20)
    before = sorted(own_host.ids())
    daemon.stop()
    own_host.run(late)
    time.sleep(0.5)
    daemon.start("--live-restore")
    eventually(lambda: own_host.known(late) == [RUNNING], seconds=20)
    own_host.docker("kill", own_host.container(api).docker_id)
    eventually(lambda: own_host.known(api) == [STOPPED], seconds=5)
    assert own_host.known(web) == [RUNNING]
    assert set(before) < set(own_host.ids())
    assert len(own_host.ids()) == 3
    own_host.run(web, late, desired=type(web.desired).STOPPED)
    eventually(lambda: own_host.known(web, late) == [STOPPED] * 2, seconds=10)
    assert [own_host.reports(t) for t in (web, api, late)] == [[RUNNING, STOPPED]] * 3
    assert [own_host.last(t) for t in (web, api, late)] == [(STOPPED, 0, ""), (STOPPED, 137, ""), (STOPPED, 0, "")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "killed"])
def test_a_restart_without_live_restore_is_reported_truthfully(daemon, own_host, eventually, number):
    """The daemon ends its containers; each is STOPPED with what Docker says of its exit, and nothing runs on."""
    own_host.start(direct=True)
    web, api = own_host.task("web", PATIENT), own_host.task("api", PATIENT)
    own_host.run(web, api)
    eventually(lambda: own_host.known(web, api) == [RUNNING] * 2, seconds=20)
    daemon.stop(number)
    time.sleep(0.3)
    daemon.start()
    eventually(lambda: own_host.known(web, api) == [STOPPED] * 2, seconds=20)
    for task in (web, api):
        id_ = own_host.container(task).docker_id
        code, state = own_host.docker("inspect", "-f", "{{.State.ExitCode}} {{.State.Status}}", id_).split()
        assert state == "exited"
        assert own_host.last(task) == (STOPPED, int(code), "")
        assert own_host.reports(task) == [RUNNING, STOPPED]
