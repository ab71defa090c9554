"""A machine within the machine, on which EBS volumes are really mounted: see test_task_volumes.py, which starts it.

`unshare --mount --net --pid … volume_machine.py DIRECTORY`: mounts are shared as on a host with systemd, the host's
directories are empty, Docker and the agent are its own. The driver's gRPC side is tests/fakes/csi_driver.py, which
mounts a tmpfs; its container is made from the archive as in production, and holds a program that only sleeps. The steps
of `scene` are the test; what fails raises, and everything ends with this process.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fakes import images
from tests.system.conftest import Agent, wait_connected

ARN = "arn:aws:ecs:us-west-2:123456789012:"
TASK = f"{ARN}task/default/55555555555555555555555555555555"
ATTACHMENT = f"{ARN}attachment/66666666-6666-6666-6666-666666666666"
PATH = "5555_vol-0abc"
PROPERTIES = {
    "volumeId": "vol-0abc", "volumeSizeGib": "20", "deviceName": "/dev/xvdba", "sourceVolumeHostPath": PATH,
    "volumeName": "data", "fileSystem": "xfs",
}  # fmt: skip
EMPTY = ("/var/lib/ecs", "/var/log/ecs", "/mnt", "/run/ecs", "/etc/ecs")
ARCHIVE = Path("/var/lib/ecs/deps/daemons/ebs-csi-driver/ebs-csi-driver.tar")
SOCKETS = Path("/var/run/ecs/ebs-csi-driver")
KILLED = ("redis", "storage", "engine")
DAEMON = "ecs-managed-ebs-csi-driver"
DRIVER, APP = "ebs-csi-driver:latest", "volume-test/app:1"
WRITER = "echo written by $(id -G) > /data/file; trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"


# A privileged container asks for every capability; where the tests run in a container, some of them cannot be given.
RUNTIME = """#!{python} -IS
import json, os, sys
bundle = sys.argv[sys.argv.index("--bundle") + 1] if "--bundle" in sys.argv else ""
if bundle:
    path = os.path.join(bundle, "config.json")
    spec = json.load(open(path))
    (mask,) = (int(line.split()[1], 16) for line in open("/proc/self/status") if line.startswith("CapBnd"))
    names = ["CAP_" + name for name in {names!r}.split()]
    for kind, wanted in spec["process"].get("capabilities", {{}}).items():
        spec["process"]["capabilities"][kind] = [c for c in wanted if c not in names or mask >> names.index(c) & 1]
    json.dump(spec, open(path, "w"))
os.execv({runc!r}, [{runc!r}, *sys.argv[1:]])
"""
CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)  # capabilities(7), in the order of their numbers


def eventually(condition: Callable[[], object], seconds: float = 20.0, pause: float = 0.05) -> Any:
    """The condition's first true value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"line {sys._getframe(1).f_lineno}: it did not hold within {seconds} s")
        time.sleep(pause)
    return value


