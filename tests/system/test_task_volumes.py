"""EBS volumes from the attachment to the unmount, through the whole agent, with real mounts."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.docker, pytest.mark.netns]
ROOT = Path(__file__).parents[2]
APART = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "shared")


def test_a_task_has_its_volume_from_the_attachment_to_the_unmount():
    """On a machine within this one: the driver's image loaded and run, ATTACHED after the mount, the task's bind and
    group, a crashed driver, a kill -9 of whoever knows of it, and the unmount after the stop."""
    directory = Path(tempfile.mkdtemp(prefix="ecs-vol-"))
    try:
        played = subprocess.run(
            [*APART, sys.executable, "-m", "tests.system.volume_machine", str(directory)],
            cwd=ROOT, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert played.returncode == 0 and played.stdout.endswith("done\n"), played.stdout + played.stderr
    finally:
        shutil.rmtree(directory, ignore_errors=True)
