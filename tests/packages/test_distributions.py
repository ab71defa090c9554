"""Python and Redis under the names that distributions give them: what is found, and what is installed (spec 10 §16)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGING = Path(__file__).parents[2] / "packaging"
REAL = ("cat", "cut", "sort", "tr", "mktemp", "rm", "tail", "id", "dirname")
RUN = 'mount --bind "$0" /etc/os-release && exec env -i PATH="$1" /bin/sh "$2" run'
FAKE_PYTHON = """#!/bin/sh
[ "$1" = -c ] || {{ echo "{name} $*"; exit 0; }}
exec {python} -c 'import sys; sys.version_info = {version}; sys.executable = "/usr/bin/{name}"; exec(sys.argv[1])' "$2"
"""
GOOD = {"python3": (3, 11)}


def program(place: Path, name: str, text: str = "#!/bin/sh\n") -> None:
    (place / name).write_text(text)
    (place / name).chmod(0o755)


def pythons(place: Path, versions: dict[str, tuple[int, int]]) -> None:
    """Programs that say they are of these versions; with arguments they print their name."""
    for name, version in versions.items():
        program(place, name, FAKE_PYTHON.format(name=name, python=sys.executable, version=version))


@pytest.mark.parametrize(("versions", "chosen"), [
    ({"python3": (3, 11)}, "python3"),
    ({"python3": (3, 9), "python3.11": (3, 11)}, "python3.11"),
    ({"python3": (3, 9), "python3.11": (3, 11), "python3.12": (3, 12)}, "python3.12"),
    ({"python3": (3, 12), "python3.13": (3, 13)}, "python3"),
    ({"python3": (3, 14), "python3.13": (3, 13)}, "python3.13"),
    ({"python3": (3, 14)}, "python3"),
    ({"python3.13": (3, 13)}, "python3.13"),
])  # fmt: skip
def test_the_first_python_that_the_agent_works_with_is_taken(tmp_path, versions, chosen):
    """3.9 is the python3 of Amazon Linux 2023 and RHEL 9; the wheels are for 3.11 to 3.13."""
    pythons(tmp_path, versions)
    command = [str(PACKAGING / "python"), "-m", "venv"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, f"{chosen} -m venv\n"), done.stderr


@pytest.mark.parametrize("versions", [{}, {"python3": (3, 9)}, {"python3": (3, 10), "python3.11": (3, 10)}])
def test_a_machine_without_such_a_python_is_told_what_to_install(tmp_path, versions):
    """One sentence, not a syntax error from an older interpreter or a wheel that is not there."""
    pythons(tmp_path, versions)
    command = [str(PACKAGING / "python"), "-V"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "needs Python 3.11 or later" in done.stderr
    assert "dnf install python3.11" in done.stderr


class Machine:
    """A machine whose programs are fakes; `installed` says what `bootstrap run` had dnf install."""

    def __init__(self, root: Path) -> None:
        self.tools = root / "tools"
        self.tools.mkdir()
        self.release = root / "os-release"
        self.calls = root / "calls"
        for name in REAL:
            (self.tools / name).symlink_to(str(shutil.which(name)))
        for name in ("iptables", "ip", "busybox", "dockerd"):
            program(self.tools, name)
        program(self.tools, "dnf", f'#!/bin/sh\necho "$*" >>{self.calls}\n')

    def installed(self, system: str) -> list[str]:
        name, version = system.split()
        self.release.write_text(f'ID="{name}"\nVERSION_ID="{version}"\n')
        words = ["unshare", "--mount", "sh", "-c", RUN, str(self.release), str(self.tools)]
        done = subprocess.run(
            [*words, str(PACKAGING / "dev/bootstrap")], env=dict(os.environ), capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return self.calls.read_text().split()[3:] if self.calls.exists() else []


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.mark.parametrize(("system", "package"), [
    ("amzn 2023", "redis6"), ("fedora 40", "redis"), ("fedora 41", "valkey"), ("rhel 9.4", "redis"),
    ("rhel 10.0", "valkey"), ("centos 10", "valkey"), ("opensuse-leap 15.6", "redis"),
])  # fmt: skip
def test_redis_is_installed_under_the_distribution_s_name(machine, system, package):
    """Its own project's name is not everywhere (spec 10 §16 Q5)."""
    pythons(machine.tools, GOOD)
    assert machine.installed(system) == [package]


@pytest.mark.parametrize("server", ["redis-server", "redis6-server", "valkey-server"])
def test_a_server_under_any_of_its_names_is_enough(machine, server):
    """The tree starts each of them."""
    pythons(machine.tools, GOOD)
    program(machine.tools, server)
    assert machine.installed("amzn 2023") == []


def test_a_python_is_installed_beside_one_that_is_too_old(machine):
    """Nothing replaces the distribution's own."""
    pythons(machine.tools, {"python3": (3, 9)})
    program(machine.tools, "redis6-server")
    assert machine.installed("amzn 2023") == ["python3.11"]