def shell(*command: str) -> str:
    """Run a command; its output."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


class Machine:
    """Docker, the driver's gRPC side, the agent."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "docker.sock"
        os.environ["DOCKER_HOST"] = f"unix://{self.socket}"
        for path in EMPTY:
            os.makedirs(path, exist_ok=True)
            shell("mount", "-t", "tmpfs", "none", path)
        shell("ip", "link", "set", "lo", "up")
        tools = directory / "tools"
        tools.mkdir()
        devices = {"blockdevices": [{"name": "sda", "serial": None}, {"name": "nvme1n1", "serial": "vol0abc"}]}
        (tools / "lsblk").write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(devices)}\nEND\n")
        (tools / "lsblk").chmod(0o755)
        os.environ["PATH"] = f"{tools}:{os.environ['PATH']}"

    def start_docker(self) -> None:
        """A Docker without bridge and firewall rules; its log is in the directory."""
        at = self.directory
        runtime = at / "tools" / "runc-within-bounds"
        runtime.write_text(RUNTIME.format(python=sys.executable, runc=shutil.which("runc"), names=CAPABILITIES))
        runtime.chmod(0o755)
        options = f"--data-root {at}/docker --exec-root {at}/exec --pidfile {at}/pid --add-runtime bounded={runtime}"
        with open(self.directory / "docker.log", "ab") as log:
            subprocess.Popen(
                ["dockerd", "-H", f"unix://{self.socket}", *options.split(), "--bridge=none", "--iptables=false",
                 "--storage-driver=vfs", "--default-runtime=bounded"],
                stdout=log, stderr=log,
            )  # fmt: skip
        eventually(lambda: subprocess.run(["docker", "version"], capture_output=True).returncode == 0)

    def install_driver(self) -> None:
        """The archive where the operator puts it; Docker does not have the image yet."""
        images.make(APP)
        images.make(DRIVER, "driver", ('ENTRYPOINT ["/bin/sh","-c","exec sleep 3600"]',))
        ARCHIVE.parent.mkdir(parents=True)
        shell("docker", "save", "-o", str(ARCHIVE), DRIVER)
        images.remove(DRIVER)

    def start_driver(self) -> None:
        """What would listen inside the driver's container."""
        fake = Path(__file__).parents[1] / "fakes" / "csi_driver.py"
        (SOCKETS / "behaviour").write_text(json.dumps({"mount": True}))
        subprocess.Popen([sys.executable, str(fake), str(SOCKETS)])

    def calls(self, method: str) -> list[dict[str, Any]]:
        """The requests that the driver got."""
        path = SOCKETS / "calls"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line["request"] for line in lines if line["method"] == method]


class Backend:
    """The EcsLocal calls."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/"

    def __call__(self, name: str, **arguments: Any) -> dict[str, Any]:
        """One call; its answer."""
        data = json.dumps(arguments).encode()
        request = urllib.request.Request(self._url, data=data, headers={"X-Amz-Target": f"EcsLocal.{name}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return dict(json.loads(answer.read() or b"{}"))

    def push(self, type_: str, **message: Any) -> None:
        """Send an ACS message."""
        self("PushAcsMessage", type=type_, message=message, fill=True)

    def reports(self) -> list[dict[str, Any]]:
        """What was submitted."""
        return list(self("ListReports")["reports"])

    def task_status(self) -> str:
        """The task's last report."""
        return next((r["status"] for r in reversed(self.reports()) if r.get("task") == TASK and r.get("status")), "")


def containers(label: str) -> list[dict[str, Any]]:
    """Inspected containers whose container name is `label`."""
    ids = shell("docker", "ps", "-aq", "--filter", f"label=com.amazonaws.ecs.container-name={label}").split()
    return list(json.loads(shell("docker", "inspect", *ids))) if ids else []


def attachment() -> dict[str, Any]:
    """As ECS sends it, in both messages."""
    pairs = [{"name": name, "value": value} for name, value in PROPERTIES.items()]
    return {"attachmentArn": ATTACHMENT, "attachmentType": "amazonebs", "attachmentProperties": pairs}


def payload(desired: str) -> dict[str, Any]:
    """The task: one container that writes into its volume."""
    app = {
        "name": "app", "image": APP, "essential": True, "cpu": 10, "memory": 32, "command": ["sh", "-c", WRITER],
        "mountPoints": [{"sourceVolume": "data", "containerPath": "/data"}],
        "dockerConfig": {"hostConfig": '{"NetworkMode":"none"}'},
    }  # fmt: skip
    return {
        "arn": TASK, "family": "volumes", "version": "1", "desiredStatus": desired, "containers": [app],
        "volumes": [{"name": "data"}], "attachments": [attachment()],
    }  # fmt: skip


