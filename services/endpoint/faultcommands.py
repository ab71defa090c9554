"""The commands of fault injection as data, and their order (spec 06 §17.5, §17.6).

A fault is started, stopped and checked by iptables and tc in the network namespace of the task. Functions here build
argument lists; `Operator` runs them through a function that tests replace. Nothing is rolled back when a command
fails: the answer says so and the operator can stop the fault.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from services.endpoint.faultrequests import LATENCY, LOSS, Blackhole, Netem, is_ipv6

log = logging.getLogger(__name__)

Command = list[str]
Result = tuple[int, str]  # exit status and output
Runner = Callable[[Command], Result]

TABLES = {"ingress": "INPUT", "egress": "OUTPUT"}
TOOLS = (("iptables", "0.0.0.0/0", False), ("ip6tables", "::/0", True))
ROOT = ["root", "handle", "1:", "prio"]
FAULT_BAND = ["parent", "1:1", "handle", "10:"]
PRIOMAP = ["priomap", *["2"] * 16]
HASH = "flow hash keys src,dst,proto,proto-src,proto-dst divisor 10 baseclass"
BUCKETS = 10  # classes of one prio qdisc; the hundred leaves are ten times ten
FLOW_HANDLE, LEAF_HANDLE = 100, 200

RUNNING, STOPPED, NOT_RUNNING = "running", "stopped", "not-running"


class CommandFailed(Exception):
    """A command cannot be run, ended with a failure, or its output makes no sense."""


class Conflict(Exception):
    """A fault of the other kind, or the same, is already running; the text is the answer."""


@dataclass(frozen=True)
class Target:
    """Where a fault happens: namespace path (`host` = the agent's own), interfaces, and whether it has no IPv4."""

    namespace: str
    interfaces: tuple[str, ...]
    ipv6_only: bool = False

    @property
    def prefix(self) -> Command:
        """What comes before each command."""
        return [] if self.namespace == "host" else ["nsenter", f"--net={self.namespace}"]


# -- commands ----------------------------------------------------------------------------------------


def blackhole_check(fault: Blackhole) -> Command:
    """Exit 0 when the fault runs; IPv4 only, like the reference (W13)."""
    return ["iptables", "-w", "5", "-C", fault.chain, "-p", fault.protocol, "--dport", str(fault.port), "-j", "DROP"]


def blackhole_start(fault: Blackhole, tool: str, everywhere: str, ipv6: bool) -> Iterator[Command]:
    """A chain that lets the filtered addresses pass and drops the rest."""
    base, match = [tool, "-w", "5"], ["-p", fault.protocol, "-d"]
    yield [*base, "-N", fault.chain]
    for address in fault.filtered:
        if is_ipv6(address) == ipv6:
            yield [*base, "-A", fault.chain, *match, address, "--dport", str(fault.port), "-j", "ACCEPT"]
    yield [*base, "-A", fault.chain, *match, everywhere, "--dport", str(fault.port), "-j", "DROP"]
    yield [*base, "-I", TABLES[fault.traffic], "-j", fault.chain]


def blackhole_stop(fault: Blackhole, tool: str) -> Iterator[Command]:
    """Empty the chain, unhook it, delete it."""
    base = [tool, "-w", "5"]
    yield [*base, "-F", fault.chain]
    yield [*base, "-D", TABLES[fault.traffic], "-j", fault.chain]
    yield [*base, "-X", fault.chain]


def _nibble(index: int) -> str:
    return f"{index + 1:x}"  # class ids are hexadecimal: 1 ... 9, a


def netem_check(interface: str) -> Command:
    """Lists the netem of the first flow."""
    return ["tc", "-j", "q", "show", "dev", interface, "parent", f"{FLOW_HANDLE}:1"]


def netem_start(fault: Netem, interface: str) -> Iterator[Command]:
    """A tree of prio qdiscs with a hundred leaves; traffic to the sources is hashed over them, N of them are netem."""
    qdisc = ["tc", "qdisc", "add", "dev", interface]
    yield [*qdisc, *ROOT, *PRIOMAP]
    yield [*qdisc, *FAULT_BAND, "prio", "bands", "10", *PRIOMAP]
    for index in range(BUCKETS):
        where = f"parent 10:{_nibble(index)} handle {FLOW_HANDLE + index}: prio bands 10"
        yield [*qdisc, *where.split(), *PRIOMAP]
    for index in range(fault.flows_percent):
        parent = f"{FLOW_HANDLE + index // BUCKETS}:{_nibble(index % BUCKETS)}"
        yield [*qdisc, "parent", parent, "handle", f"{LEAF_HANDLE + index}:", "netem", *fault.arguments]
    yield from _netem_filters(fault, interface)


def _netem_filters(fault: Netem, interface: str) -> Iterator[Command]:
    add = ["tc", "filter", "add", "dev", interface, "protocol", "all"]
    for addresses, priority, flow in ((fault.filtered, "1", "1:3"), (fault.sources, "2", "1:1")):
        for address in addresses:
            family = "ip6" if is_ipv6(address) else "ip"
            yield [*add, "parent", "1:0", "prio", priority, "u32", "match", family, "dst", address, "flowid", flow]
    yield [*add, *f"parent 10: handle 1 prio 2 {HASH} 10:1".split()]
    for index in range(BUCKETS):
        handle = FLOW_HANDLE + index
        yield [*add, *f"parent {handle}: handle {index + 1} prio 2 {HASH} {handle}:1".split()]


def netem_stop(interface: str) -> Iterator[Command]:
    """Take the tree away."""
    delete = ["tc", "qdisc", "del", "dev", interface]
    yield [*delete, *FAULT_BAND]
    yield [*delete, *ROOT]


# -- running them ------------------------------------------------------------------------------------


class Operator:
    """Starts, stops and checks faults in one target. Raises CommandFailed, Conflict, and what `run` raises."""

    def __init__(self, target: Target, run: Runner) -> None:
        self.target, self._runner = target, run

    def _run(self, command: Command) -> Result:
        return self._runner([*self.target.prefix, *command])

    def _must(self, command: Command) -> None:
        status, output = self._run(command)
        if status:
            raise CommandFailed(f"{' '.join(command)}: exit status {status}: {output[:500]}")

    # -- blackhole ---------------------------------------------------------------------------------

    def is_blackholed(self, fault: Blackhole) -> bool:
        """Whether the fault runs; any failure of the check means that it does not."""
        return self._run(blackhole_check(fault))[0] == 0

    def start_blackhole(self, fault: Blackhole) -> str:
        """Start unless it runs."""
        if not self.is_blackholed(fault):
            for tool, everywhere, ipv6 in TOOLS:
                self._each(tool, blackhole_start(fault, tool, everywhere, ipv6))
        return RUNNING

    def stop_blackhole(self, fault: Blackhole) -> str:
        """Stop if it runs."""
        if self.is_blackholed(fault):
            for tool, _, _ in TOOLS:
                self._each(tool, blackhole_stop(fault, tool))
        return STOPPED

    def _each(self, tool: str, commands: Iterator[Command]) -> None:
        for command in commands:
            try:
                self._must(command)
            except CommandFailed as error:
                # Hosts without IPv6 in the kernel, or without the tool, fail here: their tasks lose nothing by it.
                if tool != "ip6tables" or self.target.ipv6_only:
                    raise
                log.warning("a fault goes on without IPv6: %s", error)

    # -- latency and packet loss ---------------------------------------------------------------------

    def netem_state(self) -> tuple[bool, bool]:
        """Whether latency, and whether packet loss, is running on any interface."""
        latency = loss = False
        for interface in self.target.interfaces:
            has_latency, has_loss = self._netem_of(interface)
            latency, loss = latency or has_latency, loss or has_loss
        return latency, loss

    def _netem_of(self, interface: str) -> tuple[bool, bool]:
        status, output = self._run(netem_check(interface))
        try:
            entries = json.loads(output)
        except ValueError:
            entries = None
        if status or not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise CommandFailed(f"tc cannot tell the queues of {interface}: {output[:500]}")
        options = [e["options"] for e in entries if e.get("kind") == "netem" and isinstance(e.get("options"), dict)]
        loss = any(o.get("loss-random") is not None for o in options)
        return bool(options) and not loss, loss

    def start_netem(self, fault: Netem) -> str:
        """Start when neither kind runs."""
        latency, loss = self.netem_state()
        if latency:
            raise Conflict("There is already one network latency fault running")
        if loss:
            raise Conflict("There is already one network packet loss fault running")
        for interface in self.target.interfaces:
            for command in netem_start(fault, interface):
                self._must(command)
        return RUNNING

    def stop_netem(self, kind: str) -> str:
        """Stop if this very kind runs."""
        if self.has_netem(kind):
            for interface in self.target.interfaces:
                for command in netem_stop(interface):
                    self._must(command)
        return STOPPED

    def has_netem(self, kind: str) -> bool:
        """Whether this kind runs."""
        latency, loss = self.netem_state()
        return {LATENCY: latency, LOSS: loss}[kind]
