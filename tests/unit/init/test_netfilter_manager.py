"""The manager's decisions against a simulated iptables: ownership, copies, order of undoing, failures."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import command
from services.init import host, manager, netlink, state, sysctl
from services.init.errors import NotPossibleHere, SysctlError
from services.init.manager import Manager, Settings
from services.init.netfilter import Netfilter

LOG = logging.getLogger("test")
ALL = ["R2", "R1", "R3", "R3v6", "R4", "R4v6", "R5"]


class FakeIptables:
    """Chains as lists of argument strings; answers like the programs, by exit status."""

    def __init__(self) -> None:
        self.chains: dict[tuple[str, str, str], list[str]] = {}
        self.calls: list[str] = []
        self.failing: dict[str, int] = {}

    def find(self, name: str) -> str | None:
        return f"/sbin/{name}"

    def run(self, argv, timeout):
        program = Path(argv[0]).name
        self.calls.append(" ".join((program, *argv[1:])))
        for text, status in self.failing.items():
            if text in self.calls[-1]:
                return command.Result(status, "", "it does not work")
        if program.endswith("-save"):
            return command.Result(0, self._save(program.removesuffix("-save")), "")
        assert argv[1] == "-w" and 1 <= int(argv[2]) <= 5
        return command.Result(self._change(program, argv[4], argv[5], argv[6], " ".join(argv[7:])), "", "")

    def _change(self, program, table, operation, chain, args):
        rules = self.chains.setdefault((program, table, chain), [])
        if operation in ("-C", "-D") and args not in rules:
            return 1
        if operation == "-D":
            rules.remove(args)
        elif operation == "-A":
            rules.append(args)
        elif operation == "-I":
            rules.insert(0, args)
        return 0

    def _save(self, program):
        return "\n".join(
            f"*{table}\n" + "\n".join(f"-A {chain} {rule}" for rule in rules) + "\nCOMMIT"
            for (owner, table, chain), rules in self.chains.items()
            if owner == program
        )

    def flat(self) -> list[str]:
        return sorted(rule for rules in self.chains.values() for rule in rules)

    def copy(self, rule) -> None:
        self.run((f"/sbin/{'iptables' if rule.family == 4 else 'ip6tables'}", "-w", "5", *rule.adding()), 1)


@pytest.fixture
def tool(monkeypatch, tmp_path):
    """A host without rules, an IPv4 default gateway, docker0 known, and /proc/sys in a folder."""
    for key in (sysctl.ALL_ROUTE_LOCALNET, sysctl.DEFAULT_ROUTE_LOCALNET):
        path = tmp_path / "sys" / key
        path.parent.mkdir(parents=True)
        path.write_text("0\n")
    (tmp_path / "sys" / sysctl.RESERVED_PORTS).write_text("8080,9148-9150\n")
    monkeypatch.setattr(sysctl, "ROOT", tmp_path / "sys")
    monkeypatch.setattr(host, "loopback_name", lambda: "lo")
    monkeypatch.setattr(host, "has_ipv6", lambda: True)
    monkeypatch.setattr(netlink, "has_ipv4_default_gateway", lambda: True)
    monkeypatch.setattr("services.init.netfilter.has_net_admin", lambda: True)
    return FakeIptables()


@pytest.fixture
def make(tool, tmp_path):
    """Make one incarnation of the manager that has started and converged; `local` and switches as given."""

    def build(**settings) -> Manager:
        made = Manager(Settings(tmp_path / "run", **settings), LOG, Netfilter(tool.run, tool.find))
        made.start()
        made.set_bridge("docker0")
        return made

    return build


def test_a_first_start_installs_everything_in_order_and_switches_route_localnet_on_after_its_guard(make, tool):
    """N4: R2 before route_localnet, so the loopback services are at no moment open to the link."""
    outcome = make().converge()
    assert [name for name in outcome.changed if name not in ("route_localnet", "reserved ports")] == ALL
    assert outcome.changed.index("R2") < outcome.changed.index("route_localnet")
    assert not outcome.errors
    assert [rule.split(" -j ")[1] for rule in tool.chains["iptables", "filter", "INPUT"]] == ["ACCEPT", "DROP", "DROP"]


def test_a_second_look_changes_nothing(make, tool):
    """Installing is idempotent (N3), and a look costs two listings only."""
    made = make()
    made.converge()
    tool.calls.clear()
    assert made.converge().changed == ()
    assert tool.calls == ["iptables-save", "ip6tables-save -t filter"]


def test_a_killed_manager_finds_its_rules_and_doubles_none(make, tool):
    """Case 17: SIGKILL leaves rules and record; the next incarnation adopts them."""
    make().converge()
    before = tool.flat()
    assert make().converge().changed == ()
    assert tool.flat() == before


def test_the_endpoint_s_ports_are_kept_from_outgoing_connections(make, tool):
    """Beside what others reserved, which stays when ours go; an incarnation that was killed is remembered."""
    make().converge()
    assert sysctl.read(sysctl.RESERVED_PORTS) == "8080,9148-9150,51678-51679"
    again = make()
    assert "reserved ports" not in again.converge().changed
    assert again.remove() == []
    assert sysctl.read(sysctl.RESERVED_PORTS) == "8080,9148-9150"


def test_a_port_that_was_reserved_before_us_stays_so(make, tool):
    """The operator's own line in sysctl.conf is not ours to undo."""
    sysctl.write(sysctl.RESERVED_PORTS, "51678")
    made = make()
    made.converge()
    assert sysctl.read(sysctl.RESERVED_PORTS) == "51678-51679"
    made.remove()
    assert sysctl.read(sysctl.RESERVED_PORTS) == "51678"


