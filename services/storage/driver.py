"""Seeing to it that the driver runs: the engine is asked for its task when a volume needs it and it is not there."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping

from msgspec.structs import replace

from common import keys
from common.backoff import Backoff
from common.bus import Change, Store
from common.logs import fields
from common.model.agent import VolumeDriver
from common.model.messages import RunOrUpdateTask
from common.model.task import Task
from services.storage.core.driver import STEADY_SECONDS, Condition, condition, new_arn, task_of
from services.storage.devices import is_shared, prepare_directory

log = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 10.0  # the engine may be away, or the store may have lost the command
DIRECTORY_MODE, LOG_DIRECTORY_MODE = 0o755, 0o777


class DriverTask:
    """Paths on the host: the driver's socket, the directory of its logs and that of the mounted volumes."""

    def __init__(self, store: Store, socket_path: str, log_directory: str, volumes: str) -> None:
        self._store, self._socket_path = store, socket_path
        self._log_directory, self._volumes = log_directory, volumes
        self._document = VolumeDriver()
        self._pauses = Backoff(0.5, 60.0, 2.0)
        self._asked_at, self._pause = float("-inf"), 0.0  # time.monotonic(), seconds
        self._said = ""

    def restore(self) -> None:
        """Read which task was asked for last."""
        self._document = self._store.get(keys.VOLUME_DRIVER, keys.VOLUME_DRIVER_ID) or self._document

    def publish_again(self) -> None:
        """The store has lost its data; the engine writes the task again."""
        if self._document.revision:
            self._store.commit(Change().save(keys.VOLUME_DRIVER, keys.VOLUME_DRIVER_ID, self._document))

    def runs(self, tasks: Mapping[str, Task]) -> bool:
        """Whether the driver runs; when it does not, it is asked for. `tasks` are all tasks by ARN."""
        task = tasks.get(self._document.task_arn)
        how = condition(task)
        if how is Condition.RUNS:
            if task is not None and task.known_at + STEADY_SECONDS < time.time():
                self._pauses.reset()
            return True
        pause = ASK_AGAIN_SECONDS if how is Condition.ABSENT else self._pause
        if how is not Condition.COMES and time.monotonic() >= self._asked_at + pause:
            self._ask_for_one(how)
        return False

    def _ask_for_one(self, how: Condition) -> None:
        facts = self._store.get(keys.FACTS, keys.FACTS_ID)
        if facts is None or not facts.volume_driver_loaded:
            self._say("Docker has not got the image of the EBS driver yet")
            return
        try:
            self._prepare()
        except OSError as error:
            self._say(f"the directories of the EBS driver cannot be made: {error}")
            return
        again = how is Condition.ABSENT and bool(self._document.task_arn)  # asked for, and not taken up yet
        arn = self._document.task_arn if again else new_arn()
        self._document = replace(self._document, revision=self._document.revision + 1, task_arn=arn)
        task = task_of(arn, self._socket_path, self._log_directory, self._volumes)
        log.info("the EBS driver is started", **fields(task=arn))
        self._store.commit(
            Change()
            .save(keys.VOLUME_DRIVER, keys.VOLUME_DRIVER_ID, self._document)
            .append(keys.COMMANDS, RunOrUpdateTask(task=task))
        )
        self._said = ""
        self._asked_at, self._pause = time.monotonic(), self._pauses.delay()

    def _prepare(self) -> None:
        """The reference gives /dev to root as well, as it sees it in its own container; here it is the host's."""
        prepare_directory(os.path.dirname(self._socket_path), DIRECTORY_MODE)
        prepare_directory(self._log_directory, LOG_DIRECTORY_MODE)
        prepare_directory(self._volumes, DIRECTORY_MODE)
        for path in (self._volumes, "/dev"):
            if not is_shared(path):
                self._say(
                    f"{path} is not on a shared mount, so Docker will refuse to start the EBS driver; run `mount "
                    "--make-rshared /`, and see that no setting of the service makes a mount namespace of its own"
                )

    def _say(self, sentence: str) -> None:
        if sentence != self._said:
            self._said = sentence
            log.warning("volumes wait: %s", sentence)
