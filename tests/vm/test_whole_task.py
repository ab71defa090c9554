"""Tasks through the whole agent on a host with cgroup v2, and with AppArmor where it enforces (`make test-vm`)."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE
from tests.system.test_make_run import read_until, start

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120 * PATIENCE)]
CGROUPS = Path("/sys/fs/cgroup")
APPARMOR = Path("/sys/module/apparmor/parameters/enabled")
APP = {
    "name": "app",
    "image": "ecs-local/busybox:1",
    "essential": True,
    "cpu": 128,
    "memory": 32,
    "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait"],
    "stopTimeout": 5,
}
LIMITED = {"family": "limited", "networkMode": "bridge", "cpu": "256", "memory": "64", "containerDefinitions": [APP]}


def docker(*words: str) -> str:
    """What the docker command prints."""
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def running(definition: dict[str, Any], folder: Path) -> Iterator[str]:
    """The task while it runs; yields its id."""
    path = folder / "task.json"
    path.write_text(json.dumps(definition))
    demo = start(path, folder / "state", 51670)
    try:
        said = read_until(demo, r"Ctrl-C stops")
        (id_,) = set(re.findall(r":task/default/([0-9a-f]{32})", said))
        yield id_
    finally:
        demo.send_signal(signal.SIGINT)
        rest = demo.stdout.read() if demo.stdout else ""
        status = demo.wait(60 * PATIENCE)
    assert status == 0, rest


@pytest.mark.skipif(not (CGROUPS / "cgroup.controllers").exists(), reason="needs cgroup v2")
def test_the_limits_of_a_task_are_in_the_kernel_and_hold_its_containers(tmp_path):
    """A quarter of a processor and 64 MiB for the task, its container below."""
    with running(LIMITED, tmp_path) as id_:
        slice_ = CGROUPS / f"ecstasks.slice/ecstasks-{id_}.slice"
        values = {name: (slice_ / name).read_text().strip() for name in ("cpu.max", "memory.max")}
        assert values == {"cpu.max": "25000 100000", "memory.max": str(64 << 20)}
        (container,) = (path.parent for path in slice_.glob("*/cgroup.procs"))
        assert (container / "memory.max").read_text().strip() == str(32 << 20)
        docker_id = re.sub(r"^docker-|\.scope$", "", container.name)
        label = docker("inspect", "-f", '{{index .Config.Labels "com.amazonaws.ecs.task-arn"}}', docker_id)
        assert label.endswith(f"/{id_}")
    slice_.rmdir()  # refused while anything is left in it


@pytest.mark.skipif(not APPARMOR.exists() or APPARMOR.read_text() != "Y\n", reason="needs AppArmor")
def test_apparmor_confines_the_containers_as_asked_and_denies_the_agent_nothing(tmp_path):
    """Docker's own profile, or the one of dockerSecurityOptions; nothing of it in the way of the agent itself."""
    free = APP | {"name": "free", "dockerSecurityOptions": ["apparmor:unconfined"]}
    with running(LIMITED | {"memory": "96", "containerDefinitions": [APP, free]}, tmp_path):
        found = {}
        shown = '{{index .Config.Labels "com.amazonaws.ecs.container-name"}} {{.State.Pid}}'
        for docker_id in docker("ps", "-q", "--filter", "label=com.amazonaws.ecs.task-arn").split():
            name, pid = docker("inspect", "-f", shown, docker_id).split()
            found[name] = Path(f"/proc/{pid}/attr/current").read_text().strip()
        assert found == {"app": "docker-default (enforce)", "free": "unconfined"}
    assert 'apparmor="DENIED"' not in subprocess.run(["dmesg"], capture_output=True, text=True).stdout
