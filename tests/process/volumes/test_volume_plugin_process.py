"""The volume plugin as a process: on its real paths in a mount namespace of its own, and with the real Docker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from docker import APIClient

from tests.fakes import images
from tests.fakes.dockerd import Daemon

ROOT = Path(__file__).resolve().parents[3]
PRIVATE = (  # directories of its own over the machine's; the first argument is the data directory
    "for path in /run /var/log /var/lib; do mount -t tmpfs none $path || exit 99; done; "
    'mkdir -p /var/lib/ecs/data && mount --bind "$0" /var/lib/ecs/data || exit 98; exec "$@"'
)
SERVE = """
import sys
from pathlib import Path
from common.tree.linelog import open_log
from services.volumes.plugin import Plugin
from services.volumes.server import Server, listen
from services.volumes.state import StateFile
root, path, mounts = map(Path, sys.argv[1:])
log = open_log("test", str(root / "plugin.log"))
plugin = Plugin(StateFile(root / "state.json"), log, directory=mounts)
plugin.load()
with Server(plugin, listen(path), log) as server:
    server.serve_forever()
"""


def environment(**extra: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **extra}


def ask(path: Path, what: str, body: str, method: str = "POST") -> tuple[int, str]:
    """One request over the socket; status and body."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect(str(path))
        head = f"{method} {what} HTTP/1.1\r\nHost: plugin\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall((head + body).encode())
        data = b""
        while chunk := client.recv(65536):
            data += chunk
    head, _, rest = data.decode().partition("\r\n\r\n")
    return int(head.split()[1]), rest


@pytest.fixture
def plugin(tmp_path, eventually):
    """The plugin on sockets and files of the test's own; `start()` again for another incarnation."""
    path = tmp_path / "p.sock"
    running: list[subprocess.Popen[bytes]] = []

    def start(mounts: str = "", **extra: str) -> Path:
        if running:
            running[-1].kill()
            running[-1].wait(10)
        command = [sys.executable, "-c", SERVE, str(tmp_path), str(path), mounts or str(tmp_path / "volumes")]
        running.append(subprocess.Popen(command, env=environment(**extra)))

        def answers() -> bool:
            try:
                return ask(path, "/Plugin.Activate", "")[0] == 200
            except OSError:
                return False

        eventually(answers, seconds=10)
        return path

    yield start
    for process in running:
        process.kill()
        process.wait(10)


