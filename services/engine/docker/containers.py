"""Calls about one container: create, start, stop, inspect, remove (ECS agent behaviour, spec 03 §6.2, §6.7-§6.10).

Each returns what Docker said or raises ContainerFailed with the exact named error; each has its own deadline. Calls
that may be repeated without harm wait for a daemon that is away for a moment: with live-restore its containers run on
while it restarts, and a task must not fail for it.
"""

from __future__ import annotations

import logging
import time
from typing import Any
from urllib.parse import quote

from common.backoff import Backoff
from common.errors import NamedError
from services.engine.core.effects import Observation
from services.engine.docker import names, texts
from services.engine.docker.api import Api, ApiError, DockerCallError, TimedOut
from services.engine.docker.draft import Draft
from services.engine.docker.observe import observe
from services.engine.docker.settings import Settings

log = logging.getLogger(__name__)

INSPECT_SECONDS = 30.0
REMOVE_SECONDS = 300.0
LIST_SECONDS = 600.0
PING_SECONDS = 5.0
STOP_BUFFER_SECONDS = 120.0
STOP_ATTEMPTS = 5


class ContainerFailed(Exception):
    """A call failed. `gone`: Docker does not know the container. `seen` is what an inspect told nevertheless."""

    def __init__(
        self, error: NamedError, gone: bool = False, seen: Observation | None = None, retriable: bool = True
    ) -> None:
        super().__init__(str(error))
        self.error, self.gone, self.seen, self.retriable = error, gone, seen, retriable


