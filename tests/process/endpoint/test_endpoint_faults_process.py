"""The three faults with the machine's own iptables and tc, in network namespaces of the tests' own.

Not every kernel has the queueing disciplines prio and netem and the classifier flow. Where they are,
test_endpoint_netem.py runs the faults whole; everywhere tc itself reads each command: it exits with 1 for one that it
does not understand, and with 2 for one that it understood and the kernel refused.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gevent
import pytest

from services.endpoint.faultcommands import Command, netem_check, netem_start, netem_stop
from services.endpoint.faultrequests import LATENCY, LOSS, Netem, parse
from services.endpoint.faultroutes import run_command
from tests.process.endpoint.faultbench import inside, kernel_has_netem

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("iptables"), reason="needs root and iptables"),
]

SERVER = """
import socket, sys
family, address, port = (socket.AF_INET6, "::1", 8080) if sys.argv[1] == "6" else (socket.AF_INET, "127.0.0.1", 8080)
with socket.socket(family) as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen()
    with socket.socket(family) as client:
        client.settimeout(0.3)
        try:
            client.connect((address, port))
            print("through")
        except TimeoutError:
            print("dropped")
"""
FROM_THE_KERNEL = ("Error: ", "RTNETLINK answers: ")


def rules(pid: int, tool: str = "iptables") -> str:
    """The filter rules of the namespace."""
    return inside(pid, tool, "-S")


def test_a_blackhole_is_started_checked_and_stopped_in_the_tasks_namespace_only(post, namespace):
    """The rules are where the task is, are exact for both families, and leave nothing behind."""
    body = {"Port": 80, "Protocol": "tcp", "TrafficType": "egress", "SourcesToFilter": ["10.1.0.0/16", "fd00::/8"]}
    before, before6, ours = rules(namespace), rules(namespace, "ip6tables"), rules(os.getpid())
    assert post("network-blackhole-port", "status", body) == (200, {"Status": "not-running"})
    for _ in range(2):  # a second start changes nothing
        assert post("network-blackhole-port", "start", body) == (200, {"Status": "running"})
        assert rules(namespace).splitlines() == [
            *before.splitlines(),
            "-N egress-tcp-80",
            "-A OUTPUT -j egress-tcp-80",
            "-A egress-tcp-80 -d 10.1.0.0/16 -p tcp -m tcp --dport 80 -j ACCEPT",
            "-A egress-tcp-80 -d 169.254.170.2/32 -p tcp -m tcp --dport 80 -j ACCEPT",
            "-A egress-tcp-80 -p tcp -m tcp --dport 80 -j DROP",
        ]
    assert rules(namespace, "ip6tables").splitlines() == [
        *before6.splitlines(),
        "-N egress-tcp-80",
        "-A OUTPUT -j egress-tcp-80",
        "-A egress-tcp-80 -d fd00::/8 -p tcp -m tcp --dport 80 -j ACCEPT",
        "-A egress-tcp-80 -p tcp -m tcp --dport 80 -j DROP",
    ]
    assert rules(os.getpid()) == ours, "the machine's own rules are not touched"
    assert post("network-blackhole-port", "status", body) == (200, {"Status": "running"})
    for _ in range(2):
        assert post("network-blackhole-port", "stop", body) == (200, {"Status": "stopped"})
        assert (rules(namespace), rules(namespace, "ip6tables")) == (before, before6)


@pytest.mark.parametrize("traffic", ["ingress", "egress"])
def test_a_blackhole_swallows_packets_and_gives_them_back(post, namespace, traffic):
    """Connections to the port hang while it runs, over IPv4 and IPv6, and work before and after it."""
    body = {"Port": 8080, "Protocol": "tcp", "TrafficType": traffic}

    def connection(family: str) -> str:
        return inside(namespace, sys.executable, "-c", SERVER, family).strip()

    assert connection("4") == connection("6") == "through"
    assert post("network-blackhole-port", "start", body)[0] == 200
    assert connection("4") == connection("6") == "dropped"
    assert post("network-blackhole-port", "stop", body)[0] == 200
    assert connection("4") == connection("6") == "through"


def test_a_task_in_host_mode_gets_its_fault_where_the_agent_is(writers, run_dir, namespace, eventually):
    """The whole service in a namespace with a default route: no nsenter, the interface of that route."""
    inside(namespace, "sh", "-c", "ip addr add 10.0.0.9/24 dev lo && ip route add default via 10.0.0.1 dev lo")
    writers.instance()
    writers.task("a", network_mode="host", enable_fault_injection=True)
    environment = os.environ | {"ECS_RUN_DIR": str(run_dir), "ECS_DATADIR": str(run_dir), "ECS_ENDPOINT_WORKERS": "1",
                                "ECS_AUDIT_LOGFILE": str(run_dir / "audit.log")}  # fmt: skip
    command = ["nsenter", f"--net=/proc/{namespace}/ns/net", sys.executable, "-m", "services.endpoint"]
    log = run_dir / "host.log"
    with open(log, "wb") as file:
        process = subprocess.Popen(command, cwd=Path(__file__).parents[3], env=environment, stdout=file, stderr=file)
    ask = """
