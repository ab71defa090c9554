"""Bring the host's rules, kernel settings and route into the desired state, keep them there, take them away again.

The only writer of nfm.json and of the rules while it runs (spec 09 §15). `start` decides what is wanted and records
it before anything is touched; `converge` makes it so and is safe to call at any time; `remove` undoes it from the
record. As a service we own every rule of ours that we find, since only an earlier incarnation or the reference's init
puts them there, and reduce copies to one. In local mode the machine is somebody's: what was there before we came is
left alone, at the start and at the end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

from services.init import host, netlink, state, sysctl
from services.init.errors import NetfilterError, RouteError, SysctlError
from services.init.netfilter import Netfilter
from services.init.rules import (
    DEFAULT_BRIDGE,
    ENDPOINT_ADDRESS,
    ENDPOINT_PORT,
    INTROSPECTION_PORT,
    Family,
    HostFacts,
    Rule,
    Switches,
    desired_rules,
    every_rule,
    go_boolean,
    removal_order,
)
from services.init.ruleset import Ruleset, below_block, copies, hidden

SKIP_FILTER = "ECS_SKIP_LOCALHOST_TRAFFIC_FILTER"
ALLOW_OFFHOST = "ECS_ALLOW_OFFHOST_INTROSPECTION_ACCESS"
_ROUNDS = 3
_COPIES_LIMIT = 32
_MOVE_AGAIN_SECONDS = 60.0  # software that insists on the head of a chain must not be fought every two seconds


class Settings(Struct, frozen=True):
    """How this manager behaves: where it keeps its record, and whose machine it is on."""

    run_directory: Path
    local: bool = False
    switches: Switches = Switches()


class Outcome(Struct, frozen=True):
    """What `converge` had to do, by name, and what it could not do."""

    changed: tuple[str, ...] = ()
    errors: tuple[Exception, ...] = ()


def read_switches(environ: Mapping[str, str], log: logging.Logger) -> Switches:
    """The two switches of the operator. A value that is no boolean is reported and counts as false (spec 09 §4.1)."""

    def flag(name: str) -> bool:
        value, known = go_boolean(environ.get(name, ""))
        if not known:
            log.error("%s=%r is no boolean (true, false, 1, 0, t, f); it counts as false", name, environ[name])
        return value

    return Switches(flag(SKIP_FILTER), flag(ALLOW_OFFHOST))


class Manager:
    """Owner of R1 to R5, route_localnet, accept_ra, the route of IPv6-only hosts and the reservation of our ports."""

    def __init__(
        self,
        settings: Settings,
        log: logging.Logger,
        netfilter: Netfilter | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._log = log
        self._netfilter = netfilter or Netfilter()
        self._monotonic = monotonic
        self._facts = HostFacts()
        self._wanted: tuple[Rule, ...] = ()
        self._moved: dict[str, float] = {}
        self._cannot_reserve = False
        self.state: state.State | None = None

    # -- start ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Decide what is wanted and record it, beside what an earlier incarnation wanted and we do not.

        Raises NotPossibleHere or NetfilterError, with nothing changed; OSError when the record cannot be written.
        """
        self._netfilter.require()
        earlier = state.load(self._settings.run_directory, self._log)
        if earlier is not None and earlier.removed:
            earlier = None
        self._facts = HostFacts(host.loopback_name(), earlier.bridge if earlier else None, self._ipv6())
        self._wanted = desired_rules(self._settings.switches, self._facts)
        ruleset = self._netfilter.read(self.families)
        self.state = self._fresh(ruleset) if earlier is None else earlier
        self._record(ruleset)

    def _ipv6(self) -> bool:
        if not host.has_ipv6():
            return False
        if self._netfilter.tool(6) is None:
            self._log.warning("ip6tables is not installed: port 51678 is not closed for IPv6 hosts")
            return False
        return True

    @property
    def families(self) -> tuple[Family, ...]:
        """The address families that have rules here."""
        return (4, 6) if self._facts.ipv6 else (4,)

    def _fresh(self, ruleset: Ruleset) -> state.State:
        """The first record. Rules without a record were left by somebody who switched route_localnet on already."""
        left_over = not self._settings.local and any(copies(rule, ruleset) for rule in self._wanted)
        before = None if left_over else sysctl.read(sysctl.ALL_ROUTE_LOCALNET)
        return msgspec.structs.replace(state.here(), loopback=self._facts.loopback, route_localnet_before=before)

    def _record(self, ruleset: Ruleset) -> None:
        """Write what is wanted into the record, and keep what is ours and wanted no more until it is deleted."""
        assert self.state is not None
        known = {record.rule: record.owned for record in self.state.rules}
        records = tuple(state.Record(rule, self._owned(rule, known, ruleset)) for rule in self._wanted)
        unwanted = tuple(r for r in self.state.rules if r.owned and r.rule not in self._wanted)
        self._save(rules=records + unwanted, bridge=self._facts.bridge)

    def _drop_unwanted(self) -> str:
        """Delete what the record has and the configuration has not any more; returns the names."""
        assert self.state is not None
        unwanted = [record.rule for record in self.state.rules if record.rule not in self._wanted]
        for rule in unwanted:
            delete_all(rule, self._netfilter, self._copies())
        if unwanted:
            self._save(rules=tuple(record for record in self.state.rules if record.rule in self._wanted))
        return ", ".join(f"{rule.name} removed" for rule in unwanted)

    def _owned(self, rule: Rule, known: Mapping[Rule, bool], ruleset: Ruleset) -> bool:
        if not self._settings.local:
            return True
        if rule in known:
            return known[rule]
        return copies(rule, ruleset) == 0 and not self._netfilter.present(rule)

    def _save(self, **changes: object) -> None:
        assert self.state is not None
        changed = msgspec.structs.replace(self.state, **changes)
        if changed != self.state or not (self._settings.run_directory / state.FILE_NAME).exists():
            state.save(self._settings.run_directory, changed)
            self.state = changed

    def set_bridge(self, bridge: str | None) -> bool:
        """Take over Docker's name for its default bridge; True if R4 changes. `converge` must follow."""
        if bridge == self._facts.bridge or self.state is None:
            return False
        self._facts = msgspec.structs.replace(self._facts, bridge=bridge)
        self._wanted = desired_rules(self._settings.switches, self._facts)
        self._record(self._netfilter.read(self.families))
        return True

    @property
    def bridge(self) -> str | None:
        """Docker's default bridge as far as it is known."""
        return self._facts.bridge

    # -- keep ----------------------------------------------------------------------------------------------------

    def converge(self) -> Outcome:
        """Make the host as recorded. Rules that fail do not keep the others from being installed."""
        changed: list[str] = []
        for _ in range(_ROUNDS):
            errors: list[Exception] = []
            try:
                ruleset = self._netfilter.read(self.families)
            except NetfilterError as error:
                return Outcome(tuple(changed), (error,))
            now = self._round(ruleset, errors)
            changed += [name for name in now if name not in changed]
            if not now or errors:
                return Outcome(tuple(changed), tuple(errors))
        fight = NetfilterError("other software changes the same rules as fast as they are put back")
        return Outcome(tuple(changed), (fight,))

    def _round(self, ruleset: Ruleset, errors: list[Exception]) -> list[str]:
        changed: list[str] = []
        self._attempt(self._drop_unwanted, changed, errors)
        self._attempt(self._settle_ports, changed, errors)
        guards = [rule for rule in self._wanted if rule.id == "R2"]
        unguarded: list[Exception] = []
        for rule in guards:
            self._attempt(partial(self._ensure, rule, ruleset), changed, unguarded)
        errors += unguarded
        if not unguarded:  # without its guard R2, route_localnet would open 127.0.0.0/8 to the link
            self._attempt(self._settle_sysctl, changed, errors)
            self._attempt(self._settle_route, changed, errors)
        for rule in self._wanted:
            if rule.id != "R2":
                self._attempt(partial(self._ensure, rule, ruleset), changed, errors)
        return changed

    @staticmethod
    def _attempt(step: Callable[[], str], changed: list[str], errors: list[Exception]) -> None:
        try:
            name = step()
        except (NetfilterError, OSError) as error:
            errors.append(error)
        else:
            if name:
                changed.append(name)

    def _ensure(self, rule: Rule, ruleset: Ruleset) -> str:
        """One copy, where it can work. Returns the rule's name if something had to be done."""
        found = copies(rule, ruleset)
        if found == 0:
            if self._netfilter.present(rule):
                return ""
            self._netfilter.add(rule)
            return rule.name
        if not self._is_owned(rule):
            return ""
        if found > 1 and not self._settings.local:
            for _ in range(found - 1):
                self._netfilter.delete(rule)
            return rule.name
        reason = below_block(rule, self._wanted, ruleset) or self._hidden(rule, ruleset)
        if not reason:
            return ""
        self._log.warning("%s; it is moved to the head of %s", reason, rule.chain)
        self._netfilter.delete(rule)
        self._netfilter.add(rule)
        return rule.name

    def _hidden(self, rule: Rule, ruleset: Ruleset) -> str:
        """Why other software's rules call for a move now; empty when they do not, or did a moment ago."""
        if self._monotonic() - self._moved.get(rule.name, -_MOVE_AGAIN_SECONDS) < _MOVE_AGAIN_SECONDS:
            return ""
        reason = hidden(rule, self._wanted, ruleset)
        if reason:
            self._moved[rule.name] = self._monotonic()
        return reason

    def _is_owned(self, rule: Rule) -> bool:
        assert self.state is not None
        return any(record.owned for record in self.state.rules if record.rule == rule)

    def _settle_sysctl(self) -> str:
        changed = sysctl.enable_route_localnet()
        for interface in dict.fromkeys((DEFAULT_BRIDGE, self._facts.bridge or DEFAULT_BRIDGE)):
            before = sysctl.read(sysctl.accept_ra_key(interface))
            if before not in (None, "0"):
                assert self.state is not None
                self._save(accept_ra_before={interface: before, **self.state.accept_ra_before})
                sysctl.disable_accept_ra(interface)
        return "route_localnet" if changed else ""

    def _settle_route(self) -> str:
        """The route that a host without an IPv4 default gateway needs before R5 can act (spec 09 §6.2)."""
        assert self.state is not None
        undecided = self.state.route_added is None
        if undecided:
            self._save(route_added=not netlink.has_ipv4_default_gateway())
        if not self.state.route_added:
            return ""
        try:
            added = netlink.add_host_route(ENDPOINT_ADDRESS, self._facts.loopback)
        except OSError as error:
            raise RouteError(
                f"cannot add the route {ENDPOINT_ADDRESS} dev {self._facts.loopback}: {error.strerror}"
            ) from error
        if undecided and not added and self._settings.local:
            self._save(route_added=False)  # it was there before us
        return "route" if added else ""

    def _settle_ports(self) -> str:
        """Our two ports lie in the kernel's range for outgoing connections. One that has such a port keeps the endpoint
        from listening, for a minute after its end still (TIME_WAIT). The reference leaves this to chance."""
        assert self.state is not None
        if self._cannot_reserve:
            return ""
        try:
            missing = sysctl.not_reserved((ENDPOINT_PORT, INTROSPECTION_PORT))
            if not missing:
                return ""
            self._save(ports_reserved=tuple(sorted(missing.union(self.state.ports_reserved))))
            sysctl.reserve(missing)
        except SysctlError as error:  # nearly always the ports are free all the same
            self._cannot_reserve = True
            self._log.warning("%s; an outgoing connection may take a port of the endpoint while it is down", error)
            return ""
        return "reserved ports"

    def disturbed(self) -> bool:
        """Whether route_localnet was switched off by somebody: a look that costs next to nothing."""
        return sysctl.read(sysctl.ALL_ROUTE_LOCALNET) != "1"

    # -- remove --------------------------------------------------------------------------------------------------

    def remove(self, seconds: float = 5.0) -> list[str]:
        """Undo what the record says, all of it whatever fails; returns what failed, as sentences.

        Order: sysctl, route, R1, R2, R3, R4, R5 (spec 09 §15 N8). `seconds` bounds the whole.
        """
        if self.state is None:
            return []
        errors = remove(self.state, self._netfilter, self._settings.local, self._monotonic() + seconds, self._monotonic)
        try:
            self._save(removed=True)
        except OSError as error:
            errors.append(f"cannot write {self._settings.run_directory / state.FILE_NAME}: {error}")
        self.state = None
        return errors

    def _copies(self) -> int:
        return 1 if self._settings.local else _COPIES_LIMIT


