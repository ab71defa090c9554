"""A blackhole fault with the machine's own iptables, in a network namespace of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from common.model.task import NetworkInterface

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("iptables"), reason="needs root and iptables"),
]


@pytest.fixture
def namespace() -> Iterator[int]:
    """The pid of a process alone in its network namespace."""
    process = subprocess.Popen(["unshare", "-n", "sh", "-c", "ip link set lo up && echo up && exec sleep 60"],
                               stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    yield process.pid
    process.kill()
    process.wait()


def rules(pid: int) -> str:
    """The filter rules of the namespace."""
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", "iptables", "-S"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_blackhole_is_started_checked_and_stopped_in_the_tasks_namespace_only(start, writers, namespace):
    """The rules are where the task is, are exact, and leave nothing behind."""
    writers.instance()
    writers.task(
        "a",
        network_mode="awsvpc",
        enable_fault_injection=True,
        interfaces=(NetworkInterface(ec2_id="eni-1", mac_address="m", ipv4_addresses=("10.0.0.9",)),),
        network_namespace=f"/proc/{namespace}/ns/net",
        interface_name="eth0",
    )
    running = start()
    body = b'{"Port":80,"Protocol":"tcp","TrafficType":"egress","SourcesToFilter":["10.1.0.0/16"]}'

    def post(operation: str) -> object:
        return running.get(f"/api/e-a/fault/v1/network-blackhole-port/{operation}", method="POST", body=body).json

    before = rules(namespace)
    assert post("start") == {"Status": "running"}
    assert rules(namespace).splitlines() == [
        *before.splitlines(),
        "-N egress-tcp-80",
        "-A OUTPUT -j egress-tcp-80",
        "-A egress-tcp-80 -d 10.1.0.0/16 -p tcp -m tcp --dport 80 -j ACCEPT",
        "-A egress-tcp-80 -d 169.254.170.2/32 -p tcp -m tcp --dport 80 -j ACCEPT",
        "-A egress-tcp-80 -p tcp -m tcp --dport 80 -j DROP",
    ]
    assert post("status") == {"Status": "running"}
    assert post("stop") == {"Status": "stopped"}
    assert rules(namespace) == before
