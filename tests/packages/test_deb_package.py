"""The deb, installed by apt on a Debian 12 and run there by systemd, with this machine's Docker."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.local.tool import dockers

TASK = {
    "family": "packages",
    "containerDefinitions": [
        {
            "name": "main",
            "image": dockers.SAMPLE_IMAGE,
            "cpu": 16,
            "memory": 16,
            "essential": True,
            "entryPoint": ["sh", "-c"],
            "command": ["trap 'exit 0' TERM; while :; do sleep 1; done"],
        }
    ],
}
# Off EC2 the agent would ask for the VPC of its instance for half a minute.
CONFIG = (
    "ECS_LOCAL_CONTROL_PLANE=true\nECS_IMAGE_PULL_BEHAVIOR=prefer-cached\nECS_ENABLE_TASK_CPU_MEM_LIMIT=false\n"
    "AWS_EC2_METADATA_DISABLED=true\n"
)
METADATA = (
    "import urllib.request as r; print(r.urlopen('http://127.0.0.1:51678/v1/metadata', timeout=5).read().decode())"
)
PLUGIN = "amazon-ecs-volume-plugin"


@pytest.fixture(scope="module")
def machine(installed: Path, scratch: Path, copy: Callable[..., Path], machine_of: Callable[..., Any]) -> Iterator[Any]:
    """A booted machine with the package; the tests of this module follow each other on it."""
    docker = dockers.connect()
    dockers.build_sample_image(docker)
    machine = machine_of(copy(installed, scratch / "deb"))
    machine.boot()
    yield machine
    machine.shut_down()
    dockers.remove_containers(docker, TASKS)


TASKS: list[str] = []


def metadata(machine: Any) -> dict[str, Any]:
    """What the introspection endpoint says, or nothing."""
    text = machine.run("/usr/bin/python3", "-c", METADATA, status=None)
    return json.loads(text) if text.startswith("{") else {}


def containers(arn: str) -> list[tuple[str, str]]:
    """Id and start of the running containers of a task."""
    docker = dockers.connect()
    return [
        (c["Id"], docker.inspect_container(c["Id"])["State"]["StartedAt"])
        for c in dockers.containers_of(docker, arn)
        if c["State"] == "running"
    ]


def ready(machine: Any, until: Callable[..., Any]) -> dict[str, Any]:
    """Wait for the agent: registered and connected."""

    def connected() -> dict[str, Any]:
        answer = metadata(machine)
        health = machine.run("ecs-agent", "healthcheck", status=None)
        return answer if answer.get("ContainerInstanceArn") and "not ready" not in health else {}

    result: dict[str, Any] = until(connected, 60, "the agent is registered")
    return result


def test_an_installation_enables_and_starts_nothing(machine):
    """Users start the service when they have configured it; images are made without running it."""
    for unit in ("ecs.service", f"{PLUGIN}.service"):
        assert machine.run("systemctl", "is-enabled", unit, status=1).strip() == "disabled"
        assert machine.run("systemctl", "is-active", unit, status=3).strip() == "inactive"
    listeners = machine.host("ss", "-Hltn")
    assert listeners == "", "a dependency opened a port"


def test_systemd_accepts_the_units(machine):
    """Names, values and relations of the installed units; the programs that they name are there."""
    listed = machine.run("systemctl", "list-unit-files", "*ecs*", "--no-legend")
    units = sorted(line.split()[0] for line in listed.splitlines())
    assert units == [f"{PLUGIN}.service", "ecs.service"]
    said = machine.run("systemd-analyze", "verify", "--man=no", *units)
    assert [line for line in said.splitlines() if "ecs" in line] == []


def test_files_have_their_places_and_modes(machine):
    """Root owns everything; nobody else writes; the agent's state is root's alone; there is no configuration file."""
    for path, mode in {
        "/etc/ecs": "755", "/var/lib/ecs": "755", "/var/lib/ecs/data": "700", "/var/log/ecs": "755",
        "/usr/libexec/amazon-ecs-init": "755", f"/usr/libexec/{PLUGIN}": "755", "/usr/bin/ecs-agent": "755",
        "/usr/sbin/ecs-supervisorctl": "755", "/usr/lib/ecs-init/supervisord.conf": "644",
        "/usr/lib/systemd/system/ecs.service": "644", "/usr/share/ecs-init/images/amazon-ecs-pause.tar": "644",
    }.items():  # fmt: skip
        assert machine.run("stat", "-c", "%a %U:%G", path).split() == [mode, "root:root"], path
    assert not (machine.tree / "etc/ecs/ecs.config").exists()
    assert machine.run("find", "/usr/lib/ecs-init", "-perm", "/022", "!", "-type", "l") == ""
    assert machine.run("find", "/usr/lib/ecs-init", "!", "-user", "root") == ""


def test_commands_answer_before_the_service_runs(machine):
    """Version, licences and manual pages of the installed files."""
    assert machine.run("/usr/libexec/amazon-ecs-init", "version").startswith("ecs-init version 1.")
    version = machine.run("dpkg-query", "-W", "-f", "${Version}", "ecs-init").split("-")[0]
    assert f"Version: {version}\n" in machine.run("ecs-agent", "-version")
    licences = machine.run("ecs-agent", "-license")
    assert "Apache License" in licences and "gevent" in licences
    materials = json.loads((machine.tree / "usr/share/ecs-init/sbom.cdx.json").read_text())
    assert "pkg:pypi/gevent@" in json.dumps(materials) and materials["metadata"]["component"]["version"] == version
    assert all(f"{part['name']} {part['version']}" in licences for part in materials["components"])
    for page in ("man1/amazon-ecs-init.1", "man1/ecs-agent.1", "man5/ecs.config.5", "man8/ecs-supervisorctl.8"):
        assert (machine.tree / f"usr/share/man/{page}.gz").is_file()


def test_every_client_of_aws_can_be_made(machine):
    """The service models that the package keeps are those that the code and its credential providers use."""
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if p]\n"
        "import boto3\n"
        "for name in ('ecs', 'ecr', 'ssm', 'secretsmanager', 's3', 'sts', 'ec2', 'sso', 'sso-oidc'):\n"
        "    boto3.client(name, region_name='us-west-2')\n"
        "import requests.certs; open(requests.certs.where()).read(); print(requests.certs.where())\n"
    )
    where = machine.run("/usr/lib/ecs-init/venv/bin/python", "-IB", "-c", code).strip()
    assert (machine.tree / where.lstrip("/")).resolve().name == "ca-certificates.crt"


def test_the_service_runs_a_task_from_the_installed_files(machine, until):
    """The whole way: systemd, the process tree, the local control plane, Docker. All under the unit's hardening."""
    machine.write("/etc/ecs/ecs.config", CONFIG + "PYTHONPATH=/tmp/evil\n")
    (machine.tree / "root/task.json").write_text(json.dumps(TASK))
    machine.run("mkdir", "-p", "/tmp/evil")
    machine.run("sh", "-c", "echo 'raise SystemExit(9)' > /tmp/evil/msgspec.py")
    machine.run("systemctl", "enable", "--now", "ecs", f"{PLUGIN}")
    ready(machine, until)
    assert machine.run("systemctl", "is-active", "docker").strip() == "active", "ecs starts Docker first"
    out = machine.run("ecs-local", "run", "--no-follow", "/root/task.json")
    TASKS.extend(re.findall(r"arn:\S+:task/\S+", out))
    until(lambda: containers(TASKS[0]), 30, "the task runs")
    until(lambda: "RUNNING" in machine.run("ecs-local", "ps"), 20, "the control plane heard of it")


