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