def test_a_kernel_that_reserves_no_ports_gets_its_rules_all_the_same(make, tool, monkeypatch, caplog):
    """No such setting: nothing is said. One that cannot be set (a read-only /proc/sys): one warning."""
    (sysctl.ROOT / sysctl.RESERVED_PORTS).unlink()
    made = make()
    assert not made.converge().errors and "ports" not in caplog.text
    made.remove()
    (sysctl.ROOT / sysctl.RESERVED_PORTS).write_text("\n")

    def write(key: str, value: str) -> None:
        if key == sysctl.RESERVED_PORTS:
            raise SysctlError(f"cannot set /proc/sys/{key} to {value}: Read-only file system")
        original(key, value)

    original = sysctl.write
    monkeypatch.setattr(sysctl, "write", write)
    made = make()
    assert [made.converge().errors, made.converge().errors] == [(), ()]
    assert caplog.text.count("Read-only file system") == 1
    assert made.remove() == []


def test_as_a_service_copies_are_reduced_to_one(make, tool):
    """Case 16: the reference's init adds blindly."""
    first = make()
    first.converge()
    for record in first.state.rules:
        tool.copy(record.rule)
    make().converge()
    assert len(tool.flat()) == len(set(tool.flat())) + 2  # R3 and R4 are once in each family


def test_as_a_service_everything_is_removed_and_the_former_value_put_back(make, tool):
    """N8; case 17a: a value that was 1 before the first start is 1 again."""
    sysctl.write(sysctl.ALL_ROUTE_LOCALNET, "1")
    made = make()
    made.converge()
    assert made.remove() == []
    assert tool.flat() == []
    assert sysctl.read(sysctl.ALL_ROUTE_LOCALNET) == "1"


def test_the_first_remembered_value_survives_a_crash(make):
    """Trap 8: after a crash route_localnet is 1 by our own doing, which must not become the value to restore."""
    make().converge()
    second = make()
    second.converge()
    second.remove()
    assert sysctl.read(sysctl.ALL_ROUTE_LOCALNET) == "0"


def test_rules_without_a_record_make_the_former_value_unknown(make, tool, tmp_path):
    """Whoever left them switched route_localnet on too; the value of `default` is then the best there is (§6.1)."""
    made = make()
    made.converge()
    state.forget(tmp_path / "run")
    again = make()
    again.converge()
    assert again.state.route_localnet_before is None
    again.remove()
    assert sysctl.read(sysctl.ALL_ROUTE_LOCALNET) == "0"