def test_the_hardening_is_in_force(machine):
    """What the unit says is what the kernel applies to the engine, which has just run a task."""
    pids = machine.run("systemctl", "show", "--value", "-p", "MainPID", "ecs").split()
    pids += re.findall(r"engine +RUNNING +pid (\d+)", machine.run("ecs-supervisorctl", "status"))
    assert len(pids) == 2
    for pid in pids:
        status = dict(line.split(":\t", 1) for line in machine.run("cat", f"/proc/{pid}/status").splitlines())
        assert status["NoNewPrivs"].strip() == "1" and status["Seccomp"].strip() == "2"
        bounding = int(status["CapBnd"], 16)
        assert bounding & 1 << 12 and bounding & 1 << 21, "CAP_NET_ADMIN and CAP_SYS_ADMIN are needed"
        assert not bounding & (1 << 25 | 1 << 22 | 1 << 17), "no CAP_SYS_TIME, CAP_SYS_BOOT, CAP_SYS_RAWIO"
        assert machine.run("readlink", f"/proc/{pid}/ns/mnt") == machine.run("readlink", "/proc/1/ns/mnt")
    plugin = machine.run("systemctl", "show", "--value", "-p", "MainPID", PLUGIN).strip()
    assert machine.run("readlink", f"/proc/{plugin}/ns/mnt") == machine.run("readlink", "/proc/1/ns/mnt")


