"""The netfilter rules that the task endpoint and the introspection port need, as data.

Pure: a configuration and a few facts about the host go in, rules come out; nothing here runs a command. The order of
`desired_rules` is the order of installation, that of `removal_order` the order of removal.

  R1  tasks on bridges reach 169.254.170.2:80, which is 127.0.0.1:51679 (nat PREROUTING)
  R2  nobody on the link reaches services on 127.0.0.0/8, although route_localnet is on (filter INPUT)
  R3  the introspection port 51678 answers only on the loopback interface (filter INPUT, IPv4 and IPv6) ...
  R4  ... and on Docker's default bridge
  R5  host processes and host-mode tasks reach 169.254.170.2:80 (nat OUTPUT)

Source: spec 09 §5.1 (exact argument vectors), §5.2 (IPv6), §15 N4 (order), N8 (removal).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

Family = Literal[4, 6]
Action = Literal["append", "insert"]

ENDPOINT_ADDRESS = "169.254.170.2"
ENDPOINT_PORT = 51679
INTROSPECTION_PORT = 51678
DEFAULT_BRIDGE = "docker0"

_GO_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_GO_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False", ""})


class Rule(Struct, frozen=True):
    """One rule of one address family, and why it is there."""

    id: str
    family: Family
    table: str
    chain: str
    action: Action
    args: tuple[str, ...]
    purpose: str

    @property
    def name(self) -> str:
        """R3 for IPv4, R3v6 for IPv6: how logs and tests call it."""
        return self.id if self.family == 4 else f"{self.id}v6"

    def vector(self, operation: str) -> tuple[str, ...]:
        """Arguments after the program name, for an operation such as -C or -D."""
        return ("-t", self.table, operation, self.chain, *self.args)

    def adding(self) -> tuple[str, ...]:
        """Arguments that add the rule: -A at the end of the chain, -I at its head."""
        return self.vector("-A" if self.action == "append" else "-I")


class Switches(Struct, frozen=True):
    """What the operator decides about the rules."""

    skip_localhost_filter: bool = False
    allow_offhost_introspection: bool = False


class HostFacts(Struct, frozen=True):
    """What the rules need to know of the host. `bridge` is None while Docker has not named its default bridge."""

    loopback: str = "lo"
    bridge: str | None = None
    ipv6: bool = True


def go_boolean(text: str) -> tuple[bool, bool]:
    """(value, whether the text is one of Go's boolean literals); everything else is False (spec 09 §4.1)."""
    return text in _GO_TRUE, text in _GO_TRUE or text in _GO_FALSE


_TO_ENDPOINT = ("-p", "tcp", "-d", ENDPOINT_ADDRESS, "--dport", "80")
_TO_INTROSPECTION = ("-p", "tcp", "--dport", str(INTROSPECTION_PORT))


def credentials_prerouting() -> Rule:
    """R1."""
    args = (*_TO_ENDPOINT, "-j", "DNAT", "--to-destination", f"127.0.0.1:{ENDPOINT_PORT}")
    purpose = "containers reach the credentials and metadata endpoint"
    return Rule("R1", 4, "nat", "PREROUTING", "append", args, purpose)


def localhost_filter() -> Rule:
    """R2."""
    foreign = ("--dst", "127.0.0.0/8", "!", "--src", "127.0.0.0/8")
    args = (*foreign, "-m", "conntrack", "!", "--ctstate", "RELATED,ESTABLISHED,DNAT", "-j", "DROP")
    purpose = "other hosts on the link cannot reach services on 127.0.0.0/8"
    return Rule("R2", 4, "filter", "INPUT", "insert", args, purpose)


def introspection_block(family: Family, loopback: str) -> Rule:
    """R3."""
    args = (*_TO_INTROSPECTION, "!", "-i", loopback, "-j", "DROP")
    return Rule("R3", family, "filter", "INPUT", "insert", args, "other hosts cannot reach the introspection port")


def introspection_bridge(family: Family, bridge: str) -> Rule:
    """R4."""
    args = (*_TO_INTROSPECTION, "-i", bridge, "-j", "ACCEPT")
    purpose = "containers on the default bridge reach the introspection port"
    return Rule("R4", family, "filter", "INPUT", "insert", args, purpose)


def credentials_output() -> Rule:
    """R5."""
    args = (*_TO_ENDPOINT, "-j", "REDIRECT", "--to-ports", str(ENDPOINT_PORT))
    purpose = "host processes and host-mode tasks reach the credentials and metadata endpoint"
    return Rule("R5", 4, "nat", "OUTPUT", "append", args, purpose)


def desired_rules(switches: Switches, facts: HostFacts) -> tuple[Rule, ...]:
    """The rules for this configuration, in the order of installation: R2 R1 R3 R3v6 R4 R4v6 R5.

    R2 is first because route_localnet, which it guards, is switched on right after it (spec 09 §15 N4). R3 comes
    before R4 because both are inserted at the head of the chain and R4 must end up above R3.
    """
    families: tuple[Family, ...] = (4, 6) if facts.ipv6 else (4,)
    rules: list[Rule] = []
    if not switches.skip_localhost_filter:
        rules.append(localhost_filter())
    rules.append(credentials_prerouting())
    if not switches.allow_offhost_introspection:
        rules += [introspection_block(family, facts.loopback) for family in families]
        if facts.bridge:
            rules += [introspection_bridge(family, facts.bridge) for family in families]
    rules.append(credentials_output())
    return tuple(rules)


def every_rule(loopback: str, ipv6: bool) -> tuple[Rule, ...]:
    """All rules whatever the switches say, R4 for docker0: what is removed when no record is left (spec 09 §15 N9)."""
    return desired_rules(Switches(), HostFacts(loopback, DEFAULT_BRIDGE, ipv6))


def removal_order(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """R1, R2, R3, R3v6, R4, R4v6, R5 (spec 09 §5.4)."""
    return tuple(sorted(rules, key=lambda rule: (rule.id, rule.family)))
