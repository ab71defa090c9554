"""Latency and packet loss with the kernel's own disciplines, seen by real packets between two ends of a veth pair.

The kernel must have sch_prio, sch_netem, cls_flow and cls_u32; `make test-vm` brings one that has.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from services.endpoint.faultrequests import LATENCY, LOSS
from tests.conftest import IN_GUEST
from tests.process.endpoint.faultbench import Ask, asker, awsvpc_task, inside, kernel_has_netem, network_namespace

pytestmark = [
    pytest.mark.netns,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not IN_GUEST and (os.geteuid() != 0 or not shutil.which("tc") or not kernel_has_netem()),
                       reason="needs root, tc, and a kernel with sch_prio, sch_netem and cls_flow: make test-vm"),
]  # fmt: skip

FAULTY, SPARED, SIX = "10.9.0.1", "10.9.0.3", "fd00:9::1"
ENDS = """
ip link add eth0 type veth peer name far netns {peer} &&
ip addr add 10.9.0.2/24 dev eth0 && ip -6 addr add fd00:9::2/64 dev eth0 nodad && ip link set eth0 up
"""
FAR = """
ip addr add 10.9.0.1/24 dev far && ip addr add 10.9.0.3/24 dev far && ip -6 addr add fd00:9::1/64 dev far nodad &&
ip link set far up
"""
# Sends back what comes over UDP, counts what came to port 7000, accepts TCP.
PEER = """
import json, select, socket
def made(kind, address, port):
    one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    one.bind((address, port))
    return one
echoes = [made(socket.SOCK_DGRAM, a, 7) for a in ("10.9.0.1", "10.9.0.3", "fd00:9::1")]
counted = made(socket.SOCK_DGRAM, "10.9.0.1", 7000)
counted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
asked = made(socket.SOCK_DGRAM, "10.9.0.3", 7001)
listener = made(socket.SOCK_STREAM, "10.9.0.1", 80)
listener.listen(16)
print("up", flush=True)
number = 0
while True:
    for one in select.select([*echoes, counted, asked, listener], [], [])[0]:
        if one is listener:
            one.accept()[0].close()
            continue
        data, sender = one.recvfrom(64)
        if one is counted:
            number += 1
        elif one is asked:
            one.sendto(str(number).encode(), sender)
            number = 0
        else:
            one.sendto(data, sender)
"""
# Round trips to each address (null when lost), and how long a TCP connection takes.
PROBE = """
import json, socket, sys, time
seen = {}
for address in sys.argv[2:]:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(float(sys.argv[1]))
        one.connect((address, 7))
        began = time.monotonic()
        one.send(b"x")
        try:
            one.recv(64)
            seen[address] = time.monotonic() - began
        except TimeoutError:
            seen[address] = None
began = time.monotonic()
try:
    socket.create_connection(("10.9.0.1", 80), float(sys.argv[1])).close()
    seen["tcp"] = time.monotonic() - began
except TimeoutError:
    seen["tcp"] = None
print(json.dumps(seen))
"""
# Datagrams, each from a port of its own when the second argument is "flows"; prints how many arrived.
SHOWER = """
import socket, sys, time
def sender():
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one = sender()
for n in range(int(sys.argv[1])):
    one.sendto(b"x", ("10.9.0.1", 7000))
    if sys.argv[2] == "flows":
        one.close()
        one = sender()
with sender() as ask:
    ask.settimeout(20)
    time.sleep(0.3)
    ask.sendto(b"?", ("10.9.0.3", 7001))
    print(ask.recv(64).decode())
"""


class Link:
    """The task's namespace, with a peer at the other end of its eth0."""

    def __init__(self, pid: int, post: Ask) -> None:
        self.pid, self.post = pid, post
        self.before = self.queues()

    def queues(self) -> str:
        """What tc shows of the interface."""
        return inside(self.pid, "tc", "qdisc", "show", "dev", "eth0") + inside(
            self.pid, "tc", "filter", "show", "dev", "eth0"
        )

    def seen(self, *addresses: str, patience: float = 5.0) -> dict[str, float | None]:
        """Seconds of a round trip to each address, and of a TCP connection to FAULTY; None for what was lost."""
        output = inside(self.pid, sys.executable, "-c", PROBE, str(patience), *(addresses or (FAULTY, SPARED, SIX)))
        return dict(json.loads(output))

    def arrived(self, number: int, kind: str = "one") -> float:
        """The share of so many datagrams that reached FAULTY."""
        return int(inside(self.pid, sys.executable, "-c", SHOWER, str(number), kind)) / number


@pytest.fixture
def link(slow_machine, start, writers) -> Iterator[Link]:
    """A task whose eth0 leads to a peer with two addresses of IPv4 and one of IPv6."""
    with network_namespace() as ours, network_namespace() as theirs:
        inside(ours, "sh", "-c", ENDS.format(peer=theirs))
        inside(theirs, "sh", "-c", FAR)
        words = ["nsenter", f"--net=/proc/{theirs}/ns/net", sys.executable, "-c", PEER]
        peer = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert peer.stdout is not None and peer.stdout.readline() == b"up\n"
        writers.instance()
        awsvpc_task(writers, ours, "eth0")
        try:
            yield Link(ours, asker(start()))
        finally:
            peer.kill()
            peer.wait()


