"""What every operation works with, and the few things that several of them do."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from services.local.acs import Hub
from services.local.core.errors import invalid
from services.local.core.placement import remaining
from services.local.core.records import Cluster, Instance, Task
from services.local.shapes import ServiceShapes
from services.local.state import State

Json = dict[str, Any]
MAX_PAGE = 100


@dataclass
class Plane:
    """The control plane as the operations see it. `base_url` is where agents and clients reach it."""

    state: State
    shapes: ServiceShapes
    hub: Hub
    base_url: str

    def task_view(self, task: Task, with_tags: bool = False) -> Json:
        """The task as DescribeTasks shows it; connectivity follows the agent's session."""
        since = self.hub.since(task.instance)
        view = {**task.view, "connectivity": "CONNECTED" if since else "DISCONNECTED"}
        if since:
            view["connectivityAt"] = max(since, view["createdAt"])
        view["tags"] = self.state.tags.get(task.arn, []) if with_tags else []
        return view

    def instance_view(self, instance: Instance, with_tags: bool = False) -> Json:
        """The instance as DescribeContainerInstances shows it."""
        tasks = self.state.tasks_on(instance.arn)
        running = sum(t.view["lastStatus"] in ("RUNNING", "STOPPING") for t in tasks)
        return {
            **instance.view,
            "agentConnected": self.hub.connected(instance.arn),
            "remainingResources": remaining(instance.view["registeredResources"], (t.holding for t in tasks)),
            "runningTasksCount": running,
            "pendingTasksCount": len(tasks) - running,
            "tags": self.state.tags.get(instance.arn, []) if with_tags else [],
        }

    def cluster_view(self, cluster: Cluster, include: list[str] | None = None) -> Json:
        """The cluster with its counts; `include` as in DescribeClusters."""
        tasks = [t for t in self.state.tasks.values() if t.cluster == cluster.name and t.live]
        running = sum(t.view["lastStatus"] in ("RUNNING", "STOPPING") for t in tasks)
        instances = [
            i for i in self.state.instances.values() if i.cluster == cluster.name and i.view["status"] != "INACTIVE"
        ]
        view = {
            **cluster.view,
            "registeredContainerInstancesCount": len(instances),
            "runningTasksCount": running,
            "pendingTasksCount": len(tasks) - running,
            "activeServicesCount": 0,
            "statistics": [],
            "tags": [],
        }
        include = include or []
        if "TAGS" in include:
            view["tags"] = self.state.tags.get(cluster.view["clusterArn"], [])
        if "STATISTICS" in include:
            view["statistics"] = [
                {"name": "runningEC2TasksCount", "value": str(running)},
                {"name": "pendingEC2TasksCount", "value": str(len(tasks) - running)},
            ]
        if "SETTINGS" not in include:
            view.pop("settings", None)
        return view


def page(keys: list[str], request: Json) -> tuple[list[str], Json]:
    """One page of `keys` and {"nextToken": …} when there is another.

    maxResults is 1 to 100 (default 100). InvalidParameterException for a bad size or token.
    """
    size = request.get("maxResults", MAX_PAGE)
    if not 1 <= size <= MAX_PAGE:
        raise invalid(f"maxResults must be between 1 and {MAX_PAGE}, not {size}.")
    start = _read_token(request["nextToken"]) if request.get("nextToken") else 0
    chosen = keys[start : start + size]
    if start + size >= len(keys):
        return chosen, {}
    token = base64.urlsafe_b64encode(json.dumps({"from": start + size}).encode()).decode()
    return chosen, {"nextToken": token}


def _read_token(token: str) -> int:
    try:
        return max(0, int(json.loads(base64.urlsafe_b64decode(token.encode()))["from"]))
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise invalid("Invalid token: nextToken did not come from this operation.") from None


def missing(arn: str) -> Json:
    """The failure entry for a name that nothing answers to."""
    return {"arn": arn, "reason": "MISSING"}


def check_tags(tags: list[Json]) -> list[Json]:
    """Tags that a caller may set; InvalidParameterException otherwise."""
    keys = [t.get("key", "") for t in tags]
    if len(tags) > 50:
        raise invalid("Too many tags: at most 50 are allowed.")
    if len(set(keys)) != len(keys):
        raise invalid("Duplicate tag keys found.")
    if "" in keys:
        raise invalid("A tag has no key.")
    if any(k.lower().startswith("aws:") for k in keys):
        raise invalid("Tag keys that start with 'aws:' are reserved.")
    return [{"key": t["key"], "value": t.get("value", "")} for t in tags]
