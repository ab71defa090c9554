#!/usr/bin/env python3
"""Make a minimal Debian 12 with systemd in the directory given, unless it is there: `debian_tree.py DIRECTORY`.

It comes from the archive that this machine's apt uses. docker.service stands for the Docker of the host.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

SUITE = "bookworm"
INCLUDE = "systemd,systemd-sysv,dbus,ca-certificates"
# Nothing may start while packages are installed without a running systemd: what every image builder has.
POLICY = "#!/bin/sh\nexit 101\n"
DOCKER_UNIT = (
    "[Unit]\nDescription=stands for the Docker Engine of the host\n"
    "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"
)


def archive() -> str:
    """The address of the Debian archive in this machine's sources. Ends the program when there is none."""
    for path in [*Path("/etc/apt").glob("sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        for stanza in path.read_text().split("\n\n"):
            fields = dict(re.findall(r"^([\w-]+):\s*(.*)$", stanza, re.M))
            if SUITE in fields.get("Suites", "").split():
                return fields["URIs"].split()[0]
            one_line = re.search(rf"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+{SUITE}\s", stanza, re.M)
            if one_line:
                return one_line[1]
    sys.exit(f"apt of this machine has no archive of Debian {SUITE}")


def main(target: Path) -> None:
    """Make the tree beside its place, then rename it: a tree that is there is whole."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    command = ["debootstrap", "--variant=minbase", f"--include={INCLUDE}", SUITE, str(fresh), archive()]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"debootstrap ended with {done.returncode}:\n{done.stdout[-4000:]}")
    units = fresh / "etc/systemd/system"
    (units / "docker.service").write_text(DOCKER_UNIT)
    for name in ("docker.socket", "containerd.service"):
        (units / name).symlink_to("/dev/null")
    policy = fresh / "usr/sbin/policy-rc.d"
    policy.write_text(POLICY)
    policy.chmod(0o755)
    fresh.rename(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
