"""How many effects are performed at a time (services/engine/crew.py)."""

from __future__ import annotations

from typing import Any

import gevent
import gevent.event
import pytest
from msgspec.structs import replace

from common.model.status import ContainerStatus, TaskStatus
from common.model.task import Container, Task
from services.engine import crew
from services.engine.core.effects import Action, Effect, Outcome

TASK = Task(arn="arn:aws:ecs:us-west-2:1:task/c/t1")


class Hands:
    """Stops last until they are let go; what is under way is counted."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.go = gevent.event.Event()

    def perform(self, task: Any, effect: Effect) -> Outcome:
        self.begun.append(effect.target)
        self.go.wait(10)
        return Outcome(action=effect.action, target=effect.target)

    def cancel(self, task_arn: str, container: str = "") -> None:
        """Nothing to cancel."""

    def ended(self, container: Container) -> None:
        """Nothing is held."""


def start(crew_: crew.Crew, action: Action, number: int, done: list[str]) -> None:
    for at in range(number):
        crew_.start(
            Effect(action=action, target=str(at), reason="a test"), lambda: TASK, lambda e, _: done.append(e.target)
        )


def test_stops_begin_a_few_at_a_time_and_a_lasting_one_holds_up_nobody(monkeypatch):
    """30 containers that end at once contend; 30 that ignore SIGTERM for half a minute must all have got it soon."""
    monkeypatch.setattr(crew, "YOUNG_SECONDS", 0.02)
    hands, done = Hands(), []
    many = crew.YOUNG_STOPS * 2 + 5
    start(crew.Crew(hands), Action.STOP, many, done)
    gevent.sleep(0)
    assert len(hands.begun) == crew.YOUNG_STOPS
    with gevent.Timeout(5):
        while len(hands.begun) < many:
            gevent.sleep(0.005)
    assert not done, "none of them has ended, all of them were told"
    hands.go.set()
    with gevent.Timeout(5):
        while len(done) < many:
            gevent.sleep(0.005)


def test_a_stop_that_ends_lets_the_next_begin_at_once(monkeypatch):
    """The gate adds no waiting of its own."""
    monkeypatch.setattr(crew, "YOUNG_SECONDS", 60.0)
    hands, done = Hands(), []
    hands.go.set()
    start(crew.Crew(hands), Action.STOP, crew.YOUNG_STOPS * 10, done)
    with gevent.Timeout(5):
        while len(done) < crew.YOUNG_STOPS * 10:
            gevent.sleep(0)
    assert len(hands.begun) == len(set(done)) == crew.YOUNG_STOPS * 10


@pytest.mark.parametrize("action", [Action.CREATE, Action.INSPECT])
def test_other_effects_have_bounds_of_their_own(action, monkeypatch):
    """Stops that last take no place from what starts other tasks."""
    monkeypatch.setattr(crew, "YOUNG_SECONDS", 60.0)
    hands, done = Hands(), []
    made = crew.Crew(hands)
    start(made, Action.STOP, crew.YOUNG_STOPS + 1, done)
    gevent.sleep(0)
    before = len(hands.begun)
    start(made, action, 100, done)
    gevent.sleep(0)
    assert len(hands.begun) - before == crew.PLACES[crew.SORT.get(action, "docker")]
    hands.go.set()


@pytest.mark.parametrize(
    ("action", "known", "desired", "performed"),
    [
        (Action.PULL, ContainerStatus.STOPPED, ContainerStatus.STOPPED, False),
        (Action.CREATE, ContainerStatus.STOPPED, ContainerStatus.STOPPED, False),
        (Action.CREATE, ContainerStatus.PULLED, ContainerStatus.STOPPED, True),
        (Action.START, ContainerStatus.CREATED, ContainerStatus.STOPPED, False),
        (Action.START, ContainerStatus.CREATED, ContainerStatus.RUNNING, True),
        (Action.REMOVE, ContainerStatus.STOPPED, ContainerStatus.STOPPED, True),
    ],
)
def test_what_waited_for_its_turn_is_left_when_its_container_was_stopped_meanwhile(action, known, desired, performed):
    """Fifty tasks that are stopped while Docker hangs must not all be made and started when it answers again."""
    hands = Hands()
    hands.go.set()
    app = Container(name="app", known=known, desired=desired)
    task = Task(arn="t", desired=TaskStatus.STOPPED, containers=(app,))
    outcome = crew.Crew(hands).perform(Effect(action=action, target="app"), lambda: task)
    assert (bool(hands.begun), outcome.skipped) == (performed, not performed)


def test_no_container_is_started_before_the_host_is_prepared():
    """It would ask for credentials in vain; what stops and looks at containers does not wait."""
    hands, done = Hands(), []
    hands.go.set()
    prepared = gevent.event.Event()
    made = crew.Crew(hands, prepared)
    for action in (Action.START, Action.STOP, Action.INSPECT, Action.CREATE):
        start(made, action, 1, done)
    gevent.sleep(0.01)
    assert (len(hands.begun), len(done)) == (3, 3)
    prepared.set()
    gevent.sleep(0.01)
    assert (len(hands.begun), len(done)) == (4, 4)


def test_a_container_that_is_not_to_start_any_more_does_not_wait_for_the_host(monkeypatch):
    """Rules that cannot be made must not keep a task from being stopped."""
    monkeypatch.setattr(crew, "HOST_LOOK_SECONDS", 0.01)
    app = Container(name="app", known=ContainerStatus.CREATED, desired=ContainerStatus.RUNNING)
    stopped = replace(app, known=ContainerStatus.CREATED, desired=ContainerStatus.STOPPED)
    tasks = [Task(arn="t", containers=(container,)) for container in (app, stopped)]
    made = crew.Crew(Hands(), gevent.event.Event())
    with gevent.Timeout(5):
        outcome = made.perform(
            Effect(action=Action.START, target="app"), lambda: tasks.pop(0) if tasks[1:] else tasks[0]
        )
    assert outcome.skipped


def test_what_waits_for_a_place_is_left_as_soon_as_nobody_wants_it(monkeypatch):
    """All places may be held by creates that hang: the stop of another task's container must not wait for them."""
    monkeypatch.setattr(crew, "PLACE_LOOK_SECONDS", 0.01)
    hands, done = Hands(), []
    made = crew.Crew(hands)
    start(made, Action.CREATE, crew.PLACES["docker"], done)
    gevent.sleep(0)
    stopped = Container(name="app", known=ContainerStatus.CREATED, desired=ContainerStatus.STOPPED)
    with gevent.Timeout(5):
        outcome = made.perform(Effect(action=Action.START, target="app"), lambda: Task(arn="t", containers=(stopped,)))
    assert outcome.skipped and not done
    hands.go.set()
    gevent.sleep(0.01)
    assert made.perform(Effect(action=Action.CREATE, target="x"), lambda: TASK).skipped is False, "no place is lost"


def test_an_unexpected_fault_is_one_line_that_names_the_task(caplog):
    """Two lines of which only one does would be two riddles."""
    hands = Hands()
    hands.perform = lambda task, effect: 1 / 0  # type: ignore[method-assign]
    outcome = crew.Crew(hands).perform(Effect(action=Action.PULL, target="app", reason="r"), lambda: TASK)
    assert str(outcome.error) == "UnknownError: ZeroDivisionError: division by zero"
    (record,) = caplog.records
    assert record.exc_info and record.fields == {"task": TASK.arn}