import http.client, sys
c = http.client.HTTPConnection("127.0.0.1", 51679, timeout=8)
c.request("POST", f"/api/e-a/fault/v1/network-blackhole-port/{sys.argv[1]}",
          '{"Port":18999,"Protocol":"udp","TrafficType":"ingress"}')
print(c.getresponse().read().decode())
"""

    def post(operation: str) -> str:
        words = ["nsenter", f"--net=/proc/{namespace}/ns/net", sys.executable, "-c", ask, operation]
        return subprocess.run(words, capture_output=True, text=True).stdout.strip()

    try:
        eventually(lambda: post("start") == '{"Status":"running"}', seconds=15, pause=0.3)
        assert "-A ingress-udp-18999 -p udp -m udp --dport 18999 -j DROP" in rules(namespace)
        assert post("stop") == '{"Status":"stopped"}' and "18999" not in rules(namespace)
    finally:
        process.terminate()
        process.wait(10)
    assert "Traceback" not in log.read_text()


# -- latency and packet loss ---------------------------------------------------------------------------

REQUESTS = [
    (LATENCY, {"DelayMilliseconds": 100, "JitterMilliseconds": 5, "Sources": ["10.9.0.0/16"], "FlowsPercent": 15}),
    (LOSS, {"LossPercent": 100, "Sources": ["10.9.9.9", "fd00::9/64"], "SourcesToFilter": ["127.0.0.2", "::1"]}),
]


@pytest.mark.parametrize(("fault", "body"), REQUESTS)
def test_tc_understands_every_command_of_the_faults(namespace, fault, body):
    """Also where the kernel cannot do what they ask for: a wrong word would be tc's own error, with status 1."""
    request = parse(fault, json.dumps(body).encode())
    assert isinstance(request, Netem)
    commands: list[Command] = [netem_check("lo"), *netem_start(request, "lo"), *netem_stop("lo")]
    assert len(commands) == 1 + 23 + request.flows_percent + len(request.sources) + len(request.filtered) + 2
    for command in commands:
        status, output = run_command(["nsenter", f"--net=/proc/{namespace}/ns/net", *command], 5.0)
        refused = status == 2 and output.startswith(FROM_THE_KERNEL)
        assert status == 0 or refused, (command, status, output)
    wrong = ["nsenter", f"--net=/proc/{namespace}/ns/net", "tc", "qdisc", "add", "dev", "lo", "root", "prio", "bogus"]
    assert run_command(wrong, 5.0)[0] == 1, "this is how tc tells of a word that it does not know"


def test_the_filters_are_accepted_by_the_kernels_own_classifier(namespace):
    """u32 is nearly everywhere; any classful discipline does for it, since prio may be missing."""
    prefix = ["nsenter", f"--net=/proc/{namespace}/ns/net"]
    if run_command([*prefix, "tc", "qdisc", "add", "dev", "lo", "root", "handle", "1:", "htb"], 5.0)[0]:
        pytest.skip("this kernel has no htb")
    request = parse(LOSS, json.dumps(REQUESTS[1][1]).encode())
    assert isinstance(request, Netem)
    filters = [c for c in netem_start(request, "lo") if "u32" in c]
    assert len(filters) == 4
    for command in filters:
        assert run_command([*prefix, *command], 5.0) == (0, ""), command
    shown = inside(namespace, "tc", "filter", "show", "dev", "lo")
    assert shown.count("flowid 1:3") == shown.count("flowid 1:1") == 2


def test_a_kernel_without_prio_is_told_as_an_internal_error(post):
    """tc's refusal becomes the reference's answer; the log has tc's words. Such a host lacks the capability."""
    if kernel_has_netem():
        pytest.skip("this kernel can do it")
    fault, body = REQUESTS[0]
    assert post(fault, "status", {}) == (200, {"Status": "not-running"})
    assert post(fault, "start", body) == (500, {"Error": "internal error"})
    assert post(fault, "stop", {}) == (200, {"Status": "stopped"})


def test_two_starts_at_the_same_moment_are_one_fault(post, namespace):
    """The lock of the namespace is held from the check to the last command."""
    body = {"Port": 99, "Protocol": "tcp", "TrafficType": "ingress"}
    asked = [gevent.spawn(post, "network-blackhole-port", "start", body) for _ in range(4)]
    gevent.joinall(asked, raise_error=True)
    assert {one.value[0] for one in asked} == {200}
    assert rules(namespace).count("-j ingress-tcp-99") == 1