def test_only_the_documented_ports_are_open(machine):
    """51679 on loopback, 51678, and the local control plane that this machine asked for; no Redis, no supervisor."""
    addresses = sorted(line.split()[3] for line in machine.host("ss", "-Hltn").splitlines())
    assert {a.rsplit(":", 1)[1] for a in addresses} == {"51670", "51678", "51679"}
    assert all(a.startswith("127.0.0.1:") for a in addresses if not a.endswith(":51678"))


def test_each_program_is_shown_and_restarted_alone(machine, until):
    """The operator's interface; the task goes on."""
    before = containers(TASKS[0])
    main = machine.show("ecs", "MainPID")
    machine.run("ecs-supervisorctl", "restart", "engine")

    def all_run() -> bool:
        lines = machine.run("ecs-supervisorctl", "status", status=None).splitlines()
        return len(lines) >= 9 and all(" RUNNING " in line for line in lines)

    until(all_run, 30, "all programs run")
    assert containers(TASKS[0]) == before and machine.show("ecs", "MainPID") == main


def test_docker_speaks_to_the_plugin_through_its_socket(machine, until):
    """The plugin made it, for root alone, and answers on it."""
    code = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.settimeout(5);"
        f"s.connect('/run/docker/plugins/{PLUGIN}.sock');"
        "s.sendall(b'POST /Plugin.Activate HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 0\\r\\n');"
        "s.sendall(b'Connection: close\\r\\n\\r\\n');"
        "print(s.makefile().read())"
    )
    assert "VolumeDriver" in machine.run("/usr/bin/python3", "-c", code)
    assert machine.run("stat", "-c", "%a %U:%G", f"/run/docker/plugins/{PLUGIN}.sock").split() == ["660", "root:root"]


def test_an_upgrade_keeps_the_task_and_restarts_the_service_once(machine, newer_deb, until):
    """Same container, same start; new processes, same container instance; configuration and enablement as before."""
    before, instance = containers(TASKS[0]), metadata(machine)["ContainerInstanceArn"]
    invocations = machine.show("ecs", "InvocationID") + machine.show(PLUGIN, "InvocationID")
    restarts = machine.run("journalctl", "-u", "ecs", "--no-pager").count("Started ecs.service")
    shutil.copy(newer_deb, machine.tree / "incoming")
    machine.run("apt-get", "install", "-q", "-y", f"/incoming/{newer_deb.name}", seconds=300)
    assert machine.run("dpkg-query", "-W", "-f", "${Version}", "ecs-init").endswith(".1")
    answer = ready(machine, until)
    assert answer["ContainerInstanceArn"] == instance
    assert before and containers(TASKS[0]) == before
    after = machine.show("ecs", "InvocationID") + machine.show(PLUGIN, "InvocationID")
    assert not set(after) & set(invocations), "both services have new processes"
    assert machine.run("journalctl", "-u", "ecs", "--no-pager").count("Started ecs.service") == restarts + 1
    assert machine.run("systemctl", "is-enabled", "ecs").strip() == "enabled"
    config = machine.tree / "etc/ecs/ecs.config"
    assert config.read_text().startswith(CONFIG) and config.stat().st_mode & 0o777 == 0o600


