"""Which rules a configuration asks for, to the letter of the reference (spec 09 §5.1, §17 cases 1 to 13)."""

from __future__ import annotations

import logging

import pytest

from services.init.manager import read_switches
from services.init.rules import HostFacts, Switches, desired_rules, every_rule, go_boolean, removal_order

R1 = "-t nat -A PREROUTING -p tcp -d 169.254.170.2 --dport 80 -j DNAT --to-destination 127.0.0.1:51679"
R2 = (
    "-t filter -I INPUT --dst 127.0.0.0/8 ! --src 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
)
R3 = "-t filter -I INPUT -p tcp --dport 51678 ! -i lo -j DROP"
R4 = "-t filter -I INPUT -p tcp --dport 51678 -i docker0 -j ACCEPT"
R5 = "-t nat -A OUTPUT -p tcp -d 169.254.170.2 --dport 80 -j REDIRECT --to-ports 51679"
DOCKER = HostFacts(bridge="docker0")


def written(switches: Switches, facts: HostFacts) -> list[tuple[int, str]]:
    """Family and command line of each rule."""
    return [(rule.family, " ".join(rule.adding())) for rule in desired_rules(switches, facts)]


CASES = [
    ("no switch", Switches(), DOCKER, [(4, R2), (4, R1), (4, R3), (6, R3), (4, R4), (6, R4), (4, R5)]),
    ("no localhost filter", Switches(skip_localhost_filter=True), DOCKER,
     [(4, R1), (4, R3), (6, R3), (4, R4), (6, R4), (4, R5)]),
    ("introspection open", Switches(allow_offhost_introspection=True), DOCKER, [(4, R2), (4, R1), (4, R5)]),
    ("no default bridge", Switches(), HostFacts(), [(4, R2), (4, R1), (4, R3), (6, R3), (4, R5)]),
    ("no IPv6", Switches(), HostFacts(bridge="docker0", ipv6=False), [(4, R2), (4, R1), (4, R3), (4, R4), (4, R5)]),
    ("other names", Switches(skip_localhost_filter=True), HostFacts("lo0", "br0", False),
     [(4, R1), (4, R3.replace("-i lo", "-i lo0")), (4, R4.replace("docker0", "br0")), (4, R5)]),
    ("only credentials", Switches(True, True), DOCKER, [(4, R1), (4, R5)]),
]  # fmt: skip


@pytest.mark.parametrize(("switches", "facts", "expected"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_a_configuration_asks_for_exactly_these_commands(switches, facts, expected):
    """Other software recognises the rules by their exact arguments, and R2 must be first: it guards route_localnet."""
    assert written(switches, facts) == expected


def test_a_deletion_has_the_arguments_of_the_installation():
    """`-D` finds a rule only by the arguments it was added with."""
    for rule in desired_rules(Switches(), DOCKER):
        added = " ".join(rule.adding())
        assert " ".join(rule.vector("-D")) == added.replace(" -A ", " -D ").replace(" -I ", " -D ")


def test_rules_are_removed_in_the_order_of_the_reference():
    """R1, R2, R3, R4, R5, IPv4 before IPv6 (spec 09 §5.4)."""
    names = [rule.name for rule in removal_order(desired_rules(Switches(), DOCKER))]
    assert names == ["R1", "R2", "R3", "R3v6", "R4", "R4v6", "R5"]


def test_without_a_record_every_rule_is_removed_whatever_the_switches_say():
    """The reference evaluates the switches again at the removal and leaks R2; we do not (case 18, N9)."""
    assert {rule.name for rule in every_rule("lo", True)} == {"R1", "R2", "R3", "R3v6", "R4", "R4v6", "R5"}


BOOLEANS = [
    *((text, True, True) for text in ("1", "t", "T", "TRUE", "true", "True")),
    *((text, False, True) for text in ("0", "f", "F", "FALSE", "false", "False", "")),
    *((text, False, False) for text in ("yes", "on", "tRUE", " true", "true ", "2", '"true"')),
]


@pytest.mark.parametrize(("text", "value", "known"), BOOLEANS)
def test_only_go_boolean_literals_switch_something(text, value, known):
    """`yes`, `on`, blanks and quotes are false for the reference (case 3)."""
    assert go_boolean(text) == (value, known)


def test_a_switch_that_is_no_boolean_is_reported_and_counts_as_false(caplog):
    """Case 3: with `yes` the filter stays, and the operator learns why."""
    with caplog.at_level(logging.ERROR):
        switches = read_switches({"ECS_SKIP_LOCALHOST_TRAFFIC_FILTER": "yes"}, logging.getLogger("test"))
    assert switches == Switches()
    assert "ECS_SKIP_LOCALHOST_TRAFFIC_FILTER='yes' is no boolean" in caplog.text


def test_the_switches_come_from_the_environment():
    """The conformance runner and ecs.config set them there."""
    environ = {"ECS_SKIP_LOCALHOST_TRAFFIC_FILTER": "true", "ECS_ALLOW_OFFHOST_INTROSPECTION_ACCESS": "1"}
    assert read_switches(environ, logging.getLogger("test")) == Switches(True, True)