def scene(machine: Machine, agent: Agent, backend: Backend) -> None:
    """The whole path, with a kill -9 of nearly everything in the middle."""
    (arn,) = agent.ecs.list_container_instances()["containerInstanceArns"]
    (instance,) = agent.ecs.describe_container_instances(containerInstances=[arn])["containerInstances"]
    assert "ecs.capability.storage.ebs-task-volume-attach" in [a["name"] for a in instance["attributes"]]
    assert "storage" in agent.programs() and containers(DAEMON) == []

    backend.push("ConfirmAttachmentMessage", taskArn=TASK, taskClusterArn=arn, attachment=attachment())
    (driver,) = eventually(lambda: [c for c in containers(DAEMON) if c["State"]["Running"]])
    settings = driver["HostConfig"]
    assert settings["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 0}
    assert (settings["Privileged"], settings["NetworkMode"], driver["Config"]["User"]) == (True, "none", "0")
    shared = [m["Propagation"] for m in driver["Mounts"] if m["Destination"] in ("/mnt/ecs/ebs", "/dev")]
    assert shared == ["shared", "shared"]
    assert backend.reports() == [], "nothing is attached before it is mounted"
    machine.start_driver()
    report = eventually(lambda: next((r for r in backend.reports() if r.get("attachments")), None))
    assert report["attachments"] == [{"attachmentArn": ATTACHMENT, "status": "ATTACHED"}], report
    assert os.path.ismount(f"/mnt/ecs/ebs/{PATH}")
    inside = Path(f"/proc/{driver['State']['Pid']}/mounts").read_text()
    assert f"/mnt/ecs/ebs/{PATH}" in inside, "mounts go both ways between host and driver"

    backend.push("PayloadMessage", tasks=[payload("RUNNING")])
    eventually(lambda: backend.task_status() == "RUNNING")
    (app,) = containers("app")
    assert app["HostConfig"]["Binds"] == [f"/mnt/ecs/ebs/{PATH}:/data"]
    (group,) = app["HostConfig"]["GroupAdd"]
    written = Path(f"/mnt/ecs/ebs/{PATH}/file")
    eventually(lambda: written.exists() and group in written.read_text().split())

    os.kill(driver["State"]["Pid"], signal.SIGKILL)
    eventually(lambda: containers(DAEMON)[0]["RestartCount"] == 1)

    # All that knows of tasks and volumes. Not the session: this backend's manifest would not have a task of ours.
    old = agent.programs()
    for name in KILLED:
        old[name].kill()
    eventually(lambda: all(name in (new := agent.programs()) and new[name].pid != old[name].pid for name in KILLED))
    assert len(containers(DAEMON)) == 1 and os.path.ismount(f"/mnt/ecs/ebs/{PATH}")

    backend.push("PayloadMessage", tasks=[payload("STOPPED")])
    eventually(lambda: backend.task_status() == "STOPPED")
    eventually(lambda: not os.path.exists(f"/mnt/ecs/ebs/{PATH}"))
    assert machine.calls("NodeUnstageVolume") == [
        {"volume_id": "vol-0abc", "staging_target_path": f"/mnt/ecs/ebs/{PATH}"}
    ]
    assert [r["status"] for r in backend.reports() if r.get("task") == TASK] == ["RUNNING", "STOPPED"]
    assert not any("ebs-csi-driver" in str(r) for r in backend.reports()), "the driver is nobody's business"
    assert agent.stop() == 0


def main(directory: Path) -> None:
    """Set the scene, play it, show the agent's log when it fails."""
    machine = Machine(directory)
    machine.start_docker()
    machine.install_driver()
    agent = Agent(directory, {"DOCKER_HOST": f"unix://{machine.socket}"})
    agent.start()
    try:
        wait_connected(agent, eventually)
        scene(machine, agent, Backend(agent.port))
        print("done")
    except BaseException:
        print(agent.text()[-12000:])
        raise
    finally:
        for id_ in shell("docker", "ps", "-aq").split():
            shell("docker", "rm", "-f", id_)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
