"""Clients of the Docker Engine API: low-level, with an explicit version and a time-out per call.

Log lines and the local tools show the daemon's message, not the SDK's: `message_of` gives "Error response from daemon:
..." or the sentence for a daemon that cannot be reached, in the reference's words (spec 03 §6.4).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docker import APIClient

DEFAULT_HOST = "unix:///var/run/docker.sock"
KNOWN_API_VERSIONS = tuple(f"1.{minor}" for minor in range(17, 45))
REFERENCE_API_VERSION = "1.21"
SDK_API_VERSION = "1.24"  # the lowest that the docker SDK speaks


def host() -> str:
    """DOCKER_HOST, or Docker's own default."""
    return os.environ.get("DOCKER_HOST") or DEFAULT_HOST


def client(version: str, timeout_seconds: float, pool_size: int = 10) -> APIClient:
    """A client that speaks API `version`; makes no call by itself."""
    from docker import APIClient

    return APIClient(
        base_url=host(),
        version=version,
        timeout=timeout_seconds,  # type: ignore[arg-type]
        num_pools=4,
        max_pool_size=pool_size,
    )


def message_of(error: Exception) -> str:
    """The text that ECS sees for a failed Docker call."""
    from docker.errors import APIError

    if isinstance(error, APIError) and error.response is not None:
        explanation = str(error.explanation or "").strip()
        if not explanation:
            response = error.response
            return (
                f"request returned {response.reason} for API route and version {response.url}, "
                "check if the server supports the requested API version"
            )
        return f"Error response from daemon: {explanation}"
    return f"Cannot connect to the Docker daemon at {host()}. Is the docker daemon running?"


def lowest_usable_version(timeout_seconds: float = 10.0) -> str:
    """The API version for plain calls through the SDK: 1.24, or the daemon's minimum when that is higher.

    Asks the daemon once; raises OSError or docker.errors.APIError when it does not answer.
    """
    from docker import APIClient

    probe = APIClient(base_url=host(), version="1.44", timeout=timeout_seconds)  # type: ignore[arg-type]
    try:
        minimum = str(probe.get(f"{probe.base_url}/version").json().get("MinAPIVersion") or SDK_API_VERSION)
    finally:
        probe.close()
    return max(SDK_API_VERSION, minimum, key=lambda v: tuple(map(int, v.split("."))))
