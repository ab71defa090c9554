"""The tables of containers and tasks, row by row (spec 03 §2)."""

import pytest

from common.model.status import ContainerStatus as C
from common.model.status import TaskStatus as T
from common.model.task import Container, Task
from services.engine.core.effects import Action
from services.engine.core.states import Step, known_status, natural_next, next_step, task_status_of, with_desired

RP = C.RESOURCES_PROVISIONED


@pytest.mark.parametrize(
    ("known", "desired", "steady", "applied", "step"),
    [
        (C.NONE, C.RUNNING, C.RUNNING, C.NONE, Step(C.MANIFEST_PULLED, Action.RESOLVE_MANIFEST)),
        (C.MANIFEST_PULLED, C.RUNNING, C.RUNNING, C.NONE, Step(C.PULLED, Action.PULL)),
        (C.PULLED, C.RUNNING, C.RUNNING, C.NONE, Step(C.CREATED, Action.CREATE)),
        (C.CREATED, C.RUNNING, C.RUNNING, C.NONE, Step(C.RUNNING, Action.START)),
        (C.RUNNING, C.RUNNING, C.RUNNING, C.NONE, None),
        (C.RUNNING, RP, RP, C.NONE, Step(RP, Action.PROVISION)),
        (C.RUNNING, C.STOPPED, C.RUNNING, C.NONE, Step(C.STOPPED, Action.STOP)),
        (RP, C.STOPPED, RP, C.NONE, Step(C.STOPPED, Action.STOP)),
        (C.RUNNING, C.STOPPED, RP, C.NONE, Step(C.STOPPED, Action.STOP)),
        (C.NONE, C.STOPPED, C.RUNNING, C.NONE, Step(C.STOPPED)),
        (C.MANIFEST_PULLED, C.STOPPED, C.RUNNING, C.PULLED, Step(C.STOPPED)),
        (C.CREATED, C.STOPPED, C.RUNNING, C.NONE, Step(C.STOPPED)),
        (C.CREATED, C.STOPPED, C.RUNNING, C.RUNNING, None),
        (C.STOPPED, C.STOPPED, C.RUNNING, C.NONE, None),
        (C.STOPPED, C.RUNNING, C.RUNNING, C.NONE, None),
        (C.NONE, C.NONE, C.RUNNING, C.NONE, None),
    ],
)
def test_the_next_step_of_a_container_follows_the_table(known, desired, steady, applied, step):
    """Conformance cases 1 to 4, and every other row."""
    container = Container(name="c", known=known, desired=desired, steady=steady, applied=applied)
    assert next_step(container) == step


@pytest.mark.parametrize(
    ("known", "steady", "expected"),
    [
        (C.NONE, C.RUNNING, C.MANIFEST_PULLED),
        (C.RUNNING, C.RUNNING, C.STOPPED),
        (C.RUNNING, RP, RP),
        (RP, RP, C.STOPPED),
    ],
)
def test_the_natural_next_status_ignores_what_is_desired(known, steady, expected):
    """Transition dependencies are looked up by it, also on the way down."""
    assert natural_next(Container(name="c", known=known, steady=steady, desired=C.STOPPED)) == expected


@pytest.mark.parametrize(
    ("known", "steady", "status"),
    [
        (C.NONE, C.RUNNING, T.NONE),
        (C.MANIFEST_PULLED, C.RUNNING, T.MANIFEST_PULLED),
        (C.PULLED, C.RUNNING, T.MANIFEST_PULLED),
        (C.CREATED, C.RUNNING, T.CREATED),
        (C.RUNNING, C.RUNNING, T.RUNNING),
        (C.RUNNING, RP, T.CREATED),
        (RP, RP, T.RUNNING),
        (C.STOPPED, C.RUNNING, T.STOPPED),
    ],
)
def test_a_container_makes_a_status_of_its_task(known, steady, status):
    """The mapping of spec 03 §2.3."""
    assert task_status_of(Container(name="c", known=known, steady=steady)) == status


def test_an_essential_container_that_stopped_stops_the_task():
    """Conformance case 5: known unchanged, desired STOPPED for the task and for the other container."""
    a = Container(name="a", essential=True, known=C.STOPPED, desired=C.RUNNING)
    b = Container(name="b", known=C.RUNNING, desired=C.RUNNING)
    task = Task(arn="t", containers=(a, b), known=T.RUNNING, desired=T.RUNNING)
    assert known_status(task) == T.RUNNING
    after = with_desired(task)
    assert (after.desired, after.containers[1].desired) == (T.STOPPED, C.STOPPED)


def test_a_stopped_sidecar_leaves_the_task_running():
    """Conformance case 6."""
    a = Container(name="a", known=C.STOPPED, desired=C.RUNNING)
    b = Container(name="b", essential=True, known=C.RUNNING, desired=C.RUNNING)
    task = Task(arn="t", containers=(a, b), known=T.CREATED, desired=T.RUNNING)
    assert known_status(task) == T.RUNNING
    assert with_desired(task).desired == T.RUNNING


def test_the_task_waits_for_its_slowest_container():
    """Conformance case 7."""
    pause = Container(name="pause", known=C.RUNNING, steady=RP)
    app = Container(name="app", known=C.NONE)
    assert known_status(Task(arn="t", containers=(pause, app))) == T.NONE


def test_a_known_status_never_goes_backwards():
    """A container that is added or rolled back does not take the task with it."""
    app = Container(name="app", known=C.CREATED)
    assert known_status(Task(arn="t", containers=(app,), known=T.RUNNING)) == T.RUNNING