@pytest.mark.netns
def test_the_program_uses_the_documented_paths_and_modes(tmp_path, eventually):
    """Socket 0660 in the place where Docker looks, state and log where the reference has them, state kept over kill."""
    data = tmp_path / "data"
    data.mkdir()
    command = ["unshare", "-m", "sh", "-c", PRIVATE, str(data), sys.executable, "-m", "services.volumes"]
    process = subprocess.Popen(command, env=environment(), cwd="/", stderr=subprocess.DEVNULL)
    inside = Path(f"/proc/{process.pid}/root")
    path = inside / "run/docker/plugins/amazon-ecs-volume-plugin.sock"
    try:
        eventually(lambda: path.exists() and ask(path, "/Plugin.Activate", "")[0] == 200, seconds=15, pause=0.1)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        created = ask(path, "/VolumeDriver.Create", '{"Name":"v","Opts":{"type":"efs","device":"fs-1:/"}}', "PUT")
        assert created == (200, "{}\n")
        assert json.loads((data / "ecs_volume_plugin.json").read_text())["volumes"]["v"]["path"] == (
            "/var/lib/ecs/volumes/v"
        )
        assert (inside / "var/lib/ecs/volumes/v").is_dir()
        log = (inside / "var/log/ecs/ecs-volume-plugin.log").read_text()
        assert log.startswith("level=info time=") and 'msg="created volume v (efs) at /var/lib/ecs/volumes/v"\n' in log
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.netns
def test_a_broken_state_file_ends_the_program_with_1(tmp_path):
    """Case 73: systemd tries again until somebody repairs it; the file is not touched."""
    (tmp_path / "ecs_volume_plugin.json").write_text('{"junk"}')
    command = ["unshare", "-m", "sh", "-c", PRIVATE, str(tmp_path), sys.executable, "-m", "services.volumes"]
    done = subprocess.run(command, env=environment(), cwd="/", capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "/var/lib/ecs/data/ecs_volume_plugin.json cannot be used" in done.stderr
    assert (tmp_path / "ecs_volume_plugin.json").read_text() == '{"junk"}'


def test_a_client_may_keep_its_connection_and_send_chunks(plugin):
    """Go's HTTP client does both."""
    path = plugin()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect(str(path))
        for _ in range(2):
            client.sendall(
                b"POST /VolumeDriver.Get HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n"
                b'5\r\n{"Nam\r\n8\r\ne":"xy"}\r\n0\r\n\r\n'
            )
            answer = b""
            while b"not found" not in answer:
                answer += client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 500 ") and b"vnd.docker.plugins.v1.1+json" in answer


def test_a_process_that_mount_leaves_behind_does_not_hold_the_answer(plugin, tmp_path):
    """efs-utils leaves a TLS tunnel running, which keeps what it inherited open; it also outlives the plugin."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "mount").write_text(f"#!/bin/sh\nsleep 30 & echo $! >{tmp_path}/tunnel\n")
    (tools / "mount").chmod(0o755)
    path = plugin(PATH=f"{tools}:{os.environ['PATH']}")
    ask(path, "/VolumeDriver.Create", '{"Name":"v","Opts":{"device":"d"}}')
    began = time.monotonic()
    try:
        assert ask(path, "/VolumeDriver.Mount", '{"Name":"v","ID":"a"}')[0] == 200
        assert time.monotonic() - began < 5
    finally:
        os.kill(int((tmp_path / "tunnel").read_text()), signal.SIGKILL)


@pytest.fixture
def own_docker():
    """A Docker Engine that finds plugins in a directory of the test's; both, where mounts made here are seen there.

    Docker asks every plugin that it ever knew about a volume that it does not find, a dead one for 15 s: the machine's
    own Docker must not come to know the plugin of a test.
    """
    directory = Path(tempfile.mkdtemp(prefix="ecs-dockerd-"))
    subprocess.run(["mount", "--bind", directory, directory], check=True)
    subprocess.run(["mount", "--make-shared", directory], check=True)
    (directory / "plugins").mkdir()
    (directory / "mounts").mkdir()
    daemon = Daemon(directory, directory / "plugins")
    daemon.start()
    yield daemon
    daemon.clean()
    subprocess.run(["umount", "-l", directory], check=False)  # when `clean` has left it
    shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.docker
@pytest.mark.netns
def test_docker_mounts_a_volume_for_a_container_and_unmounts_it(plugin, own_docker, tmp_path, eventually):
    """The whole way: docker volume create, a container that writes, plugin killed in between, container removed."""
    tools, share, mounts = tmp_path / "bin", tmp_path / "share", own_docker.directory / "mounts"
    tools.mkdir()
    share.mkdir()
    (tools / "mount").write_text('#!/bin/sh\nfor last; do :; done\nexec /bin/mount --bind "$3" "$last"\n')
    (tools / "mount").chmod(0o755)
    path = plugin(str(mounts), PATH=f"{tools}:{os.environ['PATH']}")
    (own_docker.directory / "plugins/efs.sock").symlink_to(path)
    client = APIClient(own_docker.address, version="auto", timeout=60)
    client.import_image_from_data(images.archive(), repository="own", tag="1")
    client.create_volume("data", driver="efs", driver_opts={"type": "efs", "device": str(share)})
    config = client.create_host_config(binds=["data:/data"], network_mode="none")
    command = ["sh", "-c", "echo written >/data/file; sleep 60"]
    made = client.create_container("own:1", command, host_config=config)["Id"]
    client.start(made)
    eventually(lambda: (share / "file").exists() and (share / "file").read_text() == "written\n")
    state = json.loads((tmp_path / "state.json").read_text())["volumes"]["data"]
    assert list(state["mounts"].values()) == [1]
    plugin(str(mounts), PATH=f"{tools}:{os.environ['PATH']}")
    client.remove_container(made, force=True)
    eventually(lambda: "mounts" not in json.loads((tmp_path / "state.json").read_text())["volumes"]["data"])
    assert f"{mounts}/data" not in Path("/proc/self/mountinfo").read_text()
    client.remove_volume("data")
    assert (tmp_path / "state.json").read_bytes() == b"{}"
    assert (share / "file").read_text() == "written\n"
