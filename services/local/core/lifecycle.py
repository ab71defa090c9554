"""A task's life as clients see it: what a report of the agent, a stop request or a health message changes.

Pure: each function takes the task's view (the service's Task shape) and returns a new one. Statuses only move forward;
a report that says less than what is known changes nothing but the facts it adds (spec 11 §4).
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
ORDER = ("PROVISIONING", "PENDING", "ACTIVATING", "RUNNING", "DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED")
_RANK = {status: rank for rank, status in enumerate(ORDER)}
ESSENTIAL_EXITED = "Essential container in task exited"
# Reasons of a container that never ran; any other reason (OutOfMemoryError, …) belongs to one that did.
_NEVER_RAN = ("Cannot", "ContainerRuntime", "DockerTimeout", "ResourceInitialization", "TaskInitialization")


def new_task(arn: str, cluster_arn: str, definition: Json, containers: list[Json], now: float) -> Json:
    """The view of a task just accepted; `containers` are name, image and ARN of each of its containers."""
    awsvpc = definition.get("networkMode") == "awsvpc"
    return {
        "taskArn": arn,
        "clusterArn": cluster_arn,
        "taskDefinitionArn": definition["taskDefinitionArn"],
        "lastStatus": "PROVISIONING" if awsvpc else "PENDING",
        "desiredStatus": "RUNNING",
        "createdAt": now,
        "healthStatus": "UNKNOWN",
        "version": 1,
        "attachments": [],
        "attributes": [],
        "tags": [],
        "inferenceAccelerators": [],
        "enableExecuteCommand": False,
        "containers": [
            {
                "lastStatus": "PENDING",
                "healthStatus": "UNKNOWN",
                "networkInterfaces": [],
                "networkBindings": [],
                "taskArn": arn,
                **container,
            }
            for container in containers
        ],
    }


def later(known: str | None, reported: str | None) -> str:
    """The further of two statuses; an unknown word counts as nothing."""
    if reported not in _RANK:
        return known or "PENDING"
    return reported if _RANK[reported] > _RANK.get(known or "", -1) else known or "PENDING"


def request_stop(task: Json, reason: str | None, now: float, code: str = "UserInitiated") -> Json:
    """The task after someone asked for its end; the first reason given stays."""
    if task["lastStatus"] == "STOPPED" or task["desiredStatus"] == "STOPPED":
        return task
    return {
        **task,
        "desiredStatus": "STOPPED",
        "stopCode": code,
        "stoppingAt": now,
        "stoppedReason": reason or "Task stopped by user",
        "version": task["version"] + 1,
    }


def start_accepted(task: Json) -> Json:
    """The task after the agent took it over: its network is the agent's matter, so PROVISIONING is over."""
    if task["lastStatus"] != "PROVISIONING":
        return task
    return {**task, "lastStatus": "PENDING", "version": task["version"] + 1}


def stop_accepted(task: Json) -> Json:
    """The task after the agent took over the request to stop it."""
    if task["desiredStatus"] != "STOPPED" or task["lastStatus"] in ("STOPPED", "STOPPING"):
        return task
    return {**task, "lastStatus": "STOPPING", "version": task["version"] + 1}


def apply_report(task: Json, report: Json, essential: set[str], now: float) -> Json:
    """The task after a SubmitTaskStateChange. `essential` names the containers whose end ends the task."""
    if task["lastStatus"] == "STOPPED":
        return task
    containers = {c["name"]: c for c in task["containers"]}
    for change in report.get("containers") or []:
        if change.get("containerName") in containers:
            containers[change["containerName"]] = _apply_container(containers[change["containerName"]], change)
    updated = {**task, "containers": list(containers.values()), "version": task["version"] + 1}
    for member in ("pullStartedAt", "pullStoppedAt", "executionStoppedAt"):
        if report.get(member) is not None:
            updated[member] = report[member]
    ending = any(c["name"] in essential and c["lastStatus"] == "STOPPED" for c in updated["containers"])
    if report.get("status") == "STOPPED":
        return _stopped(updated, report.get("reason") or "", essential, now)
    updated["lastStatus"] = later(task["lastStatus"], report.get("status"))
    if updated["lastStatus"] == "RUNNING" and "startedAt" not in updated:
        updated["startedAt"] = now
    if ending:
        updated["lastStatus"], updated["desiredStatus"] = "STOPPING", "STOPPED"
        updated.setdefault("stoppingAt", now)
    return updated


def apply_container_report(task: Json, change: Json) -> Json:
    """The task after a SubmitContainerStateChange: one container, the task itself unchanged."""
    containers = [
        _apply_container(c, change) if c["name"] == change.get("containerName") else c for c in task["containers"]
    ]
    return {**task, "containers": containers, "version": task["version"] + 1}


def _apply_container(container: Json, change: Json) -> Json:
    updated = {**container, "lastStatus": later(container["lastStatus"], change.get("status"))}
    for member in ("exitCode", "reason", "runtimeId", "imageDigest", "networkBindings"):
        if change.get(member) not in (None, "", []):
            updated[member] = change[member]
    return updated


def _stopped(task: Json, reason: str, essential: set[str], now: float) -> Json:
    code, text = stop_cause(task, reason, essential)
    containers = [{**c, "lastStatus": "STOPPED"} for c in task["containers"]]
    return {
        **task,
        "containers": containers,
        "lastStatus": "STOPPED",
        "desiredStatus": "STOPPED",
        "stopCode": code,
        "stoppedReason": text,
        "stoppingAt": task.get("stoppingAt", now),
        "stoppedAt": now,
    }


def stop_cause(task: Json, reason: str, essential: set[str]) -> tuple[str, str]:
    """(stopCode, stoppedReason) of a task that has stopped; `reason` is the agent's, possibly empty."""
    if task.get("stopCode"):
        return task["stopCode"], task.get("stoppedReason") or reason
    if reason:
        return ("EssentialContainerExited" if task.get("startedAt") else "TaskFailedToStart"), reason
    failed = [c for c in task["containers"] if c.get("reason", "").startswith(_NEVER_RAN)]
    ran = any(c["name"] in essential and "exitCode" in c and c not in failed for c in task["containers"])
    if ran or (task.get("startedAt") and not failed):
        return "EssentialContainerExited", ESSENTIAL_EXITED
    return "TaskFailedToStart", failed[0]["reason"] if failed else "Task failed to start"


def abandoned(task: Json, reason: str, now: float) -> Json:
    """The task when someone has made sure that nobody will report on it again."""
    ended = _stopped(request_stop(task, reason, now), reason, set(), now)
    return {**ended, "version": task["version"] + 1}


def apply_health(task: Json, reported: list[Json], essential: set[str]) -> Json:
    """The task after a TCS health message about its containers (name and healthStatus of each)."""
    statuses = {r.get("containerName"): r.get("healthStatus") for r in reported}
    containers = [{**c, "healthStatus": statuses.get(c["name"]) or c["healthStatus"]} for c in task["containers"]]
    judged = [c["healthStatus"] for c in containers if c["name"] in essential and c["name"] in statuses]
    overall = task["healthStatus"]
    if judged:
        overall = next((s for s in ("UNHEALTHY", "UNKNOWN") if s in judged), "HEALTHY")
    if containers == task["containers"] and overall == task["healthStatus"]:
        return task
    return {**task, "containers": containers, "healthStatus": overall, "version": task["version"] + 1}
