"""A task arrives: it is set up and checked, or rejected with one STOPPED report."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from common.model.status import TaskStatus
from common.model.task import Resource, Task
from services.engine.core.dependencies import is_satisfiable
from services.engine.core.effects import SetupError
from services.engine.core.prepare import set_order, set_up, wrapped
from services.engine.core.states import with_desired
from services.engine.core.status import reject
from services.engine.core.turn import Decision, Surroundings, Turn


def begin(
    task: Task, resources_for: Callable[[Task], Iterable[Resource]], limits_enabled: bool, around: Surroundings
) -> Decision:
    """The task ready for its first decision, or rejected (known STOPPED, with the report).

    `resources_for` may ask Docker and raises SetupError. A task that ECS wants stopped is not set up at all: nothing
    of it will run, and nothing must keep its stop from being reported.
    """
    turn = Turn(task, around)
    if task.desired != TaskStatus.STOPPED:
        try:
            limited = limits_enabled and not task.is_internal
            resources = tuple(resources_for(task))
            turn.task = set_up(set_order(task), resources, limited)
        except SetupError as error:
            reject(turn, wrapped(task, error))
            return turn.decision()
    turn.task = with_desired(turn.task)
    if not is_satisfiable(turn.task):
        reject(turn, f"Task dependencies cannot be resolved, taskArn: {task.arn}")
    return turn.decision()
