"""Every program asks the Docker that the configuration names, wherever it names it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from gevent import monkey
monkey.patch_all()
from common import docker, process
process.run("program", lambda context: print(docker.host()))
"""


@pytest.mark.parametrize(
    ("variable", "member", "used"),
    [
        ("", "unix:///run/other.sock", "unix:///run/other.sock"),
        ("unix:///run/mine.sock", "unix:///run/other.sock", "unix:///run/mine.sock"),
        ("", "", "unix:///var/run/docker.sock"),
    ],
)
def test_the_docker_endpoint_of_the_configuration_file_is_used(run_dir: Path, variable: str, member: str, used: str):
    """DOCKER_HOST wins over DockerEndpoint, which wins over the default."""
    file = run_dir / "ecs.config.json"
    file.write_text(json.dumps({"DockerEndpoint": member} if member else {}))
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {
        "ECS_AGENT_CONFIG_FILE_PATH": str(file), "ECS_RUN_DIR": str(run_dir), "ECS_DATADIR": str(run_dir),
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }  # fmt: skip
    if variable:
        environment["DOCKER_HOST"] = variable
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[0] == used, done.stderr
