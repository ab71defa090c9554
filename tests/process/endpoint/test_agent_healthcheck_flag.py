"""`ecs-agent -healthcheck`, the health check of a container image: any answer of the introspection port is success."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace"),
]

ROOT = Path(__file__).parents[3]
SERVER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 51678))
print("listens", flush=True)
client, _ = listener.accept()
print(client.recv(4096).decode().splitlines()[0], flush=True)
client.sendall(sys.argv[1].encode().decode("unicode_escape").encode())
client.close()
"""
CHECK = "import sys; from common.tree.cli import main; sys.exit(main([sys.argv[1]]))"
SCRIPT = """
ip link set lo up
if [ -n "$ANSWER" ]; then
    exec 3< <("$PYTHON" -c "$SERVER" "$ANSWER")
    read -r -u 3 listens
fi
"$PYTHON" -c "$CHECK" "$1"; status=$?
if [ -n "$ANSWER" ]; then read -r -u 3 line; echo "$line"; fi
exit $status
"""


def check(answer: str, flag: str = "-healthcheck") -> tuple[int, str, str]:
    """Exit status, what the server saw and what the check complained of; no answer = nothing listens."""
    environment = os.environ | {"PYTHON": sys.executable, "SERVER": SERVER, "CHECK": CHECK, "ANSWER": answer}
    environment.pop("ECS_AGENT_HEALTHCHECK_HOST", None)
    result = subprocess.run(["unshare", "-n", "bash", "-c", SCRIPT, "sh", flag], cwd=ROOT, env=environment,
                            capture_output=True, text=True, timeout=60)  # fmt: skip
    return result.returncode, result.stdout.strip(), result.stderr


@pytest.mark.parametrize("flag", ["-healthcheck", "--healthcheck"])
@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "500 Internal Server Error"])
def test_any_answer_is_health(status, flag):
    """Case 77: a HEAD request, and its status does not matter."""
    assert check(f"HTTP/1.1 {status}\\r\\nContent-Length: 0\\r\\n\\r\\n", flag)[:2] == (0, "HEAD /v1/metadata HTTP/1.1")


def test_a_port_that_nobody_listens_on_is_no_health():
    """Case 78, with a reason for the log of the container engine."""
    status, _, complaint = check("")
    assert status == 1 and "http://localhost:51678/v1/metadata" in complaint


def test_a_connection_without_an_answer_is_no_health():
    """Something that is not the agent has the port."""
    assert check(" ")[0] == 1
