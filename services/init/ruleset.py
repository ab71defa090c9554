"""What `iptables-save` says about our rules: which are missing, doubled or out of reach.

Pure. A line of the listing and the arguments of a rule are brought into the same shape (aliases resolved, order
forgotten, the implied `-m tcp` dropped), so that one listing answers what would take a fork of `iptables -C` per rule.
The answer "missing" is only a suspicion: the caller asks `-C` before it adds, because another version of the tool may
spell a rule in a way that is not known here.

Positions: R4 must be above R3, and a rule of ours is out of reach when an earlier one that accepts or drops takes
every packet it would have matched (spec 09 §15 N6).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from msgspec import Struct

from services.init.rules import Family, Rule

Chain = tuple[Family, str, str]  # family, table, chain

_ALIASES = {
    "--protocol": "-p", "--source": "-s", "--src": "-s", "--destination": "-d", "--dst": "-d",
    "--in-interface": "-i", "--out-interface": "-o", "--jump": "-j", "--goto": "-g", "--match": "-m",
    "--destination-port": "--dport", "--source-port": "--sport",
}  # fmt: skip
_TERMINAL_TARGETS = frozenset({"ACCEPT", "DROP", "REJECT"})
_IMPLIED_MATCHES = frozenset({("-m", "tcp"), ("-m", "udp")})
_WITHOUT_CONDITION = frozenset({("-m", "comment"), ("-m", "multiport")})  # what they ask for is in their options
_TRANSPORTS = frozenset({("-p", "tcp"), ("-p", "udp")})
_PORT_SETS = frozenset({"--dport", "--dports", "--ports"})


class Listed(Struct, frozen=True):
    """One rule, with spelling and order of its conditions removed."""

    conditions: frozenset[tuple[str, ...]]
    target: tuple[str, ...]


Ruleset = dict[Chain, list[Listed]]


def canonical(args: Sequence[str]) -> Listed:
    """Bring the arguments of a rule, ours or a listed one, into the comparable shape."""
    groups = _groups(args)
    cut = next((index for index, group in enumerate(groups) if group[0] in ("-j", "-g")), len(groups))
    conditions = frozenset(group for group in groups[:cut] if group not in _IMPLIED_MATCHES)
    return Listed(conditions, tuple(token for group in groups[cut:] for token in group))


def _groups(args: Sequence[str]) -> list[tuple[str, ...]]:
    """Options with their values; a preceding or following "!" becomes part of the option's group."""
    groups: list[list[str]] = []
    negated = False
    for token in args:
        if token == "!":
            negated = True
        elif token.startswith("-") or not groups:
            groups.append((["!"] if negated else []) + [_ALIASES.get(token, token)])
            negated = False
        else:
            groups[-1].append(_value(groups[-1][-1], token))
    return [tuple(group) for group in groups]


def _value(option: str, token: str) -> str:
    """A host address is listed with its mask, and the states of conntrack in an order of the tool's own."""
    if option in ("-s", "-d"):
        return token.removesuffix("/32").removesuffix("/128")
    if option == "--ctstate":
        return ",".join(sorted(token.split(",")))
    return token


def parse_save(text: str, family: Family) -> Ruleset:
    """Parse the output of iptables-save or ip6tables-save; what is not a rule is skipped."""
    ruleset: Ruleset = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith("-A "):
            tokens = _split(line)
            ruleset.setdefault((family, table, tokens[1]), []).append(canonical(tokens[2:]))
    return ruleset


def _split(line: str) -> list[str]:
    """shlex is needed only for quoted comments and is some forty times slower than str.split."""
    if '"' not in line:
        return line.split()
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def copies(rule: Rule, ruleset: Ruleset) -> int:
    """How often the rule is in its chain."""
    return ruleset.get((rule.family, rule.table, rule.chain), []).count(canonical(rule.args))


def below_block(rule: Rule, rules: Sequence[Rule], ruleset: Ruleset) -> str:
    """Says so when R4, which is present, is below R3; empty otherwise. An R3 that was put back is above it."""
    if rule.id != "R4":
        return ""
    above = _above(rule, ruleset)
    blocks = [other for other in rules if other.id == "R3" and other.family == rule.family]
    if any(canonical(block.args) in above for block in blocks):
        return f"{rule.name} is below R3, which drops what it should accept"
    return ""


def hidden(rule: Rule, rules: Sequence[Rule], ruleset: Ruleset) -> str:
    """Which rule of other software keeps this one, which is present, from its work; empty when none does."""
    if rule.action != "insert":
        return ""
    own = canonical(rule.args)
    ours = {canonical(other.args) for other in rules}
    for earlier in _above(rule, ruleset):
        if earlier not in ours and _hides(earlier, own):
            return f"{rule.name} is below a rule that decides first ({' '.join(earlier.target)})"
    return ""


def _above(rule: Rule, ruleset: Ruleset) -> list[Listed]:
    chain = ruleset.get((rule.family, rule.table, rule.chain), [])
    own = canonical(rule.args)
    return chain[: chain.index(own)] if own in chain else []


def _hides(earlier: Listed, own: Listed) -> bool:
    """Whether `earlier` takes every packet of `own`, with another outcome: fewer conditions match more packets."""
    if len(earlier.target) < 2 or earlier.target[1] not in _TERMINAL_TARGETS or earlier.target == own.target:
        return False
    return all(_meets(own, condition) for condition in earlier.conditions)


def _meets(own: Listed, condition: tuple[str, ...]) -> bool:
    """Whether every packet of `own` meets a condition of somebody else's rule.

    A rule of ours without a protocol is there for services on TCP and UDP: one that takes all of either comes first.
    """
    if condition in own.conditions or condition in _WITHOUT_CONDITION or condition[0] == "--comment":
        return True
    if condition in _TRANSPORTS:
        return not any(mine[0] == "-p" for mine in own.conditions)
    if condition[0] in _PORT_SETS and len(condition) == 2:
        wanted = next((mine[1] for mine in own.conditions if mine[0] == "--dport"), "1:65535")
        return any(_within(wanted, ports) for ports in condition[1].split(","))
    return False


def _within(wanted: str, ports: str) -> bool:
    """Whether a port or range `first:last` lies in another; a name of a service or a broken range does not hold it."""
    (low, high), (first, last) = _bounds(wanted), _bounds(ports)
    return first <= low and high <= last


def _bounds(ports: str) -> tuple[int, int]:
    first, colon, last = ports.partition(":")
    try:
        return int(first), int(last) if colon else int(first)
    except ValueError:
        return 1, 0  # no port at all
