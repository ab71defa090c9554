"""What becomes of a resource whose removal fails."""

from __future__ import annotations

import pytest

from common.errors import NamedError
from common.model.task import Container, Task
from services.engine.core.effects import Action, Effect, Outcome
from services.engine.crew import Crew


class Hands:
    """Cannot remove anything; Docker answers a ping, or not."""

    def __init__(self, answers: bool) -> None:
        self.answers = answers

    def perform(self, task: Task, effect: Effect) -> Outcome:
        """The outcome of a failure."""
        failed = effect.action != Action.PING or not self.answers
        error = NamedError("UnknownError", "no") if failed else None
        return Outcome(action=effect.action, target=effect.target, error=error)

    def cancel(self, task_arn: str, container: str = "") -> None:
        """Nothing to cancel."""

    def ended(self, container: Container) -> None:
        """Nothing is held."""


@pytest.mark.parametrize("answers", [True, False])
def test_a_removal_that_failed_says_whether_docker_is_away(answers: bool) -> None:
    """The clean-up begins again later in the one case; in the other the volume would stay for ever if it did not."""
    task = Task(arn="arn:aws:ecs:us-west-2:1:task/c/t1")
    removal = Effect(action=Action.REMOVE_RESOURCE, target="volume", reason="a test")
    outcome = Crew(Hands(answers)).perform(removal, lambda: task)
    assert outcome.error is not None
    assert outcome.docker_answers is answers
