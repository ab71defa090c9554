"""What only agents call: where ACS and TCS are, and the reports of what became of tasks.

A report about a task that is not known is accepted: an error would make the agent send it for ever, or keep the task's
remains for days (spec 02 §8.9), and nobody here waits for it.
"""

from __future__ import annotations

import logging
from typing import Any

from services.local.api.plane import Plane
from services.local.core import lifecycle
from services.local.core.records import Task

log = logging.getLogger("local.tasks")
Json = dict[str, Any]
ACCEPTED: Json = {"acknowledgment": "ok"}


def discover_poll_endpoint(plane: Plane, request: Json) -> Json:
    """Where the agent's two sessions go."""
    return {
        "endpoint": plane.base_url + "/acs/",
        "telemetryEndpoint": plane.base_url + "/tcs/",
        "serviceConnectEndpoint": plane.base_url + "/sc/",
    }


def submit_task(plane: Plane, request: Json) -> Json:
    """A task and some of its containers have got further."""
    task = _task(plane, request)
    if task is None:
        return ACCEPTED
    before = task.view["lastStatus"]
    if request.get("status"):
        view = lifecycle.apply_report(task.view, request, set(task.essential), plane.state.clock.now())
        task = plane.state.change(task, view=view)
    if task.view["lastStatus"] != before:
        why = f": {task.view['stopCode']}, {task.view['stoppedReason']}" if not task.live else ""
        log.info("task %s is %s%s", task.arn.rsplit("/", 1)[-1], task.view["lastStatus"], why)
    return ACCEPTED


def submit_container(plane: Plane, request: Json) -> Json:
    """One container has got further."""
    task = _task(plane, request)
    if task is not None and task.live:
        plane.state.change(task, view=lifecycle.apply_container_report(task.view, request))
    return ACCEPTED


def submit_attachments(plane: Plane, request: Json) -> Json:
    """Network interfaces and volumes: there are none here, so there is nothing to remember."""
    return ACCEPTED


def _task(plane: Plane, request: Json) -> Task | None:
    task = plane.state.tasks.get(request.get("task") or "")
    if task is None:
        log.warning("the agent reports on task %s, which is not known here; accepted", request.get("task"))
    return task
