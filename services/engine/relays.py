"""Loads the Service Connect agent's image, and sees to it that the relay runs when it is needed, with that image.

What is to be done is read from the archive and from the tasks each time, so nothing rests on the call that makes it
happen at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import gevent.event

from common.backoff import Backoff
from common.logs import fields
from common.model.agent import Instance
from common.model.status import TaskStatus
from common.model.task import Task
from services.engine.core.relay import is_needed, running_relay, task_of

log = logging.getLogger(__name__)

LOOK_SECONDS, ENDING_SECONDS = 5.0, 0.5
STEADY_SECONDS = 60.0  # a relay that ran for so long is no longer one that fails at its start


class LoadsImage(Protocol):
    """The part of the hands that is needed."""

    def load_service_connect(self) -> bool: ...

    def service_connect_stamp(self) -> tuple[int, ...] | None: ...


class Relays:
    """`begin` and `end` start and stop a task of the agent's own.

    `image_came` is called after a load; `loaded` tells whether Docker has the image.
    """

    def __init__(
        self,
        hands: LoadsImage,
        tasks: Callable[[], Iterable[Task]],
        begin: Callable[[Task], object],
        end: Callable[[Task, str], object],
        image_came: Callable[[], object],
        loaded: Callable[[], bool],
        instance: Callable[[], Instance],
        region: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hands, self._tasks, self._begin, self._end = hands, tasks, begin, end
        self._image_came, self._loaded = image_came, loaded
        self._instance, self._region, self._clock = instance, region, clock
        self._called = gevent.event.Event()
        self._stamp: tuple[int, ...] | None = None  # of the archive that was loaded
        self._failed: tuple[int, ...] | None = None  # of the one that was not
        self._seen = self._at_start = hands.service_connect_stamp()
        self._pauses, self._loads = Backoff(1.0, 300.0, 2.0), Backoff(LOOK_SECONDS, 600.0, 2.0)
        self._not_before = self._not_loaded_before = 0.0

    def call(self) -> None:
        """A task with Service Connect has come: look at once."""
        self._called.set()

    def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            self.look()
            relay = running_relay(self._tasks())
            ending = relay is not None and relay.desired == TaskStatus.STOPPED
            self._called.wait(ENDING_SECONDS if ending else LOOK_SECONDS)
            self._called.clear()

    def look(self) -> None:
        """Do what is to be done now. Raises Temporary when the store cannot be asked."""
        self._load_what_changed()
        tasks = list(self._tasks())
        relay = running_relay(tasks)
        if relay is not None:
            if relay.known == TaskStatus.RUNNING and time.time() - relay.known_at > STEADY_SECONDS:
                self._pauses.reset()
            return
        if not is_needed(tasks) or not self._loaded() or self._clock() < self._not_before:
            return
        instance = self._instance()
        region = self._region or instance.region
        endpoint = instance.service_connect_endpoint or f"https://ecs-sc.{region}.api.aws"
        task = task_of(region, endpoint)
        log.info("the relay of Service Connect is started", **fields(task=task.arn, endpoint=endpoint))
        self._not_before = self._clock() + self._pauses.delay()
        self._begin(task)

    def _load_what_changed(self) -> None:
        """Load an archive that is another than before, as soon as it has stopped growing, until Docker takes it."""
        before, self._seen = self._seen, self._hands.service_connect_stamp()
        if self._seen is None or self._seen != before or (self._seen == self._stamp and self._loaded()):
            return
        if self._seen in (self._failed, self._stamp) and self._clock() < self._not_loaded_before:
            return
        if not self._hands.load_service_connect():
            self._failed = self._seen
            self._not_loaded_before = self._clock() + self._loads.delay()
            return
        is_another = self._seen != self._stamp
        if is_another:
            self._loads.reset()
        self._stamp = self._seen
        self._not_loaded_before = self._clock() + self._loads.delay()  # should Docker not have it all the same
        self._image_came()
        relay = running_relay(self._tasks())
        if relay is not None and is_another and self._stamp != self._at_start:
            self._not_before = 0.0
            self._end(relay, "its image was replaced")
