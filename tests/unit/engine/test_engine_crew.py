"""How many effects are performed at a time (services/engine/crew.py)."""

from __future__ import annotations

from typing import Any

import gevent
import gevent.event
import pytest

from services.engine import crew
from services.engine.core.effects import Action, Effect, Outcome


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


def start(crew_: crew.Crew, action: Action, number: int, done: list[str]) -> None:
    for at in range(number):
        crew_.start(
            Effect(action=action, target=str(at), reason="a test"), lambda: None, lambda e, _: done.append(e.target)
        )  # type: ignore[arg-type, return-value]


SORTS = [(Action.STOP, "STOP"), (Action.CREATE, "START"), (Action.START, "START")]


def young(sort: str) -> int:
    """How many of the sort begin at a time."""
    return int(getattr(crew, f"YOUNG_{sort}S"))


@pytest.mark.parametrize(("action", "sort"), SORTS)
def test_a_few_begin_at_a_time_and_lasting_ones_hold_up_nobody(monkeypatch, action, sort):
    """30 at once contend; a container that ignores SIGTERM, or a call that hangs, must not keep the others waiting."""
    monkeypatch.setattr(crew, f"YOUNG_{sort}_SECONDS", 0.02)
    hands, done = Hands(), []
    many = min(young(sort) * 2 + 5, crew.PLACES[crew.SORT.get(action, "docker")])
    start(crew.Crew(hands), action, many, done)
    gevent.sleep(0)
    assert len(hands.begun) == young(sort)
    with gevent.Timeout(5):
        while len(hands.begun) < many:
            gevent.sleep(0.005)
    assert not done, "none of them has ended, all of them have begun"
    hands.go.set()
    with gevent.Timeout(5):
        while len(done) < many:
            gevent.sleep(0.005)


@pytest.mark.parametrize(("action", "sort"), SORTS)
def test_one_that_ends_lets_the_next_begin_at_once(monkeypatch, action, sort):
    """The gate adds no waiting of its own."""
    monkeypatch.setattr(crew, f"YOUNG_{sort}_SECONDS", 60.0)
    hands, done = Hands(), []
    hands.go.set()
    start(crew.Crew(hands), action, young(sort) * 10, done)
    with gevent.Timeout(5):
        while len(done) < young(sort) * 10:
            gevent.sleep(0)
    assert len(hands.begun) == len(set(done)) == young(sort) * 10


def test_a_start_and_a_creation_share_the_gate_and_a_stop_has_another(monkeypatch):
    """What is being stopped delays nothing that begins, and the other way round."""
    monkeypatch.setattr(crew, "YOUNG_STARTS", 1)
    monkeypatch.setattr(crew, "YOUNG_STOPS", 1)
    hands, done = Hands(), []
    made = crew.Crew(hands)
    for at, action in enumerate((Action.CREATE, Action.START, Action.STOP, Action.STOP, Action.INSPECT)):
        start(made, action, 1, done)
        gevent.sleep(0)
        assert len(hands.begun) == (1, 1, 2, 2, 3)[at]
    hands.go.set()
    with gevent.Timeout(5):
        while len(done) < 5:
            gevent.sleep(0)


@pytest.mark.parametrize("action", [Action.CREATE, Action.INSPECT])
def test_other_effects_have_bounds_of_their_own(action, monkeypatch):
    """Stops that last take no place from what starts other tasks."""
    monkeypatch.setattr(crew, "YOUNG_STOP_SECONDS", 60.0)
    monkeypatch.setattr(crew, "YOUNG_STARTS", 1000)
    hands, done = Hands(), []
    made = crew.Crew(hands)
    start(made, Action.STOP, crew.YOUNG_STOPS + 1, done)
    gevent.sleep(0)
    before = len(hands.begun)
    start(made, action, 100, done)
    gevent.sleep(0)
    assert len(hands.begun) - before == crew.PLACES[crew.SORT.get(action, "docker")]
    hands.go.set()