class Containers:
    """Containers of one Docker daemon, by id or name."""

    def __init__(self, api: Api, settings: Settings) -> None:
        self._api, self._settings = api, settings

    def inspect(self, id_: str) -> Observation:
        """What Docker says about a container."""
        try:
            answer = self._api.patient_call("GET", f"/containers/{quote(id_, safe='')}/json", INSPECT_SECONDS)
            return observe(answer.json())
        except DockerCallError as error:
            gone = isinstance(error, ApiError) and error.status == 404
            # A time-out keeps its text and not its name here: the reference wraps it (spec 03 §16, case 16).
            text = texts.failed("CannotInspectContainerError", error, "inspecting", INSPECT_SECONDS).text
            raise ContainerFailed(NamedError("CannotInspectContainerError", text), gone) from error

    def create(self, draft: Draft) -> str:
        """Create the container of a request; returns Docker's id.

        A name that is taken by the very same container of the same task is that container: the agent died, or gave up
        waiting, while Docker was creating it. Docker takes the name before there is a container to be inspected; so
        long as it has neither, it is asked again.
        """
        seconds = self._settings.create_seconds
        name = draft.container.docker_name
        backoff, end = Backoff(0.1, 2.0, 2.0), time.monotonic() + seconds
        while True:
            try:
                answer = self._api.patient_call(
                    "POST", "/containers/create", seconds, query={"name": name}, body=draft.body, version=draft.version
                )
                return str(answer.json()["Id"])
            except DockerCallError as error:
                found = self._adopt(draft) if isinstance(error, ApiError) and error.status == 409 else ""
                if found:
                    log.info("container %s had been created before; it is used", name)
                    return found
                pause = backoff.delay()
                if found is not None or time.monotonic() + pause > end:
                    failed = texts.failed("CannotCreateContainerError", error, "created", seconds)
                    raise ContainerFailed(failed) from error
            time.sleep(pause)

    def _adopt(self, draft: Draft) -> str | None:
        """The id of the container that holds the name, if it is ours, else ""; None when there is no such container."""
        try:
            seen = self.inspect(draft.container.docker_name)
        except ContainerFailed as failure:
            log.warning("the container that holds the name %s: %s", draft.container.docker_name, failure)
            return None if failure.gone else ""
        labels = seen.labels or {}
        ours = labels.get(names.TASK_ARN) == draft.task.arn
        return seen.docker_id if ours and labels.get(names.CONTAINER_NAME) == draft.container.name else ""

    def start(self, id_: str, version: str) -> Observation:
        """Start, then inspect in any case."""
        seconds = self._settings.start_seconds
        failure: ContainerFailed | None = None
        try:
            self._api.patient_call("POST", f"/containers/{quote(id_, safe='')}/start", seconds, version=version)
        except DockerCallError as error:
            gone = isinstance(error, ApiError) and error.status == 404 and "No such container" in error.message
            failure = ContainerFailed(texts.failed("CannotStartContainerError", error, "started", seconds), gone)
        try:
            seen = self.inspect(id_)
        except ContainerFailed as error:
            raise failure or error from None
        if failure is not None:
            failure.seen = seen
            raise failure
        if seen.error is not None:
            raise ContainerFailed(seen.error, seen=seen)
        return seen

    def stop(self, id_: str, grace_seconds: float) -> Observation:
        """Stop, then inspect; up to five attempts. 304 is success; so is a stop whose inspect shows an old error."""
        backoff = Backoff(1.0, 5.0, 1.3)
        for attempt in range(1, STOP_ATTEMPTS + 1):
            try:
                return self._stop_once(id_, grace_seconds)
            except ContainerFailed as failure:
                if not failure.retriable or attempt == STOP_ATTEMPTS:
                    raise
                log.warning("attempt %d of %d to stop %s: %s", attempt, STOP_ATTEMPTS, id_[:12], failure)
            time.sleep(backoff.delay())
        raise AssertionError("no attempt was made")

    def _stop_once(self, id_: str, grace_seconds: float) -> Observation:
        seconds = grace_seconds + STOP_BUFFER_SECONDS
        query = {"t": round(grace_seconds)}
        try:
            self._api.call("POST", f"/containers/{quote(id_, safe='')}/stop", seconds, query=query)
        except DockerCallError as error:
            raise self._stop_failure(id_, error, seconds) from error
        try:
            return self.inspect(id_)
        except ContainerFailed as failure:
            if failure.gone:
                # The stop was answered and the container removed by someone since: it has stopped.
                raise ContainerFailed(failure.error, gone=True, retriable=False) from failure
            raise

    def _stop_failure(self, id_: str, error: DockerCallError, seconds: float) -> ContainerFailed:
        name = "CannotStopContainerError"
        if isinstance(error, TimedOut):
            return ContainerFailed(texts.failed(name, error, "stopped", seconds))
        gone = isinstance(error, ApiError) and error.status == 404
        try:
            seen = self.inspect(id_)
        except ContainerFailed as failure:
            gone = gone or failure.gone
            return ContainerFailed(NamedError(name, failure.error.text), gone, retriable=not gone)
        if gone:
            return ContainerFailed(NamedError(name, f"Container not found: {id_}"), seen=seen, retriable=False)
        return ContainerFailed(NamedError(name, str(error)), seen=seen)

    def remove(self, id_: str, force: bool = False) -> None:
        """Remove a container with its anonymous volumes, `force` with its process; one that is gone is no error."""
        query = {"v": 1, "force": 1} if force else {"v": 1}
        try:
            self._api.patient_call("DELETE", f"/containers/{quote(id_, safe='')}", REMOVE_SECONDS, query=query)
        except DockerCallError as error:
            if isinstance(error, ApiError) and error.status == 404:
                return
            raise ContainerFailed(
                texts.failed("CannotRemoveContainerError", error, "removing", REMOVE_SECONDS)
            ) from error

    def list(self, label: str) -> list[dict[str, Any]]:
        """All containers with a label, running or not."""
        query = {"all": 1, "filters": f'{{"label":["{label}"]}}'}
        try:
            answer = self._api.call("GET", "/containers/json", LIST_SECONDS, query=query).json()
            return list(answer or ())
        except DockerCallError as error:
            raise ContainerFailed(texts.failed("CannotListContainersError", error, "listing", LIST_SECONDS)) from error

    def ping(self) -> NamedError | None:
        """None when Docker answers."""
        try:
            self._api.call("GET", "/_ping", PING_SECONDS)
        except DockerCallError as error:
            return texts.failed("DockerPingError", error, "listing", PING_SECONDS)
        return None
