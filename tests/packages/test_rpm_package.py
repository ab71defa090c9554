"""The rpm: what is in it, what rpmlint says, and the service run from a tree that rpm --root installed into.

The tree is the Debian one without our deb: the package names the programs of rpm distributions in its requirements, so
rpm does not check them here. Files, scriptlets, systemd and Docker are real.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.local.tool import dockers

ROOT = Path(__file__).parents[2]
# Off EC2 the agent would ask for the VPC of its instance for half a minute.
CONFIG = (
    "ECS_LOCAL_CONTROL_PLANE=true\nECS_IMAGE_PULL_BEHAVIOR=prefer-cached\nECS_ENABLE_TASK_CPU_MEM_LIMIT=false\n"
    "AWS_EC2_METADATA_DISABLED=true\n"
)
TASK = {
    "family": "packages-rpm",
    "containerDefinitions": [
        {
            "name": "main",
            "image": dockers.SAMPLE_IMAGE,
            "cpu": 16,
            "memory": 16,
            "entryPoint": ["sh", "-c"],
            "command": ["trap 'exit 0' TERM; while :; do sleep 1; done"],
        }
    ],
}
TASKS: list[str] = []


def query(rpm: Path, form: str) -> str:
    """What the package says of itself."""
    return subprocess.run(["rpm", "-qp", "--nosignature", *form.split(" ", 1)[:1], *form.split(" ", 1)[1:], str(rpm)],
                          check=True, capture_output=True, text=True).stdout  # fmt: skip


def test_it_replaces_the_packages_of_the_reference(rpm):
    """By an epoch against the same name, by Obsoletes against the other; and says who made it."""
    name, epoch, vendor, machine = query(rpm, "--qf %{NAME}|%{EPOCH}|%{VENDOR}|%{ARCH}").split("|")
    assert (name, epoch) == ("ecs-init", "1") and "Amazon" not in vendor and machine in ("x86_64", "aarch64")
    version = query(rpm, "--qf %{EPOCH}:%{VERSION}-%{RELEASE}")
    assert f"amazon-ecs-init = {version}" in query(rpm, "--provides")
    assert f"amazon-ecs-init < {version}" in query(rpm, "--obsoletes")


def test_it_requires_what_it_runs(rpm):
    """The interpreter's exact minor version, a Redis server, Docker, iptables; nothing found in the wheels."""
    required = query(rpm, "--requires")
    for needed in (
        r"python\(abi\) = 3\.\d+$",
        r"\(redis or redis6 or valkey\)",
        r"\(docker or docker-ce",
        "^iptables$",
    ):
        assert re.search(needed, required, re.M), needed
    assert ".so" not in required and "/usr/lib/ecs-init" not in required
    provided = query(rpm, "--provides")
    assert "bundled(python3dist(gevent))" in provided and ".so" not in provided


def test_files_modes_and_owners(rpm):
    """As documented; the configuration is claimed, but not part of the package, so no upgrade can touch it."""
    lines = query(rpm, "--qf [%{FILEMODES:perms} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILENAMES}\\n]").splitlines()
    files = {name: (mode, owner) for mode, owner, name in (line.split(" ", 2) for line in lines)}
    assert {owner for _, owner in files.values()} == {"root:root"}
    for path, mode in {
        "/etc/ecs": "drwxr-xr-x", "/var/lib/ecs": "drwxr-xr-x", "/var/lib/ecs/data": "drwx------",
        "/var/log/ecs": "drwxr-xr-x", "/usr/libexec/amazon-ecs-init": "-rwxr-xr-x", "/usr/bin/ecs-agent": "-rwxr-xr-x",
        "/usr/libexec/amazon-ecs-volume-plugin": "-rwxr-xr-x", "/usr/sbin/ecs-supervisorctl": "-rwxr-xr-x",
        "/usr/lib/systemd/system/ecs.service": "-rw-r--r--", "/usr/lib/ecs-init/supervisord.conf": "-rw-r--r--",
        "/usr/share/man/man1/amazon-ecs-init.1.gz": "-rw-r--r--", "/usr/share/licenses/ecs-init/LICENSE": "-rw-r--r--",
        "/usr/share/ecs-init/images/amazon-ecs-pause.tar": "-rw-r--r--",
    }.items():  # fmt: skip
        assert files[path][0] == mode, path
    assert not [name for name, (mode, _) in files.items() if mode[0] != "l" and (mode[5] == "w" or mode[8] == "w")]
    configuration = ["/etc/ecs/ecs.config", "/etc/ecs/ecs.config.json"]
    assert query(rpm, "--configfiles").split() == configuration
    flags = dict(line.split() for line in query(rpm, "--qf [%{FILENAMES} %{FILEFLAGS:fflags}\\n]").splitlines()
                 if line.startswith("/etc/ecs/"))  # fmt: skip
    assert flags == dict.fromkeys(configuration, "cng"), "configuration, noreplace, ghost: only claimed"


def test_scriptlets_work_with_any_shell_and_never_fail(rpm):
    """Each is for /bin/sh, and ends with success whatever systemd says."""
    scripts = query(rpm, "--scripts")
    assert set(re.findall(r"^(\w+) scriptlet", scripts, re.M)) == {"postinstall", "preuninstall", "postuninstall",
                                                                 "posttrans"}  # fmt: skip
    assert "preset" not in scripts, "a preset could enable the service"
    for text in re.split(r"^\w+ scriptlet \(using /bin/sh\):$", scripts, flags=re.M)[1:]:
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)


