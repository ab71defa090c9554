"""What is settled before the first task is taken up again."""

from types import SimpleNamespace

import pytest

from common.errors import Terminal
from common.model.agent import DockerFacts
from common.model.status import ContainerStatus as C
from common.model.status import TaskStatus as T
from common.model.task import Container, Task
from services.engine.restore import holds_resources, restore, settle_limits


class FakeEngine:
    """The part of the engine that the settling touches."""

    def __init__(self, option):
        self.config = {"ECS_ENABLE_TASK_CPU_MEM_LIMIT": option}
        self.facts = DockerFacts(task_limits_enabled=True)
        self.off = SimpleNamespace(called=False)

    def without_limits(self):
        """Record the call."""
        self.off.called = True


def test_a_task_without_limits_turns_them_off_for_all():
    """Unless the configuration demands them: then the agent ends for good."""
    old = [Task(arn="t", prepared=True, known=T.RUNNING)]
    engine = FakeEngine(None)
    settle_limits(engine, old)
    assert engine.off.called
    with pytest.raises(Terminal, match="ECS_ENABLE_TASK_CPU_MEM_LIMIT"):
        settle_limits(FakeEngine(True), old)


@pytest.mark.parametrize(
    "task",
    [
        Task(arn="t", prepared=True, limits_enabled=True, known=T.RUNNING),
        Task(arn="t", prepared=True, known=T.STOPPED),
        Task(arn="t", known=T.RUNNING),
    ],
)
def test_other_tasks_leave_the_limits_alone(task):
    """Those with limits, those that have ended, and those that were never set up."""
    engine = FakeEngine(True)
    settle_limits(engine, [task])
    assert not engine.off.called


@pytest.mark.parametrize(
    ("task", "holds"),
    [
        (Task(arn="t", admitted=True), True),
        (Task(arn="t"), False),
        (Task(arn="t", containers=(Container(name="a", known=C.RUNNING),)), True),
        (Task(arn="t", admitted=True, known=T.STOPPED), False),
        (Task(arn="t", admitted=True, is_internal=True), False),
    ],
)
def test_tasks_that_used_the_host_hold_their_part_of_it(task, holds):
    """Spec 03 §5.3."""
    assert holds_resources(task) is holds


def test_what_live_containers_hold_is_noted_before_any_worker_begins():
    """Their ports, that is; a container that has ended or was never created holds none."""
    app = {"a": C.RUNNING, "b": C.STOPPED, "c": C.CREATED}
    containers = (*(Container(name=n, docker_id=f"id-{n}", known=k) for n, k in app.items()), Container(name="d"))
    saved = {"t": Task(arn="t", containers=containers)}
    noted = []
    worker = SimpleNamespace(start=lambda: noted.append("start"))
    nothing = SimpleNamespace(hold=lambda task: None, enter=lambda task: None, load=lambda tasks: None)
    engine = SimpleNamespace(
        records=SimpleNamespace(tasks=lambda: saved), facts=DockerFacts(), admission=nothing, images=nothing,
        hands=SimpleNamespace(taken_up=lambda container: noted.append(container.name)),
        add=lambda task, is_new: worker, listen=lambda: None, stream_open=SimpleNamespace(wait=lambda seconds: True),
    )  # fmt: skip
    assert restore(engine) == 1
    assert noted == ["a", "c", "start"]
