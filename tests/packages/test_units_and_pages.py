"""Units and manual pages, as the tools of their formats judge them. No package is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "packaging/systemd"
PAGES = sorted((ROOT / "docs/man").iterdir())
# What would give the service a mount or user namespace of its own, or forbid those of tasks (spec 10 §15).
UNUSABLE = (
    "PrivateTmp", "ProtectSystem", "ProtectHome", "PrivateDevices", "PrivateMounts", "ProtectKernelTunables",
    "ProtectControlGroups", "ProtectKernelModules", "ProtectKernelLogs", "ProtectClock", "ProtectHostname",
    "ProtectProc", "ProcSubset", "PrivateNetwork", "PrivateUsers", "RestrictNamespaces", "ReadOnlyPaths",
    "InaccessiblePaths", "RuntimeDirectory", "StateDirectory", "LogsDirectory", "DynamicUser",
)  # fmt: skip


@pytest.mark.parametrize("unit", ["ecs.service", "amazon-ecs-volume-plugin.service"])
def test_no_unit_gets_a_mount_namespace_of_its_own(unit):
    """Mounts for EBS and EFS must reach the host; a private namespace breaks them silently."""
    used = {line.partition("=")[0] for line in (UNITS / unit).read_text().splitlines()}
    assert used.isdisjoint(UNUSABLE)


def test_the_exposure_of_the_service_does_not_grow(tmp_path):
    """systemd-analyze's own measure: 9.6 is a unit without any hardening."""
    shutil.copy(UNITS / "ecs.service", tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=72", "--no-pager", f"{tmp_path}/ecs.service"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_manual_page_is_correct(page):
    """mandoc finds nothing to warn of, and groff formats it without a word."""
    lint = subprocess.run(["mandoc", "-Tlint", "-Wwarning", str(page)], capture_output=True, text=True)
    assert lint.stdout == ""
    formatted = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", str(page)], capture_output=True, text=True,
        env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANPAGER": "cat"},
    )  # fmt: skip
    assert formatted.stderr == "" and "NAME" in formatted.stdout


def test_every_program_and_file_of_the_package_has_its_page():
    """A user finds each command with man."""
    names = {page.name for page in PAGES}
    assert names == {
        "amazon-ecs-init.1", "amazon-ecs-volume-plugin.8", "ecs-agent.1", "ecs-local.1", "ecs-supervisorctl.8",
        "ecs.config.5",
    }  # fmt: skip