def test_in_local_mode_only_what_was_added_is_removed(make, tool):
    """A rule that was there before belongs to somebody else, whose tasks need it."""
    foreign = [rule for rule in manager.every_rule("lo", True) if rule.name in ("R1", "R4v6")]
    for rule in foreign:
        tool.copy(rule)
    before = tool.flat()
    made = make(local=True)
    made.converge()
    assert len(tool.flat()) == 7
    assert made.remove() == []
    assert tool.flat() == before


def test_in_local_mode_copies_of_somebody_else_are_left(make, tool):
    """Doubled rules are not ours to tidy up."""
    rule = next(rule for rule in manager.every_rule("lo", True) if rule.name == "R5")
    tool.copy(rule)
    tool.copy(rule)
    made = make(local=True)
    made.converge()
    made.remove()
    assert len(tool.flat()) == 2


def test_in_local_mode_a_killed_run_is_cleaned_up_by_the_next(make, tool):
    """The record says which rules the killed run had added."""
    make(local=True).converge()
    again = make(local=True)
    again.converge()
    again.remove()
    assert tool.flat() == []
    assert sysctl.read(sysctl.ALL_ROUTE_LOCALNET) == "0"


def test_a_rule_that_is_wanted_no_more_is_removed_at_the_next_start(make, tool):
    """N2: the switch was set while the service was down."""
    make().converge()
    outcome = make(switches=manager.Switches(skip_localhost_filter=True)).converge()
    assert outcome.changed == ("R2 removed",)
    assert not [rule for rule in tool.flat() if "conntrack" in rule]


def test_another_bridge_moves_r4(make, tool):
    """A renamed default bridge: R4 follows, the old one goes."""
    made = make()
    made.converge()
    assert made.set_bridge("br-new")
    assert made.converge().changed == ("R4 removed, R4v6 removed", "R4", "R4v6")
    assert [rule for rule in tool.flat() if "ACCEPT" in rule] == ["-p tcp --dport 51678 -i br-new -j ACCEPT"] * 2


def test_a_failing_rule_does_not_keep_the_others_away(make, tool):
    """Case 9 for the manager: IPv4 credentials work although ip6tables does not; the error names the rule."""
    tool.failing["ip6tables -w"] = 3
    outcome = make().converge()
    assert {"R1", "R5", "R3", "R4"} <= set(outcome.changed)
    assert len(outcome.errors) == 2
    assert "R3v6" in str(outcome.errors[0]) and "it does not work" in str(outcome.errors[0])


def test_without_its_guard_route_localnet_stays_off(make, tool):
    """Otherwise services on 127.0.0.0/8 would be open to the link."""
    tool.failing["-I INPUT --dst"] = 4
    outcome = make().converge()
    assert len(outcome.errors) == 1
    assert sysctl.read(sysctl.ALL_ROUTE_LOCALNET) == "0"


def test_every_removal_is_attempted_although_one_fails(make, tool):
    """Case 11: a leftover must not cause more leftovers; the text is the reference's."""
    made = make()
    made.converge()
    tool.failing["-D PREROUTING"] = 4
    errors = made.remove()
    assert len(errors) == 1 and errors[0].startswith("error removing prerouting chain entry: ")
    assert len(tool.flat()) == 1


def test_software_that_insists_on_the_head_of_the_chain_is_not_fought(make, tool):
    """One move per minute: two managers that each want to be first would otherwise keep the host busy."""
    made = make()
    made.converge()
    chain = tool.chains["iptables", "filter", "INPUT"]
    chain.insert(0, "-j ACCEPT")
    assert made.converge().changed
    chain.remove("-j ACCEPT")
    chain.insert(0, "-j ACCEPT")
    assert made.converge().changed == ()


def test_a_block_that_comes_back_again_and_again_is_always_below_its_exception(make, tool):
    """N6, N7: R3 is put back at the head, above R4, which must be moved each time: nobody else is fought by that."""
    made = make()
    made.converge()
    chain = tool.chains["iptables", "filter", "INPUT"]
    good = list(chain)
    for _ in range(3):
        chain.remove(good[1])
        assert made.converge().changed == ("R3", "R4")
        assert chain == good