def test_a_downgrade_keeps_the_task_too(machine, deb, until):
    """The older build reads the newer one's state."""
    before, instance = containers(TASKS[0]), metadata(machine)["ContainerInstanceArn"]
    machine.run("apt-get", "install", "-q", "-y", "--allow-downgrades", f"/incoming/{deb.name}", seconds=300)
    assert ready(machine, until)["ContainerInstanceArn"] == instance
    assert before and containers(TASKS[0]) == before


def test_a_killed_launcher_is_started_again(machine, until):
    """Restart=on-failure after RestartSec, with post-stop in between; the task goes on."""
    before = containers(TASKS[0])
    machine.run("systemctl", "kill", "--kill-whom=main", "-s", "KILL", "ecs")
    until(lambda: machine.show("ecs", "NRestarts") == ["1"] and machine.show("ecs", "ActiveState") == ["active"], 40,
          "systemd starts it again")  # fmt: skip
    ready(machine, until)
    assert before and containers(TASKS[0]) == before


def test_a_hung_engine_and_a_hung_init_do_not_hold_up_the_stop(machine, until):
    """Case 40: both are killed in their time, post-stop removes the rules that init could not; the task goes on."""
    before = containers(TASKS[0])
    for name in ("engine", "init"):
        machine.run("sh", "-c", f"kill -STOP $(ecs-supervisorctl pid {name})")
    began = time.monotonic()
    machine.run("systemctl", "stop", "ecs")
    assert time.monotonic() - began < 60
    assert machine.show("ecs", "ActiveState", "Result") == ["inactive", "success"]
    assert "169.254.170.2" not in machine.run("iptables-save")
    assert before and containers(TASKS[0]) == before
    machine.run("systemctl", "start", "ecs")
    ready(machine, until)


def test_a_stop_of_docker_stops_the_agent_and_a_start_does_not_start_it(machine):
    """PartOf=docker.service, as with the reference's unit. The rules go with the service."""
    machine.run("systemctl", "stop", "docker")
    assert machine.run("systemctl", "is-active", "ecs", status=3).strip() == "inactive"
    assert "169.254.170.2" not in machine.run("iptables-save")
    machine.run("systemctl", "start", "docker")
    assert machine.run("systemctl", "is-active", "ecs", status=3).strip() == "inactive"


def test_a_stopped_service_stays_stopped_over_an_upgrade(machine, newer_deb):
    """Nothing is started that did not run."""
    machine.run("systemctl", "disable", "ecs")
    machine.run("dpkg", "-i", f"/incoming/{newer_deb.name}", seconds=300)
    assert machine.run("systemctl", "is-active", "ecs", status=3).strip() == "inactive"
    assert machine.run("systemctl", "is-enabled", "ecs", status=1).strip() == "disabled"


def test_a_registration_that_cannot_work_ends_the_service_for_good(machine, until):
    """Another cluster than the registered one is status 5: the unit has failed, and stays so."""
    machine.write("/etc/ecs/ecs.config", CONFIG + "ECS_CLUSTER=another\n")
    machine.run("systemctl", "start", "ecs")
    until(lambda: machine.show("ecs", "ActiveState") == ["failed"], 60, "the unit has failed")
    assert machine.show("ecs", "ExecMainStatus") == ["5"]
    ended = time.monotonic()
    until(lambda: time.monotonic() > ended + 12, 20, "RestartSec is over")
    assert machine.show("ecs", "ActiveState", "NRestarts")[0] == "failed"
    assert "169.254.170.2" not in machine.run("iptables-save")
    machine.write("/etc/ecs/ecs.config", CONFIG)
    machine.run("systemctl", "start", "ecs")
    ready(machine, until)


