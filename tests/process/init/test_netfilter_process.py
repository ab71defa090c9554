"""The process `init` against the real iptables, in network namespaces of the test's own."""

from __future__ import annotations

import errno
import sys
import time

import pytest

from tests.process.init.conftest import answer, ask

R1 = "-A PREROUTING -d 169.254.170.2/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 127.0.0.1:51679"
R2 = "-A INPUT ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
R3 = "-A INPUT ! -i lo -p tcp -m tcp --dport 51678 -j DROP"
R4 = "-A INPUT -i docker0 -p tcp -m tcp --dport 51678 -j ACCEPT"
R5 = "-A OUTPUT -d 169.254.170.2/32 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 51679"
ALL = {R1, R2, R3, R5, f"v6 {R3}"}  # R4 follows when Docker names its bridge
ROUTE_LOCALNET = "net/ipv4/conf/all/route_localnet"
RESERVED_PORTS = "net/ipv4/ip_local_reserved_ports"
CONNECT = """
import socket
server = socket.create_server(("127.0.0.1", 7000))
for _ in range(10):
    try:
        socket.create_connection(server.getsockname()).close()
    except OSError as error:
        print(error.errno, end=" ")
"""


@pytest.fixture
def running(init, eventually):
    """Start `init` and wait until its rules are there."""

    def start(expected=ALL, **extra):
        init.start(**extra)
        eventually(lambda: "init is ready" in init.log() or init.process.poll() is not None, seconds=15)
        assert expected <= set(init.host.rules()), init.log()
        return init

    return start


def test_every_rule_appears_exactly_once_with_the_reference_s_text(running, host):
    """Cases 1 and 14: same end state as the reference's init, and the head of INPUT in its order."""
    running()
    assert sorted(host.rules()) == sorted(ALL)
    chain = [rule for rule in host.rules() if rule.startswith("-A INPUT")]
    assert chain == [R3, R2]
    assert host.setting(ROUTE_LOCALNET) == "1"


def test_the_localhost_filter_can_be_left_out(running, host):
    """Case 2; the conformance runner starts the tree this way."""
    running(ALL - {R2}, ECS_SKIP_LOCALHOST_TRAFFIC_FILTER="true")
    assert set(host.rules()) == ALL - {R2}


@pytest.mark.parametrize("flush", [
    ("iptables", "-t", "nat", "-F", "OUTPUT"), ("iptables", "-t", "nat", "-F"), ("iptables", "-F"),
    ("ip6tables", "-F"), ("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=0"),
], ids=" ".join)  # fmt: skip
def test_what_a_firewall_reload_flushes_is_back_within_five_seconds(running, host, eventually, flush):
    """Case 15: once each, and one log line that names it."""
    init = running()
    host.run(*flush)
    eventually(lambda: set(host.rules()) == ALL and host.setting(ROUTE_LOCALNET) == "1", seconds=5)
    assert sorted(host.rules()) == sorted(ALL)
    eventually(lambda: init.log().count("put back") == 1)


def test_a_rule_inserted_before_ours_that_makes_them_useless_does_not_stay_there(running, host, eventually):
    """N6: `iptables -C` would still say that all is well."""
    running()
    host.run("iptables", "-I", "INPUT", "-j", "ACCEPT")
    assert eventually(
        lambda: [r for r in host.rules() if r.startswith("-A INPUT")][-1] == "-A INPUT -j ACCEPT", seconds=5
    )


def test_killing_leaves_every_rule_and_the_next_start_doubles_none(running, host, eventually):
    """N9, case 17: tasks keep their credentials while the process is away."""
    init = running()
    init.kill()
    assert sorted(host.rules()) == sorted(ALL)
    init.start()
    eventually(lambda: "every rule was in place already" in init.log(), seconds=15)
    assert sorted(host.rules()) == sorted(ALL)


def test_an_orderly_stop_removes_everything_and_restores_the_setting(running, host):
    """N8: exit status 0 within 10 s, nothing left; the route of a host without default gateway included."""
    init = running()
    assert "169.254.170.2 dev lo scope link" in host.run("ip", "route", "show").stdout
    assert init.terminate() == 0
    assert host.rules() == []
    assert host.setting(ROUTE_LOCALNET) == "0"
    assert host.run("ip", "route", "show").stdout == ""


