"""The entry point of the service on its own ports, alone and with a second worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common import readiness

ROOT = Path(__file__).parents[3]
IN_NAMESPACE = "ip link set lo up && exec {python} -m services.endpoint"
ASK = """
import collections, http.client, sys
def get(port, path):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    c.request("GET", path)
    r = c.getresponse()
    r.read()
    return r.status
print(dict(collections.Counter(get(int(sys.argv[1]), sys.argv[2]) for _ in range(int(sys.argv[3])))))
"""


def ask_inside(pid: int, port: int, path: str, count: int) -> dict[int, int]:
    """Requests from inside the network namespace of `pid`; {} while nobody answers."""
    command = ["nsenter", "-t", str(pid), "-n", sys.executable, "-c", ASK, str(port), path, str(count)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return (
        {
            int(k): v
            for k, v in json.loads(result.stdout.replace("{", '{"').replace(":", '":').replace(", ", ', "')).items()
        }
        if result.returncode == 0
        else {}
    )


def is_ready(run_dir: Path) -> int:
    """The pid of the second worker when it serves, else 0."""
    state = readiness.read(str(run_dir), "endpoint-2")
    return state.pid if state is not None and state.ready else 0


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_real_process_serves_its_ports_and_ends_on_sigterm(writers, run_dir, eventually, workers):
    """On its own ports, in a network namespace; two workers have one limit, and a killed one returns."""
    writers.instance()
    writers.credentials("c-a")
    environment = os.environ | {
        "ECS_RUN_DIR": str(run_dir),
        "ECS_DATADIR": str(run_dir),
        "ECS_AUDIT_LOGFILE": str(run_dir / "audit.log"),
        "AWS_DEFAULT_REGION": "us-west-2",
        "ECS_ENDPOINT_WORKERS": workers,
        "ECS_TASK_METADATA_RPS_LIMIT": "1,30",
    }
    command = ["unshare", "-n", "sh", "-c", IN_NAMESPACE.format(python=sys.executable)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        eventually(lambda: ask_inside(process.pid, 51678, "/v1/metadata", 1) == {200: 1}, seconds=15)
        eventually(lambda: ask_inside(process.pid, 51679, "/", 1) == {404: 1}, seconds=15)
        if workers == "2":
            second = eventually(lambda: is_ready(run_dir), seconds=15)
            os.kill(second, signal.SIGKILL)
            eventually(lambda: is_ready(run_dir) not in (0, second), seconds=15)
        counts = ask_inside(process.pid, 51679, "/v2/credentials/c-a", 60)
        assert 30 <= counts[200] <= 36 and counts[429] == 60 - counts[200]
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        output = process.stdout.read().decode()
    assert "Traceback" not in output
    assert sum(" 200 127.0.0.1:" in line for line in (run_dir / "audit.log").read_text().splitlines()) == counts[200]
