"""The program `local` as the supervisor runs it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError

from tests.process.local.harness import KEYS, ROOT, eventually


def test_a_taken_port_is_told_and_waited_for(tmp_path: Path) -> None:
    """No crash loop: the program says which port, and serves as soon as it is free. SIGTERM ends it with status 0."""
    (tmp_path / "run").mkdir(mode=0o700)
    out = tmp_path / "out"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "ECS_DATADIR": str(tmp_path), "ECS_LOCAL_PORT": str(port),
                       "ECS_LOCAL_CONTROL_PLANE": "true"}  # fmt: skip
        with open(out, "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.local"], env=environment, stdout=log, stderr=log
            )
        eventually(lambda: f"cannot listen on 127.0.0.1:{port}" in out.read_text(), "the complaint", 20)
    ecs = boto3.client("ecs", endpoint_url=f"http://127.0.0.1:{port}", **KEYS)

    def answers() -> bool:
        try:
            return bool(ecs.list_clusters()["clusterArns"])
        except BotoCoreError:
            return False

    try:
        eventually(answers, "the control plane serves", 20)
    finally:
        process.terminate()
        assert process.wait(10) == 0, out.read_text()
