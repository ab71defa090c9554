"""From an image reference to an image on this host: digest, pull, tag (ECS agent behaviour, spec 03 §6.3, §6.4).

Each operation has one deadline over all of its attempts, a back-off of its own, and a Canceller, so that a task that
must stop does not pull on. Nothing here decides what a failure means for the task.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

from common.backoff import Backoff
from common.errors import NamedError
from services.engine.docker import auth, reference, texts
from services.engine.docker.api import Api, Cancelled, Canceller, DockerCallError, TimedOut, Unreachable
from services.engine.docker.settings import Settings

log = logging.getLogger(__name__)
T = TypeVar("T")

MANIFEST_ATTEMPTS, PULL_ATTEMPTS, TAG_ATTEMPTS = 9, 5, 5
TAG_SECONDS, TAG_PAUSE_SECONDS = 30.0, 0.1
OLD_MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
PULL_ERROR, MANIFEST_ERROR = "CannotPullContainerError", "CannotPullImageManifestError"
FINAL = ("CannotPullECRContainerError", "CannotPullContainerAuthError")

Credentials = Callable[[], auth.Auth]  # asked for once per attempt; raises Failed


class Failed(Exception):
    """The operation failed with this named error."""

    def __init__(self, error: NamedError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass
class Attempts:
    """How often, how long in all, and with which pauses something is tried."""

    count: int
    seconds: float
    backoff: Backoff
    out_of_time: Callable[[float], NamedError]  # given the seconds that went by
    canceller: Canceller
    away_seconds: float = 30.0  # an attempt that found no daemon is none, for so long in all

    def run(self, attempt: Callable[[float], T]) -> T:
        """Call `attempt` with the monotonic time of the deadline until it succeeds. Raises Failed."""
        began = time.monotonic()
        end = began + self.seconds
        number, away_until = 1, 0.0
        while True:
            try:
                return attempt(end)
            except Failed as failure:
                now = time.monotonic()
                if now >= end:
                    raise Failed(self.out_of_time(now - began)) from failure
                is_away = _found_no_daemon(failure)
                away_until = away_until or (now + self.away_seconds if is_away else 0.0)
                counts = not is_away or now >= away_until
                if (counts and number == self.count) or failure.error.name in FINAL or self.canceller.cancelled:
                    raise
                log.info("attempt %d of %d failed: %s", number, self.count, failure)
                number += counts
            delay = self.backoff.delay()
            if time.monotonic() + delay >= end:
                self._sleep(end - time.monotonic())
                raise Failed(self.out_of_time(time.monotonic() - began))
            self._sleep(delay)

    def _sleep(self, seconds: float) -> None:
        try:
            self.canceller.sleep(seconds)
        except Cancelled as error:
            raise Failed(NamedError(PULL_ERROR, str(error))) from error


def _found_no_daemon(failure: BaseException) -> bool:
    """Whether Docker's socket refused the call: the daemon is away, and nothing was tried."""
    cause: BaseException | None = failure
    while cause is not None:
        if isinstance(cause, Unreachable):
            return cause.refused
        cause = cause.__cause__
    return False