def delete_all(rule: Rule, netfilter: Netfilter, limit: int = _COPIES_LIMIT) -> None:
    """Delete up to `limit` copies of a rule. Raises NetfilterError."""
    for _ in range(limit):
        if not netfilter.delete(rule):
            return


def remove(
    record: state.State,
    netfilter: Netfilter,
    local: bool,
    deadline: float,
    monotonic: Callable[[], float] = time.monotonic,
) -> list[str]:
    """Undo a record. Works without Docker, Redis or the manager that wrote it."""
    errors: list[str] = []

    def attempt(what: str, step: Callable[[], object]) -> None:
        left = deadline - monotonic()
        if left <= 0:
            errors.append(f"error removing {what}: no time left")
            return
        netfilter.lock_wait_seconds = max(1, min(5, int(left)))
        try:
            step()
        except (NetfilterError, OSError) as error:
            errors.append(f"error removing {what}: {error}")

    attempt("route_localnet", lambda: sysctl.restore_route_localnet(record.route_localnet_before))
    if local:
        for interface, value in record.accept_ra_before.items():
            attempt(f"accept_ra of {interface}", partial(_restore_accept_ra, interface, value))
    if record.route_added:
        attempt("route", lambda: netlink.delete_host_route(ENDPOINT_ADDRESS, record.loopback))
    for rule in removal_order(entry.rule for entry in record.rules if entry.owned):
        attempt(
            f"{rule.chain.lower()} chain entry", partial(delete_all, rule, netfilter, 1 if local else _COPIES_LIMIT)
        )
    if record.ports_reserved:
        attempt("reserved ports", lambda: sysctl.give_back(record.ports_reserved))
    return errors


def _restore_accept_ra(interface: str, value: str) -> None:
    if sysctl.read(sysctl.accept_ra_key(interface)) is not None:
        sysctl.write(sysctl.accept_ra_key(interface), value)


def unrecorded(netfilter: Netfilter) -> state.State:
    """The record to undo when there is none: every rule, and the sysctl and route as the reference does."""
    ipv6 = host.has_ipv6() and netfilter.tool(6) is not None
    loopback = host.loopback_name()
    rules = every_rule(loopback, ipv6)
    return msgspec.structs.replace(
        state.here(),
        loopback=loopback,
        rules=tuple(state.Record(rule, True) for rule in rules),
        route_added=not netlink.has_ipv4_default_gateway(),
    )