def test_a_missing_program_is_one_clear_sentence_and_touches_nothing(tool, tmp_path):
    """A machine without iptables runs the tree all the same."""
    made = Manager(Settings(tmp_path / "run"), LOG, Netfilter(tool.run, lambda name: None))
    with pytest.raises(NotPossibleHere, match="iptables is not installed"):
        made.start()
    assert tool.calls == [] and made.remove() == []


def test_without_ip6tables_the_ipv4_rules_are_there_and_one_line_says_what_is_open(tool, tmp_path, caplog):
    """Case 8; the program is looked for by its name."""
    find = {"iptables": "/sbin/iptables", "iptables-save": "/sbin/iptables-save"}.get
    made = Manager(Settings(tmp_path / "run"), LOG, Netfilter(tool.run, find))
    made.start()
    assert made.converge().errors == () and made.families == (4,)
    assert not [call for call in tool.calls if call.startswith("ip6")]
    assert caplog.text.count("ip6tables is not installed: port 51678 is not closed for IPv6 hosts") == 1


def test_without_ipv6_nobody_looks_for_ip6tables(tool, tmp_path, monkeypatch):
    """Case 7."""
    looked: list[str] = []
    monkeypatch.setattr(host, "has_ipv6", lambda: False)
    made = Manager(Settings(tmp_path / "run"), LOG, Netfilter(tool.run, lambda n: looked.append(n) or f"/sbin/{n}"))
    made.start()
    made.converge()
    made.remove()
    assert looked and not [name for name in looked if name.startswith("ip6")]


def test_a_process_without_the_capability_says_so(tool, tmp_path, monkeypatch):
    """A container without NET_ADMIN: the sentence names the capability."""
    monkeypatch.setattr("services.init.netfilter.has_net_admin", lambda: False)
    with pytest.raises(NotPossibleHere, match="lacks CAP_NET_ADMIN"):
        Manager(Settings(tmp_path / "run"), LOG, Netfilter(tool.run, tool.find)).start()


def test_a_record_of_another_boot_is_ignored(tmp_path):
    """Rules do not survive a reboot; yesterday's remembered value must not be restored."""
    state.save(tmp_path, state.State(boot="another", namespace=1, route_localnet_before="1"))
    assert state.load(tmp_path, LOG) is None


def test_a_broken_record_counts_as_absent(tmp_path, caplog):
    """The kernel is the record then (trap 18)."""
    (tmp_path / state.FILE_NAME).write_text('{"junk"')
    assert state.load(tmp_path, LOG) is None
    assert "cannot be used" in caplog.text


def test_a_route_is_added_only_without_an_ipv4_default_gateway(make, monkeypatch):
    """Case 24 to 26: and it is removed only by who added it."""
    calls: list[str] = []
    monkeypatch.setattr(netlink, "has_ipv4_default_gateway", lambda: False)
    monkeypatch.setattr(netlink, "add_host_route", lambda to, device: calls.append(f"add {to} {device}") or True)
    monkeypatch.setattr(netlink, "delete_host_route", lambda to, device: calls.append(f"del {to} {device}"))
    made = make()
    made.converge()
    made.remove()
    assert calls[0] == "add 169.254.170.2 lo" and calls[-1] == "del 169.254.170.2 lo"


@given(st.sets(st.integers(1, 65535), max_size=40), st.sets(st.integers(1, 65535), max_size=3))
def test_giving_reserved_ports_back_undoes_reserving_them(before, ours):
    """Whatever is in the list; the kernel's own form of it included."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(sysctl, "ROOT", Path(folder))
        (Path(folder) / sysctl.RESERVED_PORTS).parent.mkdir(parents=True)
        (Path(folder) / sysctl.RESERVED_PORTS).write_text(",".join(map(str, sorted(before))) + "\n")
        new = sysctl.not_reserved(ours)
        assert new == ours - before
        sysctl.reserve(new)
        assert sysctl.not_reserved(before | ours) == set()
        sysctl.give_back(new)
        assert sysctl.not_reserved(range(1, 65536)) == set(range(1, 65536)) - before