def test_nothing_was_written_below_usr(machine):
    """Package verification stays clean: no byte code, no changed file."""
    assert machine.run("dpkg", "-V", "ecs-init") == ""
    packaged = set(machine.run("dpkg", "-L", "ecs-init").splitlines())
    present = set(machine.run("find", "/usr/lib/ecs-init").splitlines())
    assert present <= packaged


def test_a_removal_stops_the_service_and_leaves_tasks_and_state(machine, newer_deb, until):
    """Rules and services go; containers, configuration and state stay, and a new installation takes them over."""
    before, instance = containers(TASKS[0]), metadata(machine)["ContainerInstanceArn"]
    machine.run("systemctl", "enable", "ecs")
    out = machine.run("apt-get", "remove", "-q", "-y", "ecs-init", seconds=300)
    assert "docker ps --filter label=com.amazonaws.ecs.task-arn" in out
    assert "169.254.170.2" not in machine.run("iptables-save")
    assert machine.run("find", "/etc/systemd/system", "-name", "*ecs*") == ""
    assert before and containers(TASKS[0]) == before
    assert (machine.tree / "etc/ecs/ecs.config").is_file() and any((machine.tree / "var/lib/ecs/data").iterdir())
    machine.run("dpkg", "-i", f"/incoming/{newer_deb.name}", seconds=300)
    assert machine.run("systemctl", "is-enabled", "ecs", status=1).strip() == "disabled"
    machine.run("systemctl", "start", "ecs")
    assert ready(machine, until)["ContainerInstanceArn"] == instance
    assert containers(TASKS[0]) == before


def test_the_taken_over_task_is_still_stopped_on_request(machine):
    """After upgrade, downgrade, kill and reinstallation the agent still manages the container."""
    machine.run("ecs-local", "stop", TASKS[0].rsplit("/", 1)[1])
    assert containers(TASKS[0]) == []


def test_a_purge_leaves_nothing_but_what_is_mounted(machine):
    """Configuration, state, logs and run directory go; a file system of a customer is not touched."""
    machine.run("mkdir", "-p", "/var/lib/ecs/volumes/customer", "/var/lib/ecs/volumes/empty")
    machine.run("mount", "-t", "tmpfs", "tmpfs", "/var/lib/ecs/volumes/customer")
    machine.run("touch", "/var/lib/ecs/volumes/customer/file")
    machine.run("apt-get", "purge", "-q", "-y", "ecs-init", seconds=300)
    machine.run("test", "-f", "/var/lib/ecs/volumes/customer/file")
    machine.run("umount", "/var/lib/ecs/volumes/customer")
    left = {"/var/lib/ecs", "/var/lib/ecs/volumes"}
    assert set(machine.remains()) - left == set()
    assert machine.run("find", "/var/lib/ecs").split() == [*sorted(left), "/var/lib/ecs/volumes/customer"]
    assert machine.run("find", "/run/ecs-init", "/run/ecs", status=1).count("No such file") == 2
    assert machine.run("ls", "/usr/lib/ecs-init", status=2)
    assert machine.run("systemctl", "list-unit-files", "*ecs*", "--no-legend", status=None).strip() == ""


def test_without_a_running_systemd_every_script_succeeds(installed, scratch, copy, machine_of, deb, newer_deb):
    """Image builds and containers: install, upgrade, remove, install, purge in a chroot; nothing is left."""
    machine = machine_of(copy(installed, scratch / "chroot"))
    shutil.copy(newer_deb, machine.tree / "incoming")
    machine.run("dpkg", "-i", f"/incoming/{newer_deb.name}", seconds=300)
    machine.run("dpkg", "-r", "ecs-init", seconds=300)
    machine.run("dpkg", "-i", f"/incoming/{deb.name}", seconds=300)
    machine.run("dpkg", "-P", "ecs-init", seconds=300)
    assert machine.remains() == []


