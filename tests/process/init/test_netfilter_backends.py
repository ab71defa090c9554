"""The process `init` on both back ends of iptables: exact listings, recovery while a client asks, nothing left behind.

Each test runs in network namespaces of its own, once with iptables-nft and once with iptables-legacy.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.process.init.conftest import answer

R1 = "-A PREROUTING -d 169.254.170.2/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 127.0.0.1:51679"
R2 = "-A INPUT ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
R3 = "-A INPUT ! -i lo -p tcp -m tcp --dport 51678 -j DROP"
R4 = "-A INPUT -i docker0 -p tcp -m tcp --dport 51678 -j ACCEPT"
R5 = "-A OUTPUT -d 169.254.170.2/32 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 51679"
NAT = [R1, R5]
ASK_ON = """
import socket, sys, time
end, last, longest = time.monotonic() + float(sys.argv[1]), None, 0.0
while time.monotonic() < end:
    try:
        with socket.create_connection(("169.254.170.2", 80), 0.25) as client:
            client.settimeout(0.25)
            if client.recv(16) == b"hello":
                if last is None:
                    print("first", flush=True)
                longest = max(longest, time.monotonic() - (last or time.monotonic()))
                last = time.monotonic()
    except OSError:
        pass
    time.sleep(0.05)
print(max(longest, time.monotonic() - last))
"""


class Backend:
    """The programs of one back end, and what they list in a namespace."""

    def __init__(self, name: str, host, directory) -> None:
        self.name, self.host, self.directory = name, host, directory
        directory.mkdir()
        for program in ("iptables", "iptables-save", "ip6tables", "ip6tables-save"):
            (directory / program).symlink_to(str(shutil.which(program.replace("tables", f"tables-{name}"))))
        self.path = f"{directory}:{os.environ['PATH']}"

    def run(self, program: str, *arguments: str) -> str:
        return self.host.run(str(self.directory / program), *arguments).stdout

    def chain(self, family: str, table: str) -> list[str]:
        """The rules of a table in their order."""
        listed = self.run(f"{family}-save", "-t", table).splitlines()
        return [line for line in listed if line.startswith("-A")]

    def everything(self) -> list[str]:
        """Every rule of every table in its order and every policy that is not the default, both families."""
        found = []
        for family in ("iptables", "ip6tables"):
            table = ""
            for line in self.run(f"{family}-save").splitlines():
                table = line if line.startswith("*") else table
                policy = line.startswith(":") and " ACCEPT " not in line and " - " not in line
                if line.startswith("-A") or policy:
                    found.append(f"{family} {table} {line.partition('[')[0]}")
        return sorted(found, key=lambda line: line.partition(" -A ")[0])


@pytest.fixture(params=["nft", "legacy"])
def backend(request, host, tmp_path):
    """One of the back ends of this host."""
    if not shutil.which(f"iptables-{request.param}-save"):
        pytest.skip(f"the back end {request.param} is not installed")
    return Backend(request.param, host, tmp_path / "tools")


@pytest.fixture
def running(init, backend, eventually):
    """Start `init` with the programs of that back end and wait until it is ready."""

    def start(**extra):
        count = init.log().count("init is ready")
        init.start(PATH=backend.path, **extra)
        eventually(lambda: init.log().count("init is ready") > count or init.process.poll() is not None, seconds=15)
        assert init.process.poll() is None, init.log()
        return init

    return start


SKIP, ALLOW = "ECS_SKIP_LOCALHOST_TRAFFIC_FILTER", "ECS_ALLOW_OFFHOST_INTROSPECTION_ACCESS"


@pytest.mark.parametrize(("switches", "ipv4", "ipv6"), [
    ({}, [R4, R3, R2], [R4, R3]),
    ({SKIP: "true"}, [R4, R3], [R4, R3]),
    ({SKIP: "yes"}, [R4, R3, R2], [R4, R3]),
    ({ALLOW: "1"}, [R2], []),
    ({SKIP: "T", ALLOW: "true"}, [], []),
], ids=["none", "skip", "no boolean", "allow", "both"])  # fmt: skip
def test_the_listing_is_exact_for_each_switch(running, backend, name_bridge, eventually, switches, ipv4, ipv6):
    """Cases 1 to 4 and 14: position, text and number of every rule, in both families."""
    name_bridge()
    running(**switches)
    eventually(lambda: backend.chain("iptables", "filter") == ipv4, seconds=5)
    assert backend.chain("ip6tables", "filter") == ipv6
    assert backend.chain("iptables", "nat") == NAT
    assert backend.chain("ip6tables", "nat") == []


def test_credentials_come_back_within_five_seconds_of_a_flush(running, backend, host, linked, eventually):
    """Case 15, while a client of a bridge keeps asking: the longest silence is what the flush cost."""
    answer(host, 51679)
    init = running()
    client = linked.spawn(sys.executable, "-c", ASK_ON, "7", stdout=subprocess.PIPE)
    assert client.stdout.readline() == b"first\n"
    for arguments in (("-t", "nat", "-F"), ("-F",)):
        backend.run("iptables", *arguments)
        backend.run("ip6tables", "-F")
        eventually(lambda: backend.chain("iptables", "nat") == NAT, seconds=5)
        eventually(lambda: backend.chain("iptables", "filter") == [R3, R2], seconds=5)
        eventually(lambda: backend.chain("ip6tables", "filter") == [R3], seconds=5)
    longest = float(client.stdout.read().decode().split()[-1])
    print(f"longest silence after a flush on {backend.name}: {longest:.2f} s")
    assert longest < 5
    assert "put back R" in init.log()


def test_ten_starts_and_stops_leave_the_listing_as_it_was(running, backend, host):
    """With rules of somebody else around ours: nothing is left, doubled or moved."""
    foreign = (
        "-P FORWARD DROP",
        "-A INPUT -p tcp --dport 22 -j ACCEPT",
        "-A INPUT -p udp -j DROP",
        "-t nat -A POSTROUTING -s 10.1.0.0/16 -j MASQUERADE",
    )
    for rule in foreign:
        backend.run("iptables", *rule.split())
    before = backend.everything()
    assert len(before) == len(foreign)
    for _ in range(10):
        init = running()
        assert set(NAT) < set(backend.chain("iptables", "nat"))
        assert init.terminate() == 0
        assert backend.everything() == before
    assert host.setting("net/ipv4/conf/all/route_localnet") == "0"


def test_a_replaced_rule_is_put_back_and_a_foreign_one_stays(running, backend, eventually):
    """The mark of the rule set changes although the number of rules does not."""
    init = running()
    backend.run("iptables", "-R", "INPUT", "1", "-p", "udp", "-j", "DROP")
    eventually(lambda: R3 in backend.chain("iptables", "filter"), seconds=5)
    assert init.terminate() == 0
    assert backend.chain("iptables", "filter") == ["-A INPUT -p udp -j DROP"]


def test_rules_stay_when_the_supervisor_is_killed_and_go_at_an_ordered_stop(init, backend, host, eventually):
    """Nobody ordered a stop: tasks run on and need credentials until systemd has started the service again."""
    code = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-m', 'services.init']);"
        "print(child.pid, flush=True); child.wait()"
    )
    with open(init.run_dir / "init.out", "ab") as out:
        parent = host.spawn(
            sys.executable, "-c", code, env=init.environment(PATH=backend.path), stdout=subprocess.PIPE, stderr=out
        )
    child = int(parent.stdout.readline())
    beat = init.run_dir / "init.beat"
    eventually(lambda: beat.exists() and b'"ready": true' in beat.read_bytes(), seconds=15)
    before = backend.everything()
    assert f"iptables *nat {R1}" in before
    parent.send_signal(signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{child}"), seconds=10)
    assert backend.everything() == before
    init.start(PATH=backend.path)
    eventually(lambda: "every rule was in place already" in init.log(), seconds=15)
    assert init.terminate() == 0
    assert backend.chain("iptables", "nat") == [] and backend.chain("ip6tables", "filter") == []
