"""The set-up of a task before it is stored, its names, and its end (spec 03 §3.7, §6.5, §10)."""

import re

import pytest

from common.model.agent import Sent
from common.model.messages import TaskChanged
from common.model.status import ContainerStatus as C
from common.model.status import TaskStatus as T
from common.model.task import Container, Dependency, Firelens, MountPoint, Resource, Task, VolumeFrom
from services.engine.core import cleanup
from services.engine.core.begin import begin
from services.engine.core.effects import Action, SetupError
from services.engine.core.names import docker_name, terminal_reason
from services.engine.core.prepare import NAMESPACE_PAUSE
from services.engine.core.times import unix_seconds
from services.engine.core.turn import Surroundings

ARN = "arn:aws:ecs:us-west-2:1:task/c/t1"
AROUND = Surroundings(now=1_800_000_000.0)


def arrive(*containers, resources=(), **more):
    """The decision about a new task."""
    more = {"desired": T.RUNNING, **more}
    return begin(Task(arn=ARN, containers=containers, **more), lambda _: resources, True, AROUND)


def reason(decision):
    """The reason of the only event: a rejection without containers and times."""
    (event,) = decision.events
    assert isinstance(event, TaskChanged)
    assert (event.status, event.execution_stopped_at) == (T.STOPPED, 0.0)
    return event.reason


def test_every_container_gets_its_own_endpoints():
    """And the credentials variable only if the task has a role."""
    task = arrive(Container(name="a"), Container(name="b"), credentials_id="c1").task
    for container in task.containers:
        id_ = container.endpoint_id
        assert container.environment == {
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/c1",
            "ECS_CONTAINER_METADATA_URI": f"http://169.254.170.2/v3/{id_}",
            "ECS_CONTAINER_METADATA_URI_V4": f"http://169.254.170.2/v4/{id_}",
            "ECS_AGENT_URI": f"http://169.254.170.2/api/{id_}",
        }
    assert task.containers[0].endpoint_id != task.containers[1].endpoint_id
    assert task.prepared
    assert task.limits_enabled


def test_volumes_from_and_links_imply_an_order():
    """CREATE for a volume's source, START for a link's target."""
    a = Container(name="a", volumes_from=(VolumeFrom(source_container="b"),), links=("c:alias",))
    task = arrive(a, Container(name="b"), Container(name="c")).task
    assert task.containers[0].depends_on == (
        Dependency(container_name="b", condition="CREATE"),
        Dependency(container_name="c", condition="START"),
    )


@pytest.mark.parametrize(
    ("container", "cause"),
    [
        (Container(name="a", volumes_from=(VolumeFrom(source_container="x"),)),
         "could not find volume source container with name x"),
        (Container(name="a", links=("a:b:c",)), "invalid link format"),
        (Container(name="a", links=("x:y",)), "could not find container for link x:y"),
    ],
)  # fmt: skip
def test_what_cannot_be_set_up_is_rejected(container, cause):
    """The causes of the reference, in its sentence."""
    decision = arrive(container)
    assert reason(decision) == f"resource cannot be initialized for task {ARN}: {cause}"
    assert decision.task.known == decision.task.desired == T.STOPPED


def test_a_resource_that_cannot_be_prepared_rejects_the_task():
    """Conformance case 36; the hands raise the cause."""
    cause = "cgroup resource: unable to build resource spec for task"

    def fail(task):
        raise SetupError(cause)

    task = Task(arn=ARN, containers=(Container(name="a"),), desired=T.RUNNING)
    assert reason(begin(task, fail, True, AROUND)) == f"resource cannot be initialized for task {ARN}: {cause}"


def test_dependencies_that_cannot_be_resolved_reject_the_task():
    """Conformance case 21."""
    cycle = arrive(Container(name="a", depends_on=(Dependency(container_name="a", condition="START"),)))
    assert reason(cycle) == f"Task dependencies cannot be resolved, taskArn: {ARN}"


def test_a_task_that_shall_stop_is_not_set_up():
    """Its stop must be reported whatever is wrong with it."""
    decision = arrive(Container(name="a", links=("x",)), desired=T.STOPPED)
    assert decision.events == ()
    assert decision.task.containers[0].desired == C.STOPPED


def test_containers_wait_for_their_resources():
    """A cgroup holds back every pull, a volume the pull of those that mount it."""
    a = Container(name="a", mount_points=(MountPoint(source_volume="v"),))
    resources = (Resource(kind="cgroup", name="cgroup"), Resource(kind="dockerVolume", name="v"))
    task = arrive(a, Container(name="b"), resources=resources).task
    waits = [[d.target for d in c.transition_dependencies[int(C.PULLED)].resources] for c in task.containers]
    assert waits == [["cgroup", "v"], ["cgroup"]]


def test_a_shared_namespace_is_held_by_a_container_of_its_own():
    """It comes up before every pull and goes down last; it gets no endpoints."""
    task = arrive(Container(name="a"), ipc_mode="task").task
    a, pause = task.containers
    assert (pause.name, pause.essential, pause.is_internal, pause.environment) == (NAMESPACE_PAUSE, True, True, {})
    assert a.transition_dependencies[int(C.PULLED)].containers[0].target == NAMESPACE_PAUSE
    assert pause.transition_dependencies[int(C.STOPPED)].containers[0].target == "a"


