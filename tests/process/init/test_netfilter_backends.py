"""The process `init` on both back ends of iptables: exact listings, recovery while a client asks, nothing left behind.

Each test runs in network namespaces of its own, at the same time with iptables-nft and with iptables-legacy.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable

import gevent
import pytest

from tests.process.init.conftest import Init, Namespace, answer, link

R1 = "-A PREROUTING -d 169.254.170.2/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 127.0.0.1:51679"
R2 = "-A INPUT ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
R3 = "-A INPUT ! -i lo -p tcp -m tcp --dport 51678 -j DROP"
R4 = "-A INPUT -i docker0 -p tcp -m tcp --dport 51678 -j ACCEPT"
R5 = "-A OUTPUT -d 169.254.170.2/32 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 51679"
NAT = [R1, R5]
ASK_ON = """
import select, socket, sys, time
last, longest = None, 0.0
while not select.select([sys.stdin], [], [], 0.05)[0]:
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
print(max(longest, time.monotonic() - last))
"""


class Side:
    """One back end on a host of its own: its programs, what they list, and the process `init` that uses them."""

    def __init__(self, name: str, host: Namespace, directory, eventually) -> None:
        self.name, self.host, self.eventually = name, host, eventually
        self.tools, run_dir = directory / f"{name}-tools", directory / name
        self.tools.mkdir()
        run_dir.mkdir()
        for program in ("iptables", "iptables-save", "ip6tables", "ip6tables-save"):
            (self.tools / program).symlink_to(str(shutil.which(program.replace("tables", f"tables-{name}"))))
        self.path = f"{self.tools}:{os.environ['PATH']}"
        self.init = Init(host, run_dir)

    def start(self, **extra: str) -> Init:
        """Start `init` with the programs of this back end and wait until it is ready."""
        init = self.init
        count = init.log().count("init is ready")
        init.start(PATH=self.path, **extra)
        ended = lambda: init.process is None or init.process.poll() is not None  # noqa: E731
        self.eventually(lambda: init.log().count("init is ready") > count or ended(), seconds=15)
        assert not ended(), init.log()
        return init

    def run(self, program: str, *arguments: str) -> str:
        return self.host.run(str(self.tools / program), *arguments).stdout

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


@pytest.fixture
def on_each(make_host, run_dir, eventually):
    """Run a function on both back ends at the same time; a failure says on which."""

    def run(function: Callable[[Side], None]) -> None:
        names = [name for name in ("nft", "legacy") if shutil.which(f"iptables-{name}-save")]
        if not names:
            pytest.skip("neither iptables-nft nor iptables-legacy is installed")
        sides = [Side(name, make_host(), run_dir, eventually) for name in names]
        running = {side.name: gevent.spawn(function, side) for side in sides}
        gevent.joinall(list(running.values()))
        for name, greenlet in running.items():
            if greenlet.exception is not None:
                raise AssertionError(f"on the back end {name}: {greenlet.exception}") from greenlet.exception

    return run


SKIP, ALLOW = "ECS_SKIP_LOCALHOST_TRAFFIC_FILTER", "ECS_ALLOW_OFFHOST_INTROSPECTION_ACCESS"


@pytest.mark.parametrize(("switches", "ipv4", "ipv6"), [
    ({}, [R4, R3, R2], [R4, R3]),
    ({SKIP: "true"}, [R4, R3], [R4, R3]),
    ({SKIP: "yes"}, [R4, R3, R2], [R4, R3]),
    ({ALLOW: "1"}, [R2], []),
    ({SKIP: "T", ALLOW: "true"}, [], []),
], ids=["none", "skip", "no boolean", "allow", "both"])  # fmt: skip
def test_the_listing_is_exact_for_each_switch(on_each, name_bridge, switches, ipv4, ipv6):
    """Cases 1 to 4 and 14: position, text and number of every rule, in both families."""

    def check(side: Side) -> None:
        name_bridge(side.init)
        side.start(**switches)
        side.eventually(lambda: side.chain("iptables", "filter") == ipv4, seconds=5)
        side.eventually(lambda: side.chain("ip6tables", "filter") == ipv6, seconds=5)
        assert side.chain("iptables", "nat") == NAT
        assert side.chain("ip6tables", "nat") == []

    on_each(check)


def test_credentials_come_back_within_five_seconds_of_a_flush(on_each, make_host):
    """Case 15, while a client of a bridge keeps asking: the longest silence is what the flush cost."""

    def check(side: Side) -> None:
        answer(side.host, 51679)
        init = side.start()
        client = link(side.host, make_host).spawn(
            sys.executable, "-c", ASK_ON, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert client.stdout.readline() == b"first\n"
        for arguments in (("-t", "nat", "-F"), ("-F",)):
            side.run("iptables", *arguments)
            side.run("ip6tables", "-F")
            side.eventually(lambda: side.chain("iptables", "nat") == NAT, seconds=5)
            side.eventually(lambda: side.chain("iptables", "filter") == [R3, R2], seconds=5)
            side.eventually(lambda: side.chain("ip6tables", "filter") == [R3], seconds=5)
        told, _ = client.communicate(b"enough\n", 5)
        longest = float(told.split()[-1])
        print(f"longest silence after a flush on {side.name}: {longest:.2f} s")
        assert longest < 5
        assert "put back R" in init.log()

    on_each(check)


def test_ten_starts_and_stops_leave_the_listing_as_it_was(on_each):
    """With rules of somebody else around ours: nothing is left, doubled or moved."""
    foreign = (
        "-P FORWARD DROP",
        "-A INPUT -p tcp --dport 22 -j ACCEPT",
        "-A INPUT -p udp -j DROP",
        "-t nat -A POSTROUTING -s 10.1.0.0/16 -j MASQUERADE",
    )

    def check(side: Side) -> None:
        for rule in foreign:
            side.run("iptables", *rule.split())
        before = side.everything()
        assert len(before) == len(foreign)
        for _ in range(10):
            init = side.start()
            assert set(NAT) < set(side.chain("iptables", "nat"))
            assert init.terminate() == 0
            assert side.everything() == before
        assert side.host.setting("net/ipv4/conf/all/route_localnet") == "0"

    on_each(check)


def test_a_replaced_rule_is_put_back_and_a_foreign_one_stays(on_each):
    """The mark of the rule set changes although the number of rules does not; nf_tables tells of it at once."""

    def check(side: Side) -> None:
        init = side.start()
        side.run("iptables", "-R", "INPUT", "1", "-p", "udp", "-j", "DROP")
        side.eventually(lambda: R3 in side.chain("iptables", "filter"), seconds=1.8 if side.name == "nft" else 5)
        assert init.terminate() == 0
        assert side.chain("iptables", "filter") == ["-A INPUT -p udp -j DROP"]

    on_each(check)


def test_rules_stay_when_the_supervisor_is_killed_and_go_at_an_ordered_stop(on_each):
    """Nobody ordered a stop: tasks run on and need credentials until systemd has started the service again."""
    code = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-m', 'services.init']);"
        "print(child.pid, flush=True); child.wait()"
    )

    def check(side: Side) -> None:
        init = side.init
        with open(init.run_dir / "init.out", "ab") as out:
            environment = init.environment(PATH=side.path)
            parent = side.host.spawn(sys.executable, "-c", code, env=environment, stdout=subprocess.PIPE, stderr=out)
        child = int(parent.stdout.readline())
        beat = init.run_dir / "init.beat"
        side.eventually(lambda: beat.exists() and b'"ready": true' in beat.read_bytes(), seconds=15)
        before = side.everything()
        assert f"iptables *nat {R1}" in before
        parent.send_signal(signal.SIGKILL)
        side.eventually(lambda: not os.path.exists(f"/proc/{child}"), seconds=10)
        assert side.everything() == before
        init.start(PATH=side.path)
        side.eventually(lambda: "every rule was in place already" in init.log(), seconds=15)
        assert init.terminate() == 0
        assert side.chain("iptables", "nat") == [] and side.chain("ip6tables", "filter") == []

    on_each(check)
