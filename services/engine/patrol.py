"""A cheap look at all containers together, for what no event told: one list call in half a minute.

Docker's event stream is reliable, and after each interruption everything is inspected; this is the net below it (a
stream that hangs without breaking, an inspect that failed in the wrong moment). What does not look as it should is
handed to the task's worker, which inspects; nothing is concluded from the list itself.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import gevent

from common.errors import Temporary
from common.logs import fields
from common.model.status import ContainerStatus
from common.model.task import Container, Task

log = logging.getLogger(__name__)

ROUND_SECONDS, ROUND_JITTER_SECONDS = 30.0, 5.0
ALIVE = ("running", "paused", "restarting")
WATCHED = (ContainerStatus.CREATED, ContainerStatus.RUNNING, ContainerStatus.RESOURCES_PROVISIONED)


class Lists(Protocol):
    """The part of the hands that is needed."""

    def list_containers(self) -> list[tuple[str, str, dict[str, str], str]]: ...


def suspicious(tasks: Iterable[Task], states: dict[str, str]) -> Iterator[Task]:
    """The tasks with an idle container that Docker lists in another state, or not at all. `states` by Docker id."""
    for task in tasks:
        if any(_differs(container, states) for container in task.containers):
            yield task


def _differs(container: Container, states: dict[str, str]) -> bool:
    watched = container.docker_id and container.known in WATCHED and container.applied == ContainerStatus.NONE
    if not watched:
        return False
    return (states.get(container.docker_id) in ALIVE) != container.known.is_running


class Patrol:
    """Compares now and then. `look_at` is called with the ARN of each task that needs a closer look."""

    def __init__(self, hands: Lists, tasks: Callable[[], list[Task]], look_at: Callable[[str], None]) -> None:
        self.hands, self.tasks, self.look_at = hands, tasks, look_at

    def run(self) -> None:
        """For ever."""
        while True:
            gevent.sleep(ROUND_SECONDS + random.uniform(0.0, ROUND_JITTER_SECONDS))
            self.round()

    def round(self) -> None:
        """Compare once. What came up after the list was asked for is none of its business."""
        tasks = self.tasks()
        if not tasks:
            return
        try:
            states = {id_: state for id_, _, _, state in self.hands.list_containers()}
        except Temporary as error:
            log.debug("Docker does not list its containers: %s", error)
            return
        for task in suspicious(tasks, states):
            log.info("Docker lists a container of the task in another state; it is inspected", **fields(task=task.arn))
            self.look_at(task.arn)