def test_no_outgoing_connection_gets_a_port_of_the_endpoint(running, host):
    """As many connections as there are ports: without the reservation, ours would be in TIME_WAIT for a minute."""
    host.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=51670 51679")
    host.run("sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=8080")
    init = running()
    assert host.setting(RESERVED_PORTS) == "8080,51678-51679"
    refused = host.run(sys.executable, "-c", CONNECT).stdout.split()
    assert refused == [str(errno.EADDRNOTAVAIL)] * 2, refused
    assert ":51678" not in (taken := host.run("ss", "-tan").stdout) and ":51679" not in taken
    assert init.terminate() == 0
    assert host.setting(RESERVED_PORTS) == "8080"


def test_rules_that_the_reference_s_init_left_twice_are_adopted(running, host, eventually):
    """N2, N3, case 16: an upgraded host."""
    for _ in range(2):
        for rule in (R1, R5):
            host.run("iptables", "-t", "nat", *rule.split())
        host.run("iptables", *R3.split())
    init = running()
    eventually(lambda: sorted(host.rules()) == sorted(ALL), seconds=5)
    init.terminate()
    assert host.rules() == []


def test_local_mode_removes_only_what_it_added(running, host):
    """After Ctrl-C the machine is as it was: an identical rule of somebody else, and a foreign one, survive."""
    host.run("iptables", "-t", "nat", *R1.split())
    host.run("iptables", "-A", "INPUT", "-p", "udp", "-j", "DROP")
    before = host.rules()
    init = running(ECS_LOCAL_CONTROL_PLANE="true")
    assert len(host.rules()) == len(ALL) + 1
    assert init.terminate() == 0
    assert host.rules() == before
    assert host.setting(ROUTE_LOCALNET) == "0"
    assert host.run("ip", "route", "show").stdout == ""