class Registry:
    """Image operations of one Docker daemon that involve a registry."""

    def __init__(self, api: Api, settings: Settings) -> None:
        self._api, self._settings = api, settings

    # -- digest ------------------------------------------------------------------------------

    def digest(self, image: str, version: str, credentials: Credentials, canceller: Canceller) -> str:
        """The digest of `image` in its registry, "" for manifests of the first schema. Raises Failed."""
        attempts = Attempts(
            MANIFEST_ATTEMPTS,
            self._settings.manifest_seconds,
            Backoff(0.01, 5.0, 3.0),
            lambda seconds: texts.timeout("MANIFEST_PULLED", seconds),
            canceller,
            self._api.away_seconds,
        )

        def attempt(end: float) -> str:
            return self._ask_digest(image, version, credentials(), canceller, end)

        return attempts.run(attempt)

    def _ask_digest(self, image: str, version: str, given: auth.Auth, canceller: Canceller, end: float) -> str:
        try:
            answer = self._api.call(
                "GET",
                f"/distribution/{quote(image, safe='/:@')}/json",
                max(0.001, end - time.monotonic()),
                version=version,
                headers=auth.header(given),
                canceller=canceller,
            ).json()
        except DockerCallError as error:
            raise Failed(texts.redacted(NamedError(MANIFEST_ERROR, str(error)), image)) from error
        descriptor = answer.get("Descriptor") or {}
        media_type = descriptor.get("mediaType") or descriptor.get("MediaType") or ""
        return "" if media_type in OLD_MANIFESTS else str(descriptor.get("digest") or descriptor.get("Digest") or "")

    # -- pull --------------------------------------------------------------------------------

    def pull(self, image: str, credentials: Credentials, canceller: Canceller) -> None:
        """Pull `image`, a reference with tag or digest. Raises Failed; texts are extended and redacted."""
        attempts = Attempts(
            PULL_ATTEMPTS,
            self._settings.pull_seconds,
            Backoff(1.1, 5.0, 2.0),
            lambda _: texts.timeout("pulled", self._settings.pull_seconds),
            canceller,
            self._api.away_seconds,
        )

        def attempt(end: float) -> None:
            try:
                self._pull_once(image, credentials(), canceller, end)
            except Failed as failure:  # redacted here, because each attempt is logged
                raise Failed(texts.redacted(failure.error, image)) from failure

        try:
            attempts.run(attempt)
        except Failed as failure:
            raise Failed(texts.extended(failure.error)) from failure

    def _pull_once(self, image: str, given: auth.Auth, canceller: Canceller, end: float) -> None:
        try:
            name, tag = reference.pull_target(image)
            self._follow(name, tag, given, canceller, end)
        except (DockerCallError, reference.InvalidReference) as error:
            raise Failed(NamedError(PULL_ERROR, str(error))) from error
        except ValueError as error:
            raise Failed(NamedError(PULL_ERROR, f"the progress of the pull cannot be read: {error}")) from error

    def _follow(self, name: str, tag: str, given: auth.Auth, canceller: Canceller, end: float) -> None:
        """One request and its progress. Raises Failed for what the stream says, DockerCallError for the rest."""
        first = self._settings.pull_first_byte_seconds
        began = False
        try:
            stream = self._api.stream(
                "POST",
                "/images/create",
                min(first, max(0.001, end - time.monotonic())),
                query={"fromImage": name, "tag": tag},
                headers=auth.header(given),
                canceller=canceller,
            )
            try:
                for message in stream.lines(first, self._settings.pull_idle_seconds, end):
                    began = True
                    if isinstance(message, dict) and message.get("error"):
                        raise Failed(NamedError(PULL_ERROR, str(message["error"]).strip()))
            finally:
                stream.close()
        except TimedOut as error:
            if began:
                text = "inactivity time exceeded timeout while pulling image"
                raise Failed(NamedError(PULL_ERROR, text)) from error
            raise Failed(texts.timeout("pullBegin", first)) from error

    # -- tag ---------------------------------------------------------------------------------

    def tag(self, source: str, target: str, canceller: Canceller) -> None:
        """Give the image `source` the name that the task definition uses. Raises Failed."""
        parts = reference.split(target)
        query = {"repo": reference.familiar(target), "tag": parts.tag or "latest"}
        attempts = Attempts(
            TAG_ATTEMPTS,
            TAG_SECONDS,
            Backoff(TAG_PAUSE_SECONDS, TAG_PAUSE_SECONDS, 1.0, 0.0),
            lambda _: texts.timeout("pulled", TAG_SECONDS),
            canceller,
            self._api.away_seconds,
        )

        def attempt(end: float) -> None:
            path = f"/images/{quote(source, safe='/:@')}/tag"
            try:
                self._api.call("POST", path, max(0.001, end - time.monotonic()), query=query, canceller=canceller)
            except DockerCallError as error:
                text = f"failed to tag image '{source}' as '{target}': {error}"
                raise Failed(NamedError(PULL_ERROR, text)) from error

        attempts.run(attempt)
