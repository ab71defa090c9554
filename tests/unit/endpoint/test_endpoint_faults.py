"""Fault injection: order of the checks, commands, targets (spec 06 §17)."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from common.model.task import NetworkInterface
from services.endpoint import faulttargets
from services.endpoint.faultcommands import CommandFailed, Operator, Target, netem_start
from services.endpoint.faultrequests import LOSS, parse
from services.endpoint.faultroutes import run_command
from services.endpoint.throttle import LONG_PATH

E = "11111111-2222-4333-8444-555555555555"
ARN = "arn:aws:ecs:us-west-2:111122223333:task/c/0a1b"
BLACKHOLE_BODY = b'{"Port":80,"Protocol":"tcp","TrafficType":"egress"}'
ENI = NetworkInterface(ec2_id="eni-1", mac_address="m", ipv4_addresses=("10.0.1.9",))


def post(world, route: str, body: bytes = b"{}", id_: str = E):
    return world.get(f"/api/{id_}/fault/v1/{route}", method="POST", body=body)


@pytest.fixture
def awsvpc(world, task):
    """A task with the flag set and a namespace /p."""
    world.view.set_task(
        task(
            enable_fault_injection=True,
            network_mode="awsvpc",
            interfaces=(ENI,),
            network_namespace="/p",
            interface_name="eth0",
        )
    )
    return world


def words(world) -> list[str]:
    return [" ".join(command) for command in world.commands]


def test_the_nine_routes_answer_as_recorded_for_a_task_without_the_flag(world, task):
    """Case 93, which is the recorded scenario."""
    world.view.set_task(task())
    no_flag = f"enableFaultInjection is not enabled for task: {ARN}"
    for route, text in (
        ("network-blackhole-port/start", "required parameter Port is missing"),
        ("network-blackhole-port/stop", "required parameter Port is missing"),
        ("network-blackhole-port/status", "required parameter Port is missing"),
        ("network-latency/start", "required parameter DelayMilliseconds is missing"),
        ("network-latency/stop", no_flag),
        ("network-latency/status", no_flag),
        ("network-packet-loss/start", "required parameter LossPercent is missing"),
        ("network-packet-loss/stop", no_flag),
        ("network-packet-loss/status", no_flag),
    ):
        answer = post(world, route)
        assert (answer.status, answer.json) == (400, {"Error": text}), route


def test_the_fault_throttle_counts_every_post_and_nothing_else(world, task):
    """Cases 62 and 92: second set of rate headers, no full stop; a wrong method costs nothing."""
    world.view.set_task(task())
    assert world.get(f"/api/{E}/fault/v1/network-latency/status").status == 405
    first = post(world, "network-latency/status")
    assert first.status == 400 and first.all("X-Rate-Limit-Limit") == ["40.00", "0.20"]
    second = post(world, "network-latency/status")
    assert (second.status, second.body) == (429, b"You have reached maximum request limit")
    assert second.header("Content-Type") == "text/plain; charset=utf-8" and not world.audited()
    assert post(world, "network-latency/start").status == 400
    world.now += 5.001
    assert post(world, "network-latency/status").status == 400


def test_ids_of_a_megabyte_fill_neither_the_memory_nor_the_log(world, caplog):
    """The throttle keeps its keys and the log its lines; any container may send such ids, a new one each time."""
    with caplog.at_level("INFO"):
        for number in range(3):
            assert post(world, "network-latency/stop", b"", f"{number}{'x' * 900_000}").status == 404
    keys = list(world.faults.throttle._buckets)
    assert len(keys) == 3 and all(len(path) <= LONG_PATH for _, path in keys)
    assert len(caplog.records) == 6, "one line of the fault and one of the server for each"
    assert all(len(str(record.__dict__)) < 4096 for record in caplog.records)


def test_the_task_is_checked_after_the_body(world, task):
    """Cases 64, 72 and 73; an unknown id is 404 without prefix."""
    answer = post(world, "network-latency/stop", b"", "nope")
    assert (answer.status, answer.json["Error"]) == (
        404,
        "unable to get task arn from request: unable to get task Arn from v3 endpoint ID: nope",
    )
    world.view.set_task(task())
    assert post(world, "network-blackhole-port/start", BLACKHOLE_BODY).status == 400
    world.view.set_task(task(enable_fault_injection=True))
    answer = post(world, "network-blackhole-port/stop", BLACKHOLE_BODY)
    assert (answer.status, answer.json["Error"]) == (
        500,
        f"failed to get task metadata due to internal server error for container: {E}",
    )


def test_a_blackhole_lets_the_metadata_address_through(awsvpc):
    """Case 65: the commands in order."""
    awsvpc.replies = lambda command: (1 if "-C" in command else 0, "")
    answer = post(awsvpc, "network-blackhole-port/start", BLACKHOLE_BODY)
    assert (answer.status, answer.json) == (200, {"Status": "running"})
    p = "nsenter --net=/p "
    assert words(awsvpc) == [
        p + "iptables -w 5 -C egress-tcp-80 -p tcp --dport 80 -j DROP",
        p + "iptables -w 5 -N egress-tcp-80",
        p + "iptables -w 5 -A egress-tcp-80 -p tcp -d 169.254.170.2 --dport 80 -j ACCEPT",
        p + "iptables -w 5 -A egress-tcp-80 -p tcp -d 0.0.0.0/0 --dport 80 -j DROP",
        p + "iptables -w 5 -I OUTPUT -j egress-tcp-80",
        p + "ip6tables -w 5 -N egress-tcp-80",
        p + "ip6tables -w 5 -A egress-tcp-80 -p tcp -d ::/0 --dport 80 -j DROP",
        p + "ip6tables -w 5 -I OUTPUT -j egress-tcp-80",
    ]


def test_a_failing_ip6tables_matters_only_without_ipv4(awsvpc, task):
    """Cases 66 and 67."""
    awsvpc.replies = lambda command: (1 if "-C" in command or "ip6tables" in command else 0, "")
    assert post(awsvpc, "network-blackhole-port/start", BLACKHOLE_BODY).json == {"Status": "running"}
    assert len([c for c in awsvpc.commands if "ip6tables" in c]) == 3
    only6 = NetworkInterface(ec2_id="e", mac_address="m", ipv6_addresses=("fd00::1",))
    awsvpc.view.set_task(
        task(
            enable_fault_injection=True,
            network_mode="awsvpc",
            interfaces=(only6,),
            network_namespace="/p",
            interface_name="eth0",
        )
    )
    awsvpc.now += 10
    answer = post(awsvpc, "network-blackhole-port/start", BLACKHOLE_BODY)
    assert (answer.status, answer.json) == (500, {"Error": "internal error"})


@pytest.mark.parametrize(("operation", "known"), [("start", False), ("stop", True)])
def test_a_host_without_ip6tables_has_its_fault_all_the_same(world, task, operation, known):
    """W13: a tool that is not installed is one that fails."""

    def run(command: list[str], timeout: float) -> tuple[int, str]:
        world.commands.append(command)
        if command[0] == "ip6tables":
            return run_command(["/nowhere/ip6tables"], timeout)
        return (0 if known or "-C" not in command else 1), ""

    world.view.set_task(task(enable_fault_injection=True, network_mode="host"))
    world.faults.host_target, world.faults.run = lambda: Target("host", ("eth0",)), run
    answer = post(world, f"network-blackhole-port/{operation}", BLACKHOLE_BODY)
    assert (answer.status, answer.json) == (200, {"Status": {"start": "running", "stop": "stopped"}[operation]})
    assert len([c for c in world.commands if c[0] == "ip6tables"]) == 3


def test_a_running_blackhole_is_not_started_again_and_is_stopped_in_order(awsvpc):
    """Start is idempotent; stop empties, unhooks and deletes."""
    awsvpc.replies = lambda command: (0, "")
    assert post(awsvpc, "network-blackhole-port/start", BLACKHOLE_BODY).json == {"Status": "running"}
    assert len(awsvpc.commands) == 1
    assert post(awsvpc, "network-blackhole-port/status", BLACKHOLE_BODY).json == {"Status": "running"}
    awsvpc.commands.clear()
    assert post(awsvpc, "network-blackhole-port/stop", BLACKHOLE_BODY).json == {"Status": "stopped"}
    assert [c[5] for c in awsvpc.commands] == ["-C", "-F", "-D", "-X", "-F", "-D", "-X"]


def test_a_host_task_uses_the_interfaces_of_the_default_routes(world, task):
    """Case 95: one command without nsenter; incomplete without a default route."""
    world.view.set_task(task(enable_fault_injection=True, network_mode="host"))
    body = b'{"Port":18999,"Protocol":"tcp","TrafficType":"ingress"}'
    assert post(world, "network-blackhole-port/status", body).status == 500
    world.faults.host_target = lambda: Target("host", ("eth0",))
    world.now += 10
    assert post(world, "network-blackhole-port/status", body).json == {"Status": "not-running"}
    assert words(world) == ["iptables -w 5 -C ingress-tcp-18999 -p tcp --dport 18999 -j DROP"]


def test_unreadable_routes_are_told_before_the_missing_flag(world, task):
    """The reference resolves the interfaces first."""

    def fail() -> Target | None:
        raise OSError("no /proc")

    world.view.set_task(task(network_mode="host"))
    world.faults.host_target = fail
    answer = post(world, "network-latency/status")
    assert (answer.status, answer.json["Error"]) == (500, "failed to resolve default host network interface")


def test_fifteen_percent_of_the_flows_get_fifteen_leaves(awsvpc):
    """Case 74."""
    awsvpc.replies = lambda command: (0, "[]")
    body = b'{"LossPercent":6,"FlowsPercent":15,"Sources":["10.0.0.0/8","fd00::/8"],"SourcesToFilter":["10.1.1.1"]}'
    assert post(awsvpc, "network-packet-loss/start", body).json == {"Status": "running"}
    lines = [line.removeprefix("nsenter --net=/p ") for line in words(awsvpc)]
    leaves = [line for line in lines if "netem" in line]
    parents = [*(f"100:{c}" for c in "123456789a"), *(f"101:{c}" for c in "12345")]
    assert leaves == [
        f"tc qdisc add dev eth0 parent {p} handle {200 + n}: netem loss 6%" for n, p in enumerate(parents)
    ]
    assert len(lines) == 1 + 23 + 15 + 3
    assert lines[0] == "tc -j q show dev eth0 parent 100:1"
    assert lines[1] == "tc qdisc add dev eth0 root handle 1: prio priomap " + " ".join(["2"] * 16)
    assert lines[12].startswith("tc qdisc add dev eth0 parent 10:a handle 109: prio bands 10 priomap 2")
    filters = [line for line in lines if "u32" in line]
    start = "tc filter add dev eth0 protocol all parent 1:0 prio"
    assert filters == [
        f"{start} 1 u32 match ip dst 10.1.1.1 flowid 1:3",
        f"{start} 2 u32 match ip dst 10.0.0.0/8 flowid 1:1",
        f"{start} 2 u32 match ip6 dst fd00::/8 flowid 1:1",
    ]
    assert lines[-1] == (
        "tc filter add dev eth0 protocol all parent 109: handle 10 prio 2 flow hash keys "
        "src,dst,proto,proto-src,proto-dst divisor 10 baseclass 109:1"
    )


LATENCY_TEXT = '[{"kind":"netem","options":{"limit":1000,"delay":{"delay":0.1}}}]'
JITTER_TEXT = '[{"kind":"netem","options":{"limit":1000}}]'
LOSS_TEXT = '[{"kind":"netem","options":{"loss-random":{"loss":0.06}}}]'
LATENCY_BODY = b'{"DelayMilliseconds":1,"JitterMilliseconds":0,"Sources":["10.0.0.1"]}'


@pytest.mark.parametrize(
    ("output", "route", "status", "expected"),
    [
        (LOSS_TEXT, "network-latency/start", 409, {"Error": "There is already one network packet loss fault running"}),
        (LATENCY_TEXT, "network-latency/start", 409, {"Error": "There is already one network latency fault running"}),
        (LOSS_TEXT, "network-latency/status", 200, {"Status": "not-running"}),
        (JITTER_TEXT, "network-latency/status", 200, {"Status": "running"}),
        (LOSS_TEXT, "network-packet-loss/status", 200, {"Status": "running"}),
        (LOSS_TEXT, "network-latency/stop", 200, {"Status": "stopped"}),
        ("", "network-latency/status", 500, {"Error": "internal error"}),
        ("[]", "network-latency/status", 200, {"Status": "not-running"}),
        ('{"a":1}', "network-latency/status", 500, {"Error": "internal error"}),
    ],
)
def test_what_tc_tells_decides(awsvpc, output, route, status, expected):
    """Cases 69, 70 and 71: nothing is changed when another fault runs."""
    awsvpc.replies = lambda command: (0, output)
    answer = post(awsvpc, route, LATENCY_BODY)
    assert (answer.status, answer.json) == (status, expected)
    assert len(awsvpc.commands) == 1


def test_stop_takes_the_tree_away(awsvpc):
    """Only when that very fault runs."""
    awsvpc.replies = lambda command: (0, LATENCY_TEXT)
    assert post(awsvpc, "network-latency/stop", b"anything").json == {"Status": "stopped"}
    assert [line.removeprefix("nsenter --net=/p tc ") for line in words(awsvpc)[1:]] == [
        "qdisc del dev eth0 parent 1:1 handle 10:",
        "qdisc del dev eth0 root handle 1: prio",
    ]


def test_all_interfaces_are_checked_before_any_is_changed():
    """A conflict on the second must not leave the first changed."""
    commands: list[list[str]] = []

    def run(command: list[str]) -> tuple[int, str]:
        commands.append(command)
        return 0, "[]"

    fault = parse(LOSS, b'{"LossPercent":1,"Sources":["1.2.3.4"],"FlowsPercent":1}')
    Operator(Target("host", ("a", "b")), run).start_netem(fault)
    assert [c[5] for c in commands[:2]] == ["a", "b"] and commands[2][4] == "a"
    assert len(list(netem_start(fault, "a"))) == 23 + 1 + 1


def test_a_command_that_hangs_is_killed_at_the_deadline(awsvpc):
    """The client hears of it before the connection's time-out."""
    awsvpc.faults.run = lambda command, _timeout: run_command(["sleep", "30"], 0.05)
    answer = post(awsvpc, "network-latency/status")
    assert (answer.status, answer.json) == (500, {"Error": "check status network-latency: request timed out"})