def test_rpmlint_finds_nothing_new(rpm):
    """What stays is in rpm/rpmlint.toml with its reason."""
    done = subprocess.run(["rpmlint", "-c", str(ROOT / "rpm/rpmlint.toml"), str(rpm)], capture_output=True, text=True)
    assert re.findall(r"^\S+: [EW]: .*", done.stdout, re.M) == []


@pytest.fixture(scope="module")
def machine(
    installed: Path, scratch: Path, copy: Callable[..., Path], machine_of: Callable[..., Any], rpm: Path
) -> Iterator[Any]:
    """A booted machine with the package."""
    docker = dockers.connect()
    dockers.build_sample_image(docker)
    machine = machine_of(copy(installed, scratch / "rpm"))
    machine.run("dpkg", "-P", "ecs-init", seconds=300)
    assert machine.remains() == []
    authorities = machine.tree / "etc/pki/tls/certs/ca-bundle.crt"
    authorities.parent.mkdir(parents=True)
    authorities.symlink_to("/etc/ssl/certs/ca-certificates.crt")
    redis = machine.tree / "usr/local/bin/redis-server"
    redis.symlink_to("/usr/bin/redis-check-rdb")
    install(machine, rpm, "-i")
    machine.boot()
    yield machine
    machine.shut_down()
    dockers.remove_containers(docker, TASKS)


def install(machine: Any, rpm: Path | str, *options: str) -> str:
    """rpm of this machine, on the tree, in its namespaces."""
    out: str = machine.host("rpm", "--root", str(machine.tree), "--dbpath", "/var/lib/rpm", "--nodeps", "--nosignature",
                            *options, str(rpm), seconds=300)  # fmt: skip
    return out


def running() -> list[str]:
    """Ids of the task's running containers."""
    docker = dockers.connect()
    return [c["Id"] for c in dockers.containers_of(docker, TASKS[0]) if c["State"] == "running"]


def connected(machine: Any) -> bool:
    """Whether the agent is registered and its session open."""
    text = machine.run("ecs-agent", "healthcheck", status=None)
    return "acs " in text and all(re.search(rf"^{name} +ready", text, re.M) for name in ("acs", "engine", "endpoint"))


def test_an_installation_enables_and_starts_nothing(machine):
    """The files are verified; the services wait for the user."""
    assert "ecs-init" in machine.host("rpm", "--root", str(machine.tree), "--dbpath", "/var/lib/rpm", "-q", "ecs-init")
    install(machine, "ecs-init", "-V")
    for unit in ("ecs", "amazon-ecs-volume-plugin"):
        assert machine.run("systemctl", "is-enabled", unit, status=1).strip() == "disabled"
        assert machine.run("systemctl", "is-active", unit, status=3).strip() == "inactive"


def test_the_service_runs_a_task_from_the_installed_files(machine, until):
    """The whole way, as with the deb."""
    machine.write("/etc/ecs/ecs.config", CONFIG)
    (machine.tree / "root/task.json").write_text(json.dumps(TASK))
    machine.run("systemctl", "enable", "--now", "ecs", "amazon-ecs-volume-plugin")
    until(lambda: connected(machine), 60, "the agent is connected")
    out = machine.run("ecs-local", "run", "--no-follow", "/root/task.json")
    TASKS.extend(re.findall(r"arn:\S+:task/\S+", out))
    until(running, 30, "the task runs")
    assert len(TASKS) == 1 and running()


def test_an_upgrade_keeps_the_task_and_restarts_the_service(machine, rpm, until):
    """All scriptlets of an upgrade run; the container does not notice."""
    before = running()
    invocations = machine.show("ecs", "InvocationID") + machine.show("amazon-ecs-volume-plugin", "InvocationID")
    install(machine, rpm, "-U", "--replacepkgs")
    until(lambda: connected(machine), 60, "the agent is connected")
    after = machine.show("ecs", "InvocationID") + machine.show("amazon-ecs-volume-plugin", "InvocationID")
    assert not set(invocations) & set(after)
    assert before and running() == before
    assert machine.run("systemctl", "is-enabled", "ecs").strip() == "enabled"


def test_an_erasure_stops_the_service_and_leaves_tasks_configuration_and_state(machine):
    """rpm has no purge: what users made stays, and so do the tasks; rules, units and files go."""
    before = running()
    install(machine, "ecs-init", "-V")
    out = install(machine, "ecs-init", "-e")
    assert "docker ps --filter label=com.amazonaws.ecs.task-arn" in out
    assert before and running() == before
    assert "169.254.170.2" not in machine.run("iptables-save")
    assert machine.run("find", "/etc/systemd/system", "-name", "*ecs*") == ""
    assert (machine.tree / "etc/ecs/ecs.config").read_text() == CONFIG
    left = set(machine.remains())
    assert {"/etc/ecs", "/var/lib/ecs", "/var/log/ecs"} <= left
    assert not [path for path in left if path.startswith("/usr")]
