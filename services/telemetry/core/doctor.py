"""The status of the container instance as one check sees it (spec 07 §11).

A check runs when the control plane sends a heartbeat to ACS. `lastUpdated` is the time of the check before the latest,
as the reference reports it.
"""

from __future__ import annotations

from typing import Any

from services.telemetry.core.numbers import epoch

RUNTIME = "ContainerRuntime"
INITIALIZING, OK, IMPAIRED = "INITIALIZING", "OK", "IMPAIRED"


class RuntimeCheck:
    """Whether the container runtime answers; times are Unix seconds."""

    def __init__(self, created: float) -> None:
        self.status = INITIALIZING
        self.changed_at = created
        self.checked_at = created
        self.updated_at = created  # the check before the latest
        self.reported = False

    def record(self, works: bool, now: float) -> None:
        """The result of a check; it is to be reported."""
        status = OK if works else IMPAIRED
        if status != self.status:
            self.status, self.changed_at = status, now
        self.updated_at, self.checked_at = self.checked_at, now
        self.reported = False

    def message(self) -> dict[str, Any]:
        """InstanceStatus."""
        return {
            "lastStatusChange": epoch(self.changed_at),
            "lastUpdated": epoch(self.updated_at),
            "status": self.status,
            "type": RUNTIME,
        }