def test_a_command_that_is_not_installed_is_one_that_fails():
    """The caller decides whether that matters."""
    with pytest.raises(CommandFailed, match="/nowhere/tc cannot be run"):
        run_command(["/nowhere/tc"], 5.0)


def test_a_command_of_a_fault_gets_no_password_of_the_configuration(monkeypatch):
    """nsenter, iptables and tc have no use for the passwords of registries."""
    monkeypatch.setenv("ECS_ENGINE_AUTH_DATA", "secret")
    status, found = run_command(["env"], 5.0)
    assert status == 0 and "PATH=" in found and "ECS_" not in found


def test_a_command_gives_its_status_and_both_outputs():
    """Standard output and standard error together."""
    assert run_command(["sh", "-c", "echo out; echo err >&2; exit 3"], 5.0) == (3, "out\nerr\n")


def test_the_namespace_of_another_process_is_refused(task, container, tmp_path: Path, monkeypatch):
    """A process id can be taken by somebody else; its cgroup tells."""
    pause = container(name="~p", docker_id="cd" * 32, type="CNI_PAUSE", endpoint_id="")
    given = task(
        network_mode="awsvpc",
        interfaces=(ENI,),
        network_namespace="/proc/77/ns/net",
        interface_name="eth0",
        containers=(container(), pause),
    )
    assert faulttargets.of_awsvpc(given, tmp_path) is None
    (tmp_path / "77").mkdir()
    (tmp_path / "77" / "cgroup").write_text("0::/system.slice/docker-" + "ee" * 32 + ".scope\n")
    assert faulttargets.of_awsvpc(given, tmp_path) is None
    (tmp_path / "77" / "cgroup").write_text("0::/system.slice/docker-" + "cd" * 32 + ".scope\n")
    assert faulttargets.of_awsvpc(given, tmp_path) == Target("/proc/77/ns/net", ("eth0",))
    # An agent in a container sees the host's processes elsewhere.
    monkeypatch.setattr(faulttargets, "HOST_PROC", tmp_path)
    given = msgspec.structs.replace(given, network_namespace="/host/proc/77/ns/net")
    assert faulttargets.of_awsvpc(given, tmp_path / "none") == Target("/host/proc/77/ns/net", ("eth0",))


def test_the_default_routes_of_the_host_are_read_from_proc(tmp_path: Path):
    """The lowest metric of each family counts; a route without gateway is none."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net/route").write_text(
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "slow\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n"
        "fast\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
        "ptp\t00000000\t00000000\t0001\t0\t0\t1\t00000000\t0\t0\t0\n"
    )
    zero = "0" * 32
    (tmp_path / "net/ipv6_route").write_text(
        f"{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 six\n"
        f"{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200 lo\n"
    )
    assert faulttargets.of_host(tmp_path) == Target("host", ("fast", "six"))
    (tmp_path / "net/ipv6_route").unlink()
    (tmp_path / "net/route").write_text("Iface\n")
    assert faulttargets.of_host(tmp_path) is None
