"""Host resources: who may begin, who waits, and that nobody starves (spec 03 §5)."""

import json

import pytest

from common.model.task import Association, Container, PortMapping, Task
from services.engine.admission import Admission, host_gpus
from services.engine.core.hosts import PASSES, Demand, Host, Queue, demand_of, host_config


def queue(cpu=1024, memory=1000, **more):
    """A host of one vCPU."""
    return Queue(Host(cpu=cpu, memory_mib=memory, **more))


def admit(q):
    """The tasks that may begin now."""
    return list(q.admit())


def test_tasks_begin_in_order_until_the_host_is_full():
    """Conformance case 29."""
    q = queue()
    for arn in ("t0", "t1", "t2"):
        q.enter(arn, Demand(cpu=512))
    assert admit(q) == ["t0", "t1"]
    q.release("t0")
    assert admit(q) == ["t2"]


def test_a_task_that_fits_passes_one_that_waits_but_not_for_ever():
    """Head-of-line blocking would keep small tasks pending; unbounded passing would starve the large one."""
    q = queue()
    q.enter("running", Demand(cpu=512))
    assert admit(q) == ["running"]
    q.enter("large", Demand(cpu=1024))
    for n in range(PASSES + 1):
        q.enter(f"small{n}", Demand(cpu=10))
    assert admit(q) == ["small0", "small1"]
    assert admit(q) == []
    for arn in ("running", "small0", "small1"):
        q.release(arn)
    assert admit(q) == ["large"]


def test_a_task_that_this_host_can_never_hold_blocks_nobody():
    """Conformance case 32: a reserved port is never free, so the task waits for ever and the others need not."""
    q = queue(tcp=frozenset({22}))
    q.enter("ssh", Demand(tcp=frozenset({22})))
    for n in range(5):
        q.enter(f"t{n}", Demand(cpu=10))
    assert admit(q) == [f"t{n}" for n in range(5)]
    assert [w.arn for w in q.waiting] == ["ssh"]


def test_a_port_is_held_by_one_task_at_a_time():
    """Conformance case 85; tcp and udp are apart."""
    q = queue()
    q.enter("a", Demand(tcp=frozenset({80})))
    q.enter("b", Demand(tcp=frozenset({80, 81})))
    q.enter("c", Demand(udp=frozenset({80})))
    assert admit(q) == ["a", "c"]
    assert q.release("a")
    assert admit(q) == ["b"]


def test_holding_and_releasing_are_idempotent():
    """Keyed by ARN: a second time changes nothing."""
    q = queue()
    q.enter("a", Demand(cpu=1024))
    assert admit(q) == ["a"]
    q.enter("a", Demand(cpu=1024))
    assert q.waiting == []
    assert q.release("a")
    assert not q.release("a")


def test_a_stopped_task_leaves_the_queue():
    """Conformance case 31."""
    q = queue()
    q.enter("a", Demand(cpu=2048))
    q.release("a")
    assert q.waiting == []


def test_a_task_that_is_stopped_while_it_waits_wakes_those_behind_it():
    """It held nothing, but they were waiting for its turn to come."""
    admitted = []
    door = Admission(Host(cpu=1024, memory_mib=1000), admitted.append, lambda *_: None)
    sizes = {"running": 512, "large": 1024, "small0": 10, "small1": 10, "small2": 10}
    for arn, cpu in sizes.items():
        door.enter(Task(arn=arn, cpu=cpu / 1024))
    assert admitted == ["running", "small0", "small1"]
    door.release("large")
    assert admitted == ["running", "small0", "small1", "small2"]


@pytest.mark.parametrize(
    "overlay", ['{"MemoryReservation":1e999}', '{"MemoryReservation":' + "[" * 60000 + "]" * 60000 + "}", "[1", "NaN"]
)
def test_a_host_config_that_cannot_be_used_asks_for_nothing(overlay):
    """The create tells what is wrong with it; the account of the host must not fail for it."""
    assert demand_of(Task(arn="t", containers=(Container(name="a", memory_mib=7, docker_host_config=overlay),))) == (
        Demand(memory_mib=7)
    )


def test_the_demand_of_a_task_is_its_limit_or_the_sum_of_its_containers():
    """Spec 03 §5.1 and case 33; dynamic ports and ranges are not accounted for, a reservation beats the limit."""
    ports = (
        PortMapping(container_port=80, host_port=8080),
        PortMapping(container_port=53, host_port=53, protocol="udp"),
        PortMapping(container_port=81),
    )
    a = Container(name="a", cpu_shares=100, memory_mib=300, port_mappings=ports)
    b = Container(name="b", cpu_shares=28, memory_mib=300, docker_host_config='{"memoryReservation":134217728}')
    sums = demand_of(Task(arn="t", containers=(a, b)))
    assert sums == Demand(cpu=128, memory_mib=428, tcp=frozenset({8080}), udp=frozenset({53}))
    limits = demand_of(Task(arn="t", containers=(a, b), cpu=0.25, memory_mib=512, network_mode="awsvpc"))
    assert limits == Demand(cpu=256, memory_mib=512)


# -- GPUs ------------------------------------------------------------------------------------------


def gpu_task(arn, *gpus):
    """A task whose container has these GPUs."""
    given = tuple(Association(name=g, type="gpu", containers=("a",)) for g in gpus)
    return Task(arn=arn, containers=(Container(name="a"),), associations=given)


def test_a_gpu_is_held_by_one_task_at_a_time():
    """As a port is; a host without GPU support does not look at GPUs at all."""
    q = queue(gpus=frozenset({"g1", "g2"}))
    for arn, gpus in (("t0", ("g1",)), ("t1", ("g1", "g2")), ("t2", ("g2",))):
        q.enter(arn, demand_of(gpu_task(arn, *gpus)))
    assert admit(q) == ["t0", "t2"]
    q.release("t0")
    assert admit(q) == []
    q.release("t2")
    assert admit(q) == ["t1"]
    without = queue()
    without.enter("t0", demand_of(gpu_task("t0", "g1")))
    without.enter("t1", demand_of(gpu_task("t1", "g1")))
    assert admit(without) == ["t0", "t1"]


def test_a_task_with_a_gpu_that_the_host_has_not_got_is_refused_at_once():
    """Waiting would not help (W13); the others are not touched."""
    admitted, refused = [], []
    door = Admission(
        Host(cpu=1024, memory_mib=9, gpus=frozenset({"g1"})), admitted.append, lambda *r: refused.append(r)
    )
    door.enter(gpu_task("t0", "g1", "g9"))
    door.enter(gpu_task("t1", "g1"))
    assert refused == [("t0", "task gpu g9 not found in host gpus")]
    assert admitted == ["t1"]


def test_the_host_service_tells_which_gpus_there_are(tmp_path):
    """Without a usable file there are none."""
    path = tmp_path / "gpus.json"
    assert host_gpus(str(path)) == frozenset()
    path.write_text(json.dumps({"DriverVersion": "1", "GPUIDs": ["GPU-1", "GPU-2"]}))
    assert host_gpus(str(path)) == {"GPU-1", "GPU-2"}
    path.write_text("[]")
    assert host_gpus(str(path)) == frozenset()


def test_half_a_character_in_the_overlay_is_replaced():
    """As the reference's decoder does; the document of the task could not be written with it."""
    text = '{"LogConfig":{"Type":"json-file","Config":{"tag":"\\ud83d","env":"\\ud83d\\ude00"}}}'
    found = host_config(Container(name="a", docker_host_config=text))
    assert found["LogConfig"]["Config"] == {"tag": "\ufffd", "env": "\U0001f600"}