def test_the_namespace_container_waits_for_the_task_cgroup():
    """Docker would make the parent cgroup for it, without limits (trap 29)."""
    task = arrive(Container(name="app"), resources=(Resource(kind="cgroup", name="cgroup"),), pid_mode="task").task
    pause = task.container(NAMESPACE_PAUSE)
    assert [r.target for r in pause.transition_dependencies[int(C.PULLED)].resources] == ["cgroup"]


@pytest.mark.parametrize(
    ("router", "logger", "added"),
    [
        ({}, {}, True),
        ({"depends_on": (Dependency(container_name="other", condition="START"),)}, {}, False),
        ({}, {"depends_on": (Dependency(container_name="router", condition="HEALTHY"),)}, False),
        ({}, {"docker_host_config": '{"LogConfig":{"Type":"json-file"}}'}, False),
    ],
)
def test_containers_that_log_through_firelens_start_after_the_router(router, logger, added):
    """Unless the router itself waits, or the order is given already."""
    log = {"docker_host_config": '{"LogConfig":{"Type":"awsfirelens"}}', **logger}
    containers = (
        Container(name="other"),
        Container(name="router", firelens=Firelens(type="fluentbit"), health_check_type="docker", **router),
        Container(name="app", **log),
    )
    task = arrive(*containers).task
    start = Dependency(container_name="router", condition="START")
    assert (start in task.containers[2].depends_on) is added


def test_a_docker_name_keeps_only_plain_characters():
    """Conformance case 38; the number is a zig-zag varint in ten bytes."""
    task = Task(arn=ARN, family="web", version="7")
    name = docker_name(task, Container(name="my_app.1"), (1 << 63) - 1)
    assert re.fullmatch(r"ecs-web-7-myapp1-[0-9a-f]{20}", name)
    assert name.endswith("-feffffffffffffffff01")
    assert docker_name(task, Container(name="~internal~ecs~pause"), 1).startswith("ecs-web-7-internalecspause-02")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("error while mounting  volume", "Error while mounting volume"),
        ("asm-x y", "Asm-X y"),
        ("don't  x\ny-z", "Don'T x y-z"),
        ("", ""),
        ("a_b 1c", "A_b 1c"),
    ],
)
def test_a_terminal_reason_begins_with_a_capital(text, shown):
    """Spec 03 §1.2, conformance case R4 of spec 05; an empty one is tolerated."""
    assert terminal_reason(text) == shown


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2027-01-15T08:00:00.123456789Z", 1_800_000_000.123456789),
        ("2027-01-15T10:00:00+02:00", 1_800_000_000.0),
        ("0001-01-01T00:00:00Z", 0.0),
        ("", 0.0),
        ("soon", 0.0),
    ],
)
def test_dockers_times_are_read(text, seconds):
    """Nanoseconds, zones, and the zero time."""
    assert unix_seconds(text) == pytest.approx(seconds, abs=1e-5)


# -- the end ---------------------------------------------------------------------------------------

STOPPED = Task(
    arn=ARN,
    known=T.STOPPED,
    known_at=1000.0,
    containers=(Container(name="a", docker_id="d"), Container(name="b")),
    resources=(Resource(kind="cgroup", name="cgroup"),),
)
ACCEPTED = Sent(task=T.STOPPED)


@pytest.mark.parametrize(
    ("sent", "now", "checks", "expected"),
    [
        (ACCEPTED, 1060.0, 0, cleanup.Wait),
        (ACCEPTED, 1100.0, 0, cleanup.Sweep),
        (None, 1100.0, 0, cleanup.Wait),
        (Sent(task=T.RUNNING), 1100.0, 3, cleanup.Wait),
        (None, 1100.0 + 72 * 3600 + 1, 9, cleanup.GiveUp),
        (ACCEPTED, 1100.0 + 99 * 3600, 0, cleanup.Sweep),
    ],
)
def test_a_stopped_task_is_swept_when_it_is_due_and_reported(sent, now, checks, expected):
    """Conformance cases 59 and 60."""
    assert isinstance(cleanup.next_step(STOPPED, sent, now, 1100.0, checks, 1100.0), expected)


def test_the_looks_at_the_report_become_rarer():
    """One second at first, thirty at most."""
    waits = [cleanup.next_step(STOPPED, None, 1100.0, 1100.0, n, 1100.0).seconds for n in (0, 1, 4, 5, 50)]
    assert waits == [1.0, 2.0, 16.0, 30.0, 30.0]


def test_a_sweep_removes_containers_then_resources():
    """A container that Docker never saw needs no removal."""
    assert [(e.action, e.target) for e in cleanup.sweep(STOPPED)] == [
        (Action.REMOVE, "a"),
        (Action.REMOVE_RESOURCE, "cgroup"),
    ]
