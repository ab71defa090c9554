"""What a client of the ECS API is told when a call cannot be done.

The codes are those of the service; the HTTP status is 400 for everything that the caller can mend and 500 for the rest
(ECS API reference, "Common errors").
"""

from __future__ import annotations


class ApiError(Exception):
    """An answer with an error code. `code` is the exception's name on the wire, `status` the HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


def client(message: str) -> ApiError:
    """A request that makes no sense in the state the service is in."""
    return ApiError("ClientException", message)


def invalid(message: str) -> ApiError:
    """A parameter with a value that cannot be used."""
    return ApiError("InvalidParameterException", message)


def cluster_not_found() -> ApiError:
    """The cluster is not there, or was deleted."""
    return ApiError("ClusterNotFoundException", "Cluster not found.")
