"""A Docker Engine of a test's own: what the test does to it, or makes it remember, is not the machine's affair.

The daemon has its own network namespace, and data, state and socket in the test's directory; its containers have no
network. With `plugins` it also has a mount namespace in which that directory lies where Docker looks for plugins.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil

WITH_PLUGINS = 'mkdir -p /run/docker/plugins && mount --bind "$0" /run/docker/plugins && exec "$@"'


class Daemon:
    """`dockerd` in a directory of its own; `restart` keeps the data."""

    def __init__(self, directory: Path, plugins: Path | None = None) -> None:
        self.directory, self.address = directory, f"unix://{directory}/docker.sock"
        # In a network namespace of its own: a daemon without a bridge removes docker0 where it finds one.
        self.inside = ["unshare", "--net"]
        if plugins:  # mounts made on the machine's shared mounts are seen inside, never the other way round
            self.inside += ["--mount", "--propagation", "slave", "sh", "-c", WITH_PLUGINS, str(plugins)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        """Start it and wait until it answers."""
        words = [
            *self.inside, "dockerd", "--host", self.address,
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
