"""Small images for tests, made of the host's static busybox: no registry and no network is needed.

Whoever makes an image gives it a name of its own (a random one per test session) and removes it by that name.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile

BUSYBOX = "/bin/busybox"
APPLETS = (
    "sh", "sleep", "true", "false", "echo", "cat", "env", "ls", "kill", "trap", "wget", "nc", "httpd", "test", "touch",
    "mkdir", "date", "head", "tail", "dd", "yes", "printf", "id", "hostname", "ip",
)  # fmt: skip


def archive(marker: str = "") -> bytes:
    """A tar of a root file system with busybox; another `marker` makes another image id."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for directory in ("bin", "tmp", "etc", "proc", "dev", "data"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if directory == "tmp" else 0o755
            tar.addfile(entry)
        tar.add(os.path.realpath(_busybox()), arcname="bin/busybox")
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        note = marker.encode()
        entry = tarfile.TarInfo("etc/marker")
        entry.size = len(note)
        tar.addfile(entry, io.BytesIO(note))
    return buffer.getvalue()


def _busybox() -> str:
    return next(path for path in (BUSYBOX, "/usr/bin/busybox") if os.path.exists(path))


def make(name: str, marker: str = "", changes: tuple[str, ...] = ('CMD ["sleep","3600"]',)) -> str:
    """`docker import` an image under `name`; returns its id. `changes` are Dockerfile lines such as `ENV A=1`."""
    command = ["docker", "import"]
    for change in changes:
        command += ["--change", change]
    done = subprocess.run([*command, "-", name], input=archive(marker), capture_output=True, check=True, timeout=120)
    return done.stdout.decode().strip()


def remove(*names: str) -> None:
    """Remove images by name; those that are gone are no error."""
    if names:
        subprocess.run(["docker", "rmi", "-f", *names], capture_output=True, check=False, timeout=120)
