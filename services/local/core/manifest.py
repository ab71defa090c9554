"""Task manifests: which tasks an instance shall run, and which of those in question must stop (spec 02 §5).

The control plane sends the list; the agent names what it runs beside it; the control plane confirms what must stop.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from services.local.core.records import Task

Json = dict[str, Any]


def manifest(tasks: Iterable[Task], cluster_arn: str, omit: Collection[str] = ()) -> list[Json]:
    """The identifiers of the tasks that shall run, without those in `omit`."""
    return [
        {"taskArn": task.arn, "taskClusterArn": cluster_arn, "desiredStatus": "RUNNING"}
        for task in tasks
        if task.live and task.delivery.desired == "RUNNING" and task.arn not in omit
    ]


def confirmed(candidates: Iterable[Json], listed: Iterable[Json]) -> list[Json]:
    """Those candidates of the agent that the manifest did not list: they must stop."""
    wanted = {entry["taskArn"] for entry in listed}
    return [c for c in candidates if isinstance(c, dict) and c.get("taskArn") not in wanted]
