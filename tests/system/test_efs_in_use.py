"""A task with an EFS volume, while the services that brought it are stopped or restarted.

The plugin is the real one under its real name; only its `mount` is another, which binds a directory of the test's and
leaves a process behind, as the helper of EFS does with its TLS tunnel. `umount` is the system's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.conftest import container, containers_of, wait_connected

pytestmark = [pytest.mark.docker, pytest.mark.netns, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
PLACE = Path("/run/docker/plugins/amazon-ecs-volume-plugin.sock")
MOUNT = """#!/bin/sh
for last; do :; done
echo "$@" >>{share}/../mounted
sleep 300 &
echo $! >{share}/../tunnel
exec /bin/mount --bind {share} "$last"
"""
PLUGIN = """
import sys
from pathlib import Path
from common.tree.linelog import open_log
from services.volumes.plugin import Plugin
from services.volumes.server import Server, listen
from services.volumes.state import StateFile
root = Path(sys.argv[1])
log = open_log("test", str(root / "plugin.log"))
plugin = Plugin(StateFile(root / "state.json"), log, directory=root / "volumes")
plugin.load()
with Server(plugin, listen(root / "p.sock"), log) as server:
    server.serve_forever()
"""
COUNT = ["sh", "-c", "trap 'exit 0' TERM; n=0; while :; do n=$((n+1)); echo $n >/data/count; sleep 0.1; done"]


class Plugin:
    """The volume plugin as a service of its own, on Docker's path for it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.share, self.tools = directory, directory / "share", directory / "bin"
        for folder in (self.share, self.tools):
            folder.mkdir()
        (self.tools / "mount").write_text(MOUNT.format(share=self.share))
        (self.tools / "mount").chmod(0o755)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {"PATH": f"{self.tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen([sys.executable, "-c", PLUGIN, str(self.directory)], env=environment)

    def stop(self) -> None:
        """As systemd stops the unit: SIGTERM to the main process only (KillMode=process)."""
        assert self.process
        self.process.terminate()
        assert self.process.wait(10) == -signal.SIGTERM

    def counted(self) -> int:
        """How far the task has counted in its volume."""
        try:
            return int((self.share / "count").read_text() or 0)
        except (FileNotFoundError, ValueError):
            return 0

    def tunnel(self) -> int:
        return int((self.directory / "tunnel").read_text())

    def mounts(self) -> list[str]:
        """What is mounted below the plugin's directory."""
        table = Path("/proc/self/mountinfo").read_text().splitlines()
        return [line.split()[4] for line in table if line.split()[4].startswith(f"{self.directory}/volumes/")]

    def recorded(self) -> list[int]:
        volumes = json.loads((self.directory / "state.json").read_text()).get("volumes", {})
        return [count for volume in volumes.values() for count in volume.get("mounts", {}).values()]


@pytest.fixture
def plugin(tmp_path, engine):
    if PLACE.exists() or PLACE.is_symlink():
        pytest.skip(f"{PLACE} is in use: a plugin is installed on this machine")
    made = Plugin(tmp_path)
    PLACE.parent.mkdir(parents=True, exist_ok=True)
    PLACE.symlink_to(tmp_path / "p.sock")
    made.start()
    yield made
    try:
        for volume in engine.volumes(filters={"driver": PLACE.stem})["Volumes"] or []:
            engine.remove_volume(volume["Name"])
    finally:
        PLACE.unlink()
        made.process.kill()
        made.process.wait(10)
    for path in made.mounts():
        subprocess.run(["umount", "-l", path], check=True)
    if (tmp_path / "tunnel").exists():
        os.kill(made.tunnel(), signal.SIGKILL)


def test_a_volume_in_use_outlives_a_stop_of_the_agent_and_a_restart_of_the_plugin(
    plugin, make_agent, engine, eventually
):
    """spec 10, cases 28 and 29: the task writes on throughout; when it ends later, the volume is still unmounted."""
    agent = make_agent(ECS_VOLUME_PLUGIN_CAPABILITIES='["efsAuth"]')
    wait_connected(agent, eventually)
    volume = {"name": "data", "efsVolumeConfiguration": {"fileSystemId": "fs-0123", "transitEncryption": "ENABLED"}}
    mount_points = [{"sourceVolume": "data", "containerPath": "/data"}]
    (arn,) = agent.run(container(command=COUNT, mountPoints=mount_points), volumes=[volume])
    eventually(plugin.counted, seconds=20)
    assert (plugin.directory / "mounted").read_text().startswith("-t efs -o tls fs-0123 ")

    def goes_on() -> None:
        seen = plugin.counted()
        eventually(lambda: plugin.counted() > seen + 2, seconds=5)
        assert len(plugin.mounts()) == 1 and os.path.exists(f"/proc/{plugin.tunnel()}")

    assert agent.stop() == 0
    goes_on()
    plugin.stop()
    goes_on()
    plugin.start()
    eventually((plugin.directory / "p.sock").is_socket)
    goes_on()
    assert plugin.recorded() == [1]
    (found,) = containers_of(engine, arn)
    engine.stop(found["Id"], timeout=5)
    eventually(lambda: plugin.recorded() == [] and plugin.mounts() == [], seconds=10)
    assert (plugin.share / "count").exists()
    engine.remove_container(found["Id"])
