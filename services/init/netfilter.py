"""Apply rules with the host's own `iptables` and `ip6tables`.

The programs are called, never libiptc: the rules must land in the back end that Docker's land in (spec 09 §18 trap 6).
Decisions go by exit status only, because texts differ between back ends: 0 is "done" or "there", 1 is "not there" for
-C and -D, anything else is an error. Every call waits at most a few seconds for the xtables lock and has a deadline.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from common import command
from services.init.errors import NetfilterError, NotPossibleHere
from services.init.rules import Family, Rule
from services.init.ruleset import Ruleset, parse_save

LOCK_WAIT_SECONDS = 5
_GRACE_SECONDS = 2.5
_ABSENT = 1
_CAP_NET_ADMIN = 12
_NAMES: dict[Family, str] = {4: "iptables", 6: "ip6tables"}

Runner = Callable[[Sequence[str], float], command.Result]


class Tool(Struct, frozen=True):
    """The programs of one address family, as paths."""

    change: str
    listing: str


def has_net_admin(status: Path = Path("/proc/self/status")) -> bool:
    """Whether this process has CAP_NET_ADMIN in its effective set."""
    for line in status.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return os.geteuid() == 0


class Netfilter:
    """Reads, adds and deletes single rules. Stateless but for the paths of the programs."""

    def __init__(self, run: Runner = command.run, find: Callable[[str], str | None] = command.find) -> None:
        self._run = run
        self._find = find
        self.lock_wait_seconds = LOCK_WAIT_SECONDS

    def require(self) -> None:
        """Raise NotPossibleHere, with what to do, when rules cannot be changed by this process at all."""
        if self.tool(4) is None:
            raise NotPossibleHere("iptables is not installed (not in PATH, /usr/sbin or /sbin): install it")
        if not has_net_admin():
            raise NotPossibleHere("this process lacks CAP_NET_ADMIN: run it as root on the host")

    def tool(self, family: Family) -> Tool | None:
        """The programs of a family, looked up anew each time; None when they are not installed."""
        change, listing = self._find(_NAMES[family]), self._find(f"{_NAMES[family]}-save")
        return Tool(change, listing) if change and listing else None

    def uses_nf_tables(self) -> bool:
        """Whether iptables works on the nf_tables back end, whose changes the kernel numbers."""
        return "(nf_tables)" in self._call((self._need(4).change, "-V")).out

    def read(self, families: Iterable[Family]) -> Ruleset:
        """List the rules of the families. Raises NetfilterError."""
        ruleset: Ruleset = {}
        for family in families:
            tables = () if family == 4 else ("-t", "filter")
            result = self._call((self._need(family).listing, *tables))
            if result.status != 0:
                raise NetfilterError(f"{_NAMES[family]}-save ended with {result.status}: {result.complaint()}")
            ruleset.update(parse_save(result.out, family))
        return ruleset

    def present(self, rule: Rule) -> bool:
        """Ask the tool itself whether the rule is there. Raises NetfilterError."""
        return self._change(rule, rule.vector("-C"), "be looked for")

    def add(self, rule: Rule) -> None:
        """Append or insert the rule. Raises NetfilterError."""
        self._change(rule, rule.adding(), "be added")

    def delete(self, rule: Rule) -> bool:
        """Delete the first copy of the rule; False when there was none. Raises NetfilterError."""
        return self._change(rule, rule.vector("-D"), "be deleted")

    def _change(self, rule: Rule, vector: tuple[str, ...], what: str) -> bool:
        argv = (self._need(rule.family).change, "-w", str(self.lock_wait_seconds), *vector)
        result = self._call(argv)
        if result.status not in (0, _ABSENT) or (result.status == _ABSENT and what == "be added"):
            raise NetfilterError(
                f"rule {rule.name} ({rule.purpose}) could not {what}: "
                f"{' '.join((_NAMES[rule.family], *vector))} ended with {result.status}: {result.complaint()}"
            )
        return result.status == 0

    def _call(self, argv: Sequence[str]) -> command.Result:
        try:
            return self._run(argv, self.lock_wait_seconds + _GRACE_SECONDS)
        except command.CommandFailed as error:
            raise NetfilterError(str(error)) from error

    def _need(self, family: Family) -> Tool:
        tool = self.tool(family)
        if tool is None:
            raise NetfilterError(f"{_NAMES[family]} is not installed any more: install it")
        return tool