def test_local_mode_leaves_a_setting_and_a_route_that_were_there(running, host):
    """Both belong to somebody else then."""
    host.run("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    host.run("ip", "route", "add", "169.254.170.2/32", "dev", "lo", "scope", "link")
    running(ECS_LOCAL_CONTROL_PLANE="true").terminate()
    assert host.rules() == []
    assert host.setting(ROUTE_LOCALNET) == "1"
    assert "169.254.170.2" in host.run("ip", "route", "show").stdout


def test_local_mode_killed_and_started_again_leaves_nothing(running, host, eventually):
    """The record tells the second run what the first one added."""
    init = running(ECS_LOCAL_CONTROL_PLANE="true")
    init.kill()
    init.start(ECS_LOCAL_CONTROL_PLANE="true")
    eventually(lambda: "in place already" in init.log(), seconds=15)
    init.terminate()
    assert host.rules() == []
    assert host.setting(ROUTE_LOCALNET) == "0"


def test_without_net_admin_one_sentence_says_so_and_the_process_goes_on(init, host, eventually):
    """A developer's container or a CI machine: ready, with the reason as its detail, no rule, status 0 at the stop."""
    with open(init.run_dir / "init.out", "ab") as out:
        init.process = host.spawn(
            "setpriv",
            "--bounding-set=-net_admin",
            "--inh-caps=-net_admin",
            sys.executable,
            "-m",
            "services.init",
            env=init.environment(),
            stdout=out,
            stderr=out,
        )
    eventually(lambda: "init is ready" in init.log(), seconds=15)
    time.sleep(1.5)  # two more attempts of the back-off must not repeat the sentence
    assert init.log().count("level=warn") - init.log().count("Redis") == 1
    assert "this process lacks CAP_NET_ADMIN: run it as root on the host" in init.log()
    assert init.terminate() == 0
    assert host.rules() == []


def test_r4_follows_when_docker_comes_late(running, host, eventually, name_bridge):
    """N5: rules and readiness do not wait for Docker; once it names its bridge, R4 is above R3 in both families."""
    init = running()
    name_bridge(init)
    eventually(lambda: set(host.rules()) == ALL | {R4, f"v6 {R4}"}, seconds=10)
    assert [rule for rule in host.rules() if rule.startswith("-A INPUT")] == [R4, R3, R2]
    assert "put back" not in init.log()


def test_a_service_is_not_ready_before_docker_has_told_of_the_go_agent(init, host, eventually, name_bridge):
    """Case 80: the rules are there, but nothing registers beside a container ecs-agent that Docker may bring back."""
    init.start(ECS_TREE_INIT_LOG=str(init.run_dir / "ecs-init.log"))
    eventually(lambda: set(host.rules()) == ALL, seconds=15)
    eventually(lambda: "waiting for Docker, to see that no container ecs-agent" in init.log())
    assert "init is ready" not in init.log()
    name_bridge(init)
    eventually(lambda: "init is ready" in init.log(), seconds=10)


def test_containers_and_host_processes_reach_the_endpoint(running, host, linked):
    """R1 with route_localnet for packets from a bridge, R5 with the route for local ones."""
    answer(host, 51679)
    assert ask(linked, "169.254.170.2", 80, 1) == ""
    running()
    assert ask(linked, "169.254.170.2", 80) == "hello"
    assert ask(host, "169.254.170.2", 80) == "hello"


@pytest.mark.parametrize(("skip", "heard"), [("false", ""), ("true", "hello")])
def test_a_neighbour_reaches_services_on_the_loopback_only_without_the_filter(running, host, linked, skip, heard):
    """R2 closes the hole that route_localnet opens; the switch opens it again."""
    answer(host, 8099)
    linked.run("ip", "addr", "flush", "dev", "lo")  # so that 127.0.0.1 is a remote address for it
    linked.run("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    linked.run("ip", "route", "add", "127.0.0.1/32", "via", "10.99.0.1", "src", "10.99.0.2")
    running(ALL - {R2}, ECS_SKIP_LOCALHOST_TRAFFIC_FILTER=skip)
    host_sees = ALL if skip == "false" else ALL - {R2}
    assert set(host.rules()) == host_sees
    assert ask(linked, "127.0.0.1", 8099, 1.5) == heard


def test_verbs_make_and_remove_the_rules_without_the_service(init, host, tmp_path):
    """pre-start as in the reference, and post-stop from the record; twice is as good as once."""
    assert init.verb("pre-start").returncode == 0
    assert set(host.rules()) == ALL
    assert init.verb("pre-start").returncode == 0
    assert sorted(host.rules()) == sorted(ALL)
    assert init.verb("post-stop").returncode == 0
    assert host.rules() == []
    assert host.setting(ROUTE_LOCALNET) == "0"
    assert init.verb("post-stop").returncode == 0


@pytest.mark.parametrize("default", ["0", "1"])
def test_post_stop_without_a_record_removes_every_rule(init, host, default):
    """N9, cases 18, 19, 21 and 22: whatever the switches say now, without Docker; route_localnet is that of default."""
    host.run("sysctl", "-qw", f"net.ipv4.conf.default.route_localnet={default}")
    for rule in (R2, R3, R4):
        host.run("iptables", *rule.split())
    for rule in (R1, R5):
        host.run("iptables", "-t", "nat", *rule.split())
    host.run("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    done = init.verb("post-stop", ECS_SKIP_LOCALHOST_TRAFFIC_FILTER="true")
    assert (done.returncode, done.stderr) == (0, done.stderr) and "level=error" not in done.stderr
    assert host.rules() == []
    assert host.setting(ROUTE_LOCALNET) == default


def test_post_stop_after_an_orderly_stop_changes_nothing(running, host):
    """The record says removed: what somebody put there since is not ours (N9)."""
    init = running()
    init.terminate()
    host.run("iptables", *R3.split())
    assert init.verb("post-stop").returncode == 0
    assert host.rules() == [R3]


def test_pre_start_leaves_a_running_service_s_rules_alone(running, host):
    """N1: nobody else changes them while it runs."""
    init = running()
    done = init.verb("pre-start", ECS_ALLOW_OFFHOST_INTROSPECTION_ACCESS="true")
    assert done.returncode == 0 and "in the care of the running service" in done.stderr
    assert sorted(host.rules()) == sorted(ALL)


@pytest.mark.parametrize(("route", "added"), [
    ("default via 10.99.0.2", False), ("default dev veth0", True),
    ("default nexthop via 10.99.0.2 dev veth0 nexthop via 10.99.0.3 dev veth0", True),
    ("10.0.0.0/8 via 10.99.0.2", True),
])  # fmt: skip
def test_only_a_default_route_with_one_gateway_makes_the_host_s_route_needless(init, host, linked, route, added):
    """Cases 24 to 26a; one that is there already is no fault (25), and a stop takes away what was added."""
    host.run("ip", "route", "add", *route.split())
    assert init.verb("pre-start").returncode == 0
    assert ("169.254.170.2 dev lo scope link" in host.run("ip", "route", "show").stdout) is added
    assert init.verb("pre-start").returncode == 0
    assert init.verb("post-stop").returncode == 0
    assert "169.254.170.2" not in host.run("ip", "route", "show").stdout