RUNNING, STOPPED, NOT_RUNNING = ((200, {"Status": status}) for status in ("running", "stopped", "not-running"))
Times = dict[str, Any]


def quick(times: Times) -> bool:
    """Nothing is lost, nothing takes longer than a busy machine explains."""
    return all(seconds is not None and seconds < 0.25 for seconds in times.values())


def test_latency_delays_the_sources_only_and_goes_away(link: Link):
    """UDP and TCP of both families are late by the delay; a filtered address is not; then all is as before."""
    body = {"DelayMilliseconds": 600, "JitterMilliseconds": 50, "Sources": ["10.9.0.0/24", SIX],
            "SourcesToFilter": [SPARED]}  # fmt: skip
    assert quick(link.seen())
    assert link.post(LATENCY, "start", body) == RUNNING
    assert link.post(LATENCY, "status", {}) == RUNNING
    assert link.post(LOSS, "status", {}) == NOT_RUNNING
    times: Times = link.seen()
    assert quick({SPARED: times.pop(SPARED)})
    assert set(times) == {FAULTY, SIX, "tcp"} and all(0.54 < t < 1.2 for t in times.values()), times
    assert link.queues().count("netem") == 100, "every flow has its own"
    conflict = {"Error": "There is already one network latency fault running"}
    assert link.post(LOSS, "start", {"LossPercent": 9, "Sources": [FAULTY], "FlowsPercent": 1}) == (409, conflict)
    assert link.post(LATENCY, "start", body) == (409, conflict)
    assert link.post(LOSS, "stop", {}) == STOPPED, "the other kind is left alone"
    assert link.post(LATENCY, "status", {}) == RUNNING
    assert link.post(LATENCY, "stop", {}) == STOPPED
    assert link.post(LATENCY, "stop", {}) == STOPPED
    assert link.post(LATENCY, "status", {}) == NOT_RUNNING
    assert quick(link.seen()) and link.queues() == link.before


def test_packets_are_lost_in_the_asked_share(link: Link):
    """A thousand datagrams at 40 percent: 600 come through, give or take five standard deviations."""
    assert link.arrived(200) == 1
    assert link.post(LOSS, "start", {"LossPercent": 40, "Sources": [FAULTY]}) == RUNNING
    assert link.post(LOSS, "status", {}) == RUNNING and link.post(LATENCY, "status", {}) == NOT_RUNNING
    assert 0.52 < link.arrived(1000, "flows") < 0.68
    conflict = {"Error": "There is already one network packet loss fault running"}
    assert link.post(LATENCY, "start", {"DelayMilliseconds": 1, "JitterMilliseconds": 0, "Sources": [SPARED]}) == (
        409, conflict,
    )  # fmt: skip
    assert link.post(LOSS, "stop", {}) == STOPPED
    assert link.arrived(200) == 1 and link.queues() == link.before


def test_a_share_of_the_flows_is_hit_and_a_flow_is_hit_wholly(link: Link):
    """FlowsPercent 30 with all packets lost: some seven of ten connections work as ever, the others not at all."""
    body = {"LossPercent": 100, "Sources": [FAULTY], "FlowsPercent": 30}
    assert link.post(LOSS, "start", body) == RUNNING
    assert link.queues().count("netem") == 30
    assert 0.5 < link.arrived(600, "flows") < 0.9
    assert link.arrived(100) in (0, 1), "one flow has one fate"
    assert link.post(LOSS, "stop", {}) == STOPPED


def test_all_packets_lost_is_a_task_cut_off_from_the_source(link: Link):
    """Nothing comes through to the source, by UDP or TCP; the rest of the network works."""
    assert link.post(LOSS, "start", {"LossPercent": 100, "Sources": [FAULTY, SIX]}) == RUNNING
    times = link.seen(patience=1.0)
    assert times[FAULTY] is times[SIX] is times["tcp"] is None
    assert quick({SPARED: times[SPARED]})
    assert link.post(LOSS, "stop", {}) == STOPPED and quick(link.seen())


def test_a_black_hole_swallows_one_port_towards_one_end(link: Link):
    """Egress to TCP 80 hangs but for a filtered address; UDP to the same address works on."""
    body = {"Port": 80, "Protocol": "tcp", "TrafficType": "egress", "SourcesToFilter": ["10.8.0.0/16"]}
    start: Callable[[str], tuple[int, Any]] = lambda operation: link.post("network-blackhole-port", operation, body)  # noqa: E731
    assert start("start") == RUNNING
    times = link.seen(patience=1.0)
    assert times.pop("tcp") is None and quick(times)
    assert start("stop") == STOPPED and quick(link.seen())
    body["SourcesToFilter"] = [FAULTY]
    assert start("start") == RUNNING and quick(link.seen())
    assert start("stop") == STOPPED