def test_it_replaces_the_package_of_the_reference(base, installed, scratch, copy, machine_of, deb):
    """One transaction, no file conflict, its configuration stays."""
    machine = machine_of(copy(installed, scratch / "replaced"))
    machine.run("dpkg", "-P", "ecs-init", seconds=300)
    stage = machine.tree / "incoming/old"
    units = [f"lib/systemd/system/{name}" for name in ("ecs.service", f"{PLUGIN}.service", f"{PLUGIN}.socket")]
    for path in ("usr/libexec/amazon-ecs-init", *units):
        (stage / path).parent.mkdir(parents=True, exist_ok=True)
        (stage / path).write_text("the reference's\n")
    (stage / "DEBIAN").mkdir()
    (stage / "DEBIAN/control").write_text(
        "Package: amazon-ecs-init\nVersion: 1.105.1-1\nArchitecture: all\nMaintainer: test <test@example.invalid>\n"
        "Description: stands for the reference's package\n"
    )
    machine.run("dpkg-deb", "-b", "/incoming/old", "/incoming/old.deb")
    machine.run("dpkg", "-i", "/incoming/old.deb")
    (machine.tree / "etc/ecs").mkdir()
    machine.write("/etc/ecs/ecs.config", "ECS_CLUSTER=x\n")
    wanted = machine.tree / f"etc/systemd/system/sockets.target.wants/{PLUGIN}.socket"
    wanted.parent.mkdir(parents=True, exist_ok=True)
    wanted.symlink_to(f"/lib/systemd/system/{PLUGIN}.socket")
    machine.run("apt-get", "install", "-q", "-y", f"/incoming/{deb.name}", seconds=300)
    assert machine.run("dpkg-query", "-W", "-f", "${db:Status-Status}", "amazon-ecs-init", status=None) != "installed"
    assert "import main" in (machine.tree / "usr/libexec/amazon-ecs-init").read_text()
    assert not wanted.is_symlink(), "the unit of a socket that the plugin now makes itself"
    assert (machine.tree / "etc/ecs/ecs.config").read_text() == "ECS_CLUSTER=x\n"


def test_it_is_for_one_machine_and_one_python(deb):
    """The interpreter's exact minor version, so that its upgrade is held back or takes this package along."""
    fields = subprocess.run(["dpkg-deb", "-f", str(deb), "Architecture", "Depends"], check=True, capture_output=True,
                            text=True).stdout  # fmt: skip
    assert re.search(r"^Architecture: (amd64|arm64)$", fields, re.M)
    minor = int(re.search(r"python3 \(>= 3\.(\d+)~\), python3 \(<< 3\.\d+\)", fields)[1])
    assert f"python3 (<< 3.{minor + 1})" in fields
    for needed in ("redis-tools", "iptables", "iproute2", "docker.io (>= 20.10) | docker-ce"):
        assert needed in fields


def test_lintian_finds_no_error(deb):
    """Deviations have their reasons beside them in debian/ecs-init.lintian-overrides."""
    done = subprocess.run(["lintian", "--fail-on", "error,warning", str(deb)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_two_builds_have_the_same_files(deb, newer_deb, tmp_path):
    """A build is reproducible: another release differs in its change log only."""
    sums = []
    for package in (deb, newer_deb):
        folder = tmp_path / package.name
        subprocess.run(["dpkg-deb", "-e", str(package), str(folder)], check=True)
        lines = (folder / "md5sums").read_text().splitlines()
        sums.append({path: digest for digest, path in (line.split("  ", 1) for line in lines)})
    different = {path for path in sums[0] | sums[1] if sums[0].get(path) != sums[1].get(path)}
    assert different == {"usr/share/doc/ecs-init/changelog.Debian.gz"}
