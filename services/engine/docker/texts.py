"""The error texts of Docker operations, to the letter (ECS agent behaviour, spec 03 §6.2, §6.4, §8.6)."""

from __future__ import annotations

import re

from common.durations import go_duration
from common.errors import NamedError
from services.engine.docker.api import TimedOut

TIMEOUT_ERROR = "DockerTimeoutError"

# What the pull texts are extended with; the apostrophe is U+2019 on the wire.
_ADVICE = (
    (
        re.compile(r"denied: User: (.+) is not authorized to perform: ecr:BatchGetImage on resource"),
        "The task can\u2019t pull the image. Check that the role has the permissions to pull images from the "
        "registry. ",
    ),
    (
        re.compile(r"denied: requested access to the resource is denied"),
        "The task can\u2019t pull the image. Check whether the image exists. ",
    ),
    (
        re.compile(r"request canceled while waiting for connection"),
        "The task can\u2019t pull the image. Check your network configuration. ",
    ),
)
_LAYER_URL = re.compile(r'"?https[^\s]+starport-layer-bucket[^\s]+')
EXTENDED = ("CannotPullContainerError", "CannotPullECRContainerError")


def timeout(what: str, seconds: float) -> NamedError:
    """The error of an operation that ran out of time; `what` is the word for it, such as "created"."""
    return NamedError(TIMEOUT_ERROR, f"Could not transition to {what}; timed out after waiting {go_duration(seconds)}")


def failed(name: str, error: Exception, what: str, seconds: float) -> NamedError:
    """The named error for `error`: `name` with the daemon's text, or the time-out error."""
    return timeout(what, seconds) if isinstance(error, TimedOut) else NamedError(name, str(error))


def extended(error: NamedError) -> NamedError:
    """A pull error with advice in front, where the cause is known."""
    if error.name not in EXTENDED:
        return error
    for pattern, advice in _ADVICE:
        if pattern.search(error.text):
            return NamedError(error.name, advice + error.text)
    return error


def redacted(error: NamedError, image: str) -> NamedError:
    """Without the signed URLs of ECR's layer buckets; `image` is the reference of the call."""
    return NamedError(error.name, _LAYER_URL.sub(lambda _: f"REDACTED ECR URL related to {image}", error.text))
