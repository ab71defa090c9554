"""The EBS driver's task: run by the agent for itself, restarted by Docker (spec 05 §5)."""

from msgspec.structs import replace

from common.model.status import ContainerStatus as C
from common.model.status import ContainerType
from common.model.status import TaskStatus as T
from common.model.task import Container, Task
from services.engine.core.begin import begin
from services.engine.core.progress import needs_admission
from services.engine.core.turn import Surroundings
from services.engine.restore import _runs_without_limits, holds_resources

DRIVER = Container(name="app", image="ebs-csi-driver:latest", type=ContainerType.MANAGED_DAEMON, essential=True)


def internal(brain):
    """The driver's task, running."""
    it = brain(DRIVER)
    it.task = replace(it.task, is_internal=True, family="", version="")
    it.run()
    return it


def test_nothing_of_it_is_told_to_ecs(brain, seen):
    """From its start to its end, on this host alone."""
    it = internal(brain)
    assert it.task.known == T.RUNNING
    it.event("die", seen=seen.exited(0))
    assert it.task.known == T.STOPPED
    assert it.events == []


def test_a_crash_that_docker_answers_leaves_it_running(brain, seen):
    """Docker's die event comes while the container restarts: taken for an end, it would bring a second driver."""
    it = internal(brain)
    assert it.event("die", seen=replace(seen.running(), exit_code=1)) == []
    assert (it.container().known, it.task.known) == (C.RUNNING, T.RUNNING)
    it.event("start", seen=seen.running())
    assert (it.container().known, it.task.known) == (C.RUNNING, T.RUNNING)


def test_an_end_for_good_is_one(brain, seen):
    """`docker stop`, or a driver that ends with 0."""
    it = internal(brain)
    it.event("die", seen=seen.exited(137))
    assert it.task.known == T.STOPPED


def test_it_needs_no_room_and_has_no_limits():
    """No host resources are counted for it, and being without limits does not turn them off for the others."""
    task = Task(arn="arn:::::/ebs-csi-driver-1", is_internal=True, desired=T.RUNNING, containers=(DRIVER,))
    decision = begin(task, lambda _: (), True, Surroundings(now=1.0))
    ready = decision.task
    assert ready.prepared and not ready.limits_enabled and not needs_admission(ready)
    running = replace(ready, known=T.RUNNING, admitted=True)
    assert not holds_resources(running)
    assert not _runs_without_limits(running) and _runs_without_limits(replace(running, is_internal=False))
