#!/usr/bin/env python3
"""Take the files of cgroup v2 of a loaded container, and what Docker says of it at the same moment, as test data.

    tests/vm/guest.py --docker cgroupfs --out FOLDER .venv/bin/python tests/vm/capture.py /out/data

The container writes to its disk, uses memory up to its limit, is throttled, and talks over its network. Then it is
paused: what stands still can be read twice, and files and answer are of one moment. The result is a folder for each
container with the files as they are, and one object of Docker's; tests/unit/telemetry compares them.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import docker

WORK = """
dd if=/dev/zero of=/written bs=1M count=24 conv=fsync 2>/dev/null; cat /written >/dev/null
i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done
nc -w 1 172.17.0.1 9 </dev/null; ping -c 3 172.17.0.1 >/dev/null
dd if=/dev/zero of=/dev/null bs=12M count=20 2>/dev/null; sleep 2
exec sleep 3600
"""
LIMITS: dict[str, dict[str, Any]] = {
    "limited": {"mem_limit": "32m", "pids_limit": 50, "cpu_period": 10000, "cpu_quota": 2000},
    "free": {},
}
NAMES = ("cgroup.controllers", "cpu.stat", "io.stat", "memory.current", "memory.events", "memory.max", "memory.stat",
         "pids.current", "pids.max")  # fmt: skip
IMAGE = "capture/busybox:1"


def image(client: docker.APIClient) -> None:
    """Nothing but busybox."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.add(str(shutil.which("busybox")), "bin/busybox")
        for name in ("sh", "sleep", "dd", "nc", "ping", "cat"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    client.import_image_from_data(data.getvalue(), repository=IMAGE.split(":")[0], tag="1")


def files(pid: int) -> dict[str, str]:
    """The files of the container's cgroup, and those of the process that count."""
    path = Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::")
    folder = Path(f"/sys/fs/cgroup{path}")
    found = {name: (folder / name).read_text() for name in NAMES}
    stat = [line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("cpu")]
    return found | {
        "proc.cgroup": f"0::{path}\n",
        "proc.net.dev": Path(f"/proc/{pid}/net/dev").read_text(),
        "proc.meminfo": Path("/proc/meminfo").read_text().splitlines()[0] + "\n",
        "proc.stat": "\n".join(stat) + "\n",
    }


def still(found: dict[str, str]) -> dict[str, str]:
    """What does not move while the container stands still."""
    return {name: text for name, text in found.items() if name != "proc.stat"}


def capture(client: docker.APIClient, name: str, out: Path) -> None:
    """One container."""
    config = client.create_host_config(**LIMITS[name])
    made = client.create_container(IMAGE, ["sh", "-c", WORK], host_config=config)
    client.start(made["Id"])
    pid = client.inspect_container(made["Id"])["State"]["Pid"]
    while b"3600" not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
        time.sleep(0.5)
    client.pause(made["Id"])
    while True:
        before = files(pid)
        stats = client.stats(made["Id"], stream=False)
        if still(files(pid)) == still(before):
            break
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in before.items():
        (folder / file).write_text(text)
    (folder / "docker-stats.json").write_text(json.dumps(stats, indent=1) + "\n")
    client.unpause(made["Id"])
    client.remove_container(made["Id"], force=True)


def main() -> None:
    """Take both containers."""
    client = docker.APIClient(version="1.40", timeout=120)
    image(client)
    for name in LIMITS:
        capture(client, name, Path(sys.argv[1]))


main()
