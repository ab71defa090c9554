"""What the tests of the faults share: network namespaces, and asking the routes for a task in one of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from common.model.task import NetworkInterface, Task
from services.endpoint.throttle import Buckets
from tests.conftest import PATIENCE

Ask = Callable[[str, str, dict[str, Any]], tuple[int, Any]]


@contextmanager
def network_namespace() -> Iterator[int]:
    """The pid of a process alone in its network namespace."""
    process = subprocess.Popen(["unshare", "-n", "sh", "-c", "ip link set lo up && echo up && exec sleep 3600"],
                               stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()


def inside(pid: int, *command: str) -> str:
    """What a command prints in the namespace."""
    words = ["nsenter", f"--net=/proc/{pid}/ns/net", *command]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def awsvpc_task(writers: Any, pid: int, device: str = "lo", **more: Any) -> Task:
    """A task "a" whose pause container would own the namespace; its interface is `device`."""
    given: dict[str, Any] = {
        "network_mode": "awsvpc",
        "enable_fault_injection": True,
        "interfaces": (NetworkInterface(ec2_id="eni-1", mac_address="m", ipv4_addresses=("10.0.0.9",)),),
        "network_namespace": f"/proc/{pid}/ns/net",
        "interface_name": device,
    }
    return writers.task("a", **(given | more))


def asker(running: Any) -> Ask:
    """Asks a fault route of the task "a"; the limit of one request in five seconds is out of the way."""
    running.endpoint.fault_routes.throttle = Buckets(1e6, 1e6)

    def ask(fault: str, operation: str, body: dict[str, Any]) -> tuple[int, Any]:
        data = json.dumps(body).encode()
        path = f"/api/e-a/fault/v1/{fault}/{operation}"
        answer = running.get(path, method="POST", body=data, timeout=6.0 * PATIENCE)
        return answer.status, answer.json

    return ask


@cache
def kernel_has_netem() -> bool:
    """Whether the disciplines and the classifier of these faults exist here; tried in a namespace."""
    script = ("ip link set lo up && tc qdisc add dev lo root handle 1: prio && tc qdisc add dev lo parent 1:1 netem "
              "delay 1ms && tc filter add dev lo parent 1: handle 1 flow hash keys src divisor 4")  # fmt: skip
    return subprocess.run(["unshare", "-n", "sh", "-c", script], capture_output=True).returncode == 0
