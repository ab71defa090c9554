#!/usr/bin/env python3
"""Run a command in a guest with the distribution's own kernel: cgroup v2, sch_prio, sch_netem, AppArmor.

    tests/vm/guest.py [--docker cgroupfs|systemd] [--systemd] [--apparmor] [--minutes N] [--out FOLDER] COMMAND...

The guest is Debian's User Mode Linux: the kernel as a process of this machine, which needs no virtualization, no rights
and no installation; its package is unpacked under build/vm. The guest sees this machine's files as they are, the
repository and its .venv among them; what it writes goes to memory and is gone with it, except /out, which is FOLDER.
It has one processor, loopback and no other network. Commands run nearly as fast as outside, system calls and new
processes some ten to thirty times slower; tests wait longer accordingly (TEST_PATIENCE).

Ends with the exit status of the command, with 124 after the time limit, with 125 when the guest itself failed.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
BUILD = REPOSITORY / "build/vm"
KERNEL_PACKAGE = "user-mode-linux"
MEMORY_MIB, DISK_GIB = 3072, 8
PATIENCE = 10  # times as long as elsewhere do tests wait for what should happen
TIMED_OUT, FAILED = 124, 125
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
PROGRAMS = {"busybox": "busybox-static", "mke2fs": "e2fsprogs", "dpkg-deb": "dpkg", "apt-get": "apt"}


class Missing(Exception):
    """Something that the guest is made of is not to be had here; the text says what and how to get it."""


def run(*command: object, cwd: Path | None = None) -> str:
    """The output of a command. Raises Missing with its words when it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})
    if done.returncode:
        hint = "; apt-get update may help" if words[0] == "apt-get" else ""
        raise Missing(f"`{shlex.join(words)}` failed{hint}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def check_programs() -> None:
    """Raises Missing naming every package that is not installed."""
    if platform.machine() != "x86_64":
        raise Missing(f"the guest is an x86-64 machine, this one is {platform.machine()}")
    if os.geteuid() != 0:
        raise Missing("the guest reads this machine's files, and its root must be root outside: run it as root")
    missing = {package for program, package in PROGRAMS.items() if find(program) is None}
    if missing:
        raise Missing(f"needs the packages {' '.join(sorted(missing))}: apt-get install {' '.join(sorted(missing))}")


def find(program: str) -> str | None:
    """Where a program is; those for the administrator are not always on PATH."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def unpacked(package: str) -> Path:
    """The folder with the files of a package; fetched when it is not there."""
    folder = BUILD / package
    if not folder.exists():
        print(f"guest: fetching {package}", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
            run("apt-get", "download", package, cwd=Path(scratch))
            (archive,) = Path(scratch).glob("*.deb")
            run("dpkg-deb", "-x", archive, Path(scratch) / "files")
            (Path(scratch) / "files").rename(folder)
    return folder


def kernel() -> tuple[Path, Path]:
    """The kernel and the folder of its modules."""
    folder = unpacked(KERNEL_PACKAGE)
    (modules,) = (folder / "usr/lib/uml/modules").iterdir()
    if not (modules / "modules.alias").exists():
        if not (folder / "lib").exists():
            (folder / "lib").mkdir()
            (folder / "lib/modules").symlink_to("../usr/lib/uml/modules")
        run(find("busybox"), "depmod", "-b", folder, modules.name)
    return folder / "usr/bin/linux.uml", modules


def adopt_orphans() -> None:
    """What the guest leaves behind becomes a child of this process, so that it can be waited for."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def boot(arguments: argparse.Namespace, out: Path, scratch: Path) -> int:
    """Run one guest; its exit status."""
    image, modules = kernel()
    settings = {
        "VM_TESTS": HERE,
        "VM_REPOSITORY": REPOSITORY,
        "VM_MODULES": modules,
        "VM_SYSTEMD": "yes" if arguments.systemd else "",
        "VM_DOCKER": arguments.docker,
        "VM_APPARMOR": unpacked("apparmor") if arguments.apparmor else "",
    }
    lines = [f"{name}={shlex.quote(str(value))}\n" for name, value in settings.items()]
    (out / "settings").write_text("".join(lines))
    environment = f"export TERM=dumb TEST_PATIENCE={PATIENCE}; unset AWS_CA_BUNDLE"
    (out / "words").write_text(f"{environment}\nexec {shlex.join(arguments.command)}\n")
    (out / "status").unlink(missing_ok=True)
    disk = scratch / "disk"
    with open(disk, "wb") as file:
        file.truncate(DISK_GIB << 30)
    run(find("mke2fs"), "-q", "-t", "ext4", "-E", "lazy_itable_init=1", disk)
    terminal = os.dup(sys.stdout.fileno())
    command = [
        str(image), f"mem={MEMORY_MIB}M", "rootfstype=hostfs", "rootflags=/", "ro", f"init={HERE}/first-boot",
        f"VM_OUT={out}", f"ubd0={disk}", f"uml_dir={scratch}", "con0=null", f"con1=null,fd:{terminal}", "con=null",
        "ssl=null", "panic=-1", "selinux=0", *(["apparmor=1", "security=apparmor"] if arguments.apparmor else []),
    ]  # fmt: skip
    adopt_orphans()
    with open(out / "console.log", "wb") as console:
        guest = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                                 pass_fds=[terminal], start_new_session=True)  # fmt: skip
        try:
            guest.wait(arguments.minutes * 60)
        except subprocess.TimeoutExpired:
            print(f"guest: ended after {arguments.minutes} minutes, which is its limit", file=sys.stderr)
            return TIMED_OUT
        finally:
            if guest.poll() is None:
                os.killpg(guest.pid, signal.SIGKILL)
                guest.wait()
            with suppress(ChildProcessError):  # each process of the guest was one here, too
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    try:
        return int((out / "status").read_text())
    except (OSError, ValueError):
        tail = (out / "console.log").read_text(errors="replace").splitlines()[-30:]
        print("guest: ended without a status; its console's last lines:", *tail, sep="\n", file=sys.stderr)
        return FAILED


def main() -> int:
    """Read the arguments and run the guest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--docker", choices=["cgroupfs", "systemd"], default="", help="start an engine, this driver")
    parser.add_argument("--systemd", action="store_true", help="systemd is the guest's process 1")
    parser.add_argument("--apparmor", action="store_true", help="AppArmor is the guest's security module")
    parser.add_argument("--minutes", type=float, default=15.0, help="the time limit")
    parser.add_argument("--out", type=Path, help="a folder that the guest sees as /out")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    try:
        check_programs()
        BUILD.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="guest-", dir=BUILD) as scratch:
            out = arguments.out or Path(scratch) / "out"
            out.mkdir(parents=True, exist_ok=True)
            return boot(arguments, out.resolve(), Path(scratch))
    except Missing as missing:
        print(f"guest: cannot be made here: {missing}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
