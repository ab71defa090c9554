"""Tasks: run, start, stop, describe, list, protect."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from typing import Any

from services.local.api import definitions
from services.local.api.plane import Plane, check_tags, missing, page
from services.local.core import laptop, lifecycle, placement
from services.local.core.errors import ApiError, client, invalid
from services.local.core.names import last_part, new_id
from services.local.core.records import Cluster, Definition, Instance, Task
from services.local.credentials import new_credentials_id
from services.local.state import Token

log = logging.getLogger("local.tasks")
Json = dict[str, Any]
MAX_COUNT = 10  # API reference, RunTask.count and StartTask.containerInstances
MAX_DESCRIBED = 100
MAX_REASON_BYTES = 1024
ARCHITECTURES = {"aarch64": "arm64", "amd64": "x86_64"}


def run(plane: Plane, request: Json) -> Json:
    """Places `count` tasks wherever they fit; what cannot be placed is a failure, not an error."""
    cluster, definition = _check(plane, request)
    count = request.get("count", 1)
    if not 1 <= count <= MAX_COUNT:
        raise invalid(f"Tasks count should be between 1 and {MAX_COUNT}.")
    token = request.get("clientToken")
    fingerprint = hashlib.sha256(
        json.dumps({k: v for k, v in request.items() if k != "clientToken"}, sort_keys=True).encode()
    ).hexdigest()
    if token and (known := plane.state.tokens.get(token)):
        if known.fingerprint != fingerprint:
            raise ApiError("ConflictException", "The provided clientToken was used in a different RunTask request.")
        arns = [a for a in known.tasks if a in plane.state.tasks]
        return {"tasks": [plane.task_view(plane.state.tasks[a], True) for a in arns], "failures": []}
    instances = [
        i for i in plane.state.instances.values() if i.cluster == cluster.name and i.view["status"] != "INACTIVE"
    ]
    if not instances:
        raise invalid("No Container Instances were found in your cluster.")
    tasks: list[Task] = []
    failures = []
    for _ in range(count):
        instance, failure = _choose(plane, instances, definition, request.get("overrides") or {}, tasks)
        if instance:
            tasks.append(_plan(plane, cluster, instance, definition, request))
        else:
            failures.append(failure)
    tokens = {token: Token(fingerprint, [t.arn for t in tasks], plane.state.clock.now())} if token and tasks else None
    _place(plane, tasks, _tags(plane, cluster, definition, request), tokens)
    return {"tasks": [plane.task_view(t, True) for t in tasks], "failures": failures}


def start(plane: Plane, request: Json) -> Json:
    """Places one task on each named instance."""
    cluster, definition = _check(plane, request)
    names = request["containerInstances"]
    if not 1 <= len(names) <= MAX_COUNT:
        raise invalid(f"Container instances should number between 1 and {MAX_COUNT}.")
    tasks: list[Task] = []
    failures = []
    for name in names:
        instance = plane.state.instance(cluster, name)
        if instance is None:
            failures.append(missing(name))
            continue
        failure = _obstacle(plane, instance, definition, request.get("overrides") or {}, tasks)
        if failure:
            failures.append(failure)
        else:
            tasks.append(_plan(plane, cluster, instance, definition, request))
    _place(plane, tasks, _tags(plane, cluster, definition, request))
    return {"tasks": [plane.task_view(t, True) for t in tasks], "failures": failures}


def _check(plane: Plane, request: Json) -> tuple[Cluster, Definition]:
    """The cluster and definition of a RunTask or StartTask request; raises what the service would."""
    cluster = plane.state.cluster(request.get("cluster"))
    definition = definitions.find(plane.state, request["taskDefinition"])
    if definition is None:
        raise client("TaskDefinition not found.")
    if definition.view["status"] != "ACTIVE":
        raise client("TaskDefinition is inactive")
    if len(request.get("startedBy") or "") > 128:
        raise invalid("startedBy is too long: 128 characters at most.")
    if (request.get("group") or "").startswith("service:"):
        raise invalid("Group names that start with 'service:' are reserved for services.")
    if request.get("propagateTags") == "SERVICE":
        raise invalid("propagateTags SERVICE is only valid for tasks of a service.")
    check_tags(request.get("tags") or [])
    if definition.view.get("networkMode") == "awsvpc" and not request.get("networkConfiguration"):
        raise invalid("Network Configuration must be provided when networkMode 'awsvpc' is specified.")
    names = {c["name"] for c in definition.view["containerDefinitions"]}
    for override in (request.get("overrides") or {}).get("containerOverrides") or []:
        if override.get("name") not in names:
            raise invalid(
                f"Override for container named {override.get('name') or '(none)'} is not a container in the "
                "TaskDefinition."
            )
    return cluster, definition


def _obstacle(
    plane: Plane, instance: Instance, definition: Definition, overrides: Json, planned: list[Task]
) -> Json | None:
    """The failure entry for placing a task on this instance beside the `planned` ones, or None when it fits."""
    needed = placement.holding(definition.view, overrides)
    view = plane.instance_view(instance)
    attributes = laptop.fit(definition.view, plane.state.attributes(instance.arn)).attributes
    reachable = plane.hub.reachable(instance.arn)
    left = placement.remaining(view["remainingResources"], (t.holding for t in planned if t.instance == instance.arn))
    reason = placement.obstacle(view, reachable, left, needed, attributes)
    if reason is None:
        return None
    failure = {"arn": instance.arn, "reason": reason}
    if reason == "ATTRIBUTE":
        lacking = sorted(attributes - {a["name"] for a in view["attributes"]})
        failure["detail"] = f"The container instance lacks: {', '.join(lacking)}"
    return failure


def _choose(
    plane: Plane, instances: list[Instance], definition: Definition, overrides: Json, planned: list[Task]
) -> tuple[Instance | None, Json]:
    """The emptiest instance that takes the task, connected ones first; else the most telling failure."""
    failures = []

    def emptiness(instance: Instance) -> tuple[bool, int]:
        there = len(plane.state.tasks_on(instance.arn)) + sum(t.instance == instance.arn for t in planned)
        return not plane.hub.connected(instance.arn), there

    order = sorted(instances, key=emptiness)
    for instance in order:
        failure = _obstacle(plane, instance, definition, overrides, planned)
        if failure is None:
            return instance, {}
        failures.append(failure)
    return None, min(failures, key=lambda f: f["reason"] in ("AGENT", "INACTIVE"))


def _plan(plane: Plane, cluster: Cluster, instance: Instance, definition: Definition, request: Json) -> Task:
    """The task as it will be; nothing knows of it yet."""
    state, view = plane.state, definition.view
    overrides = request.get("overrides") or {}
    id_ = new_id()
    arn = state.names.task(cluster.name, id_)
    by_name = {o["name"]: o for o in overrides.get("containerOverrides") or []}
    containers = [
        _container(c, by_name.get(c["name"], {}), state.names.container(cluster.name, id_, new_id()))
        for c in view["containerDefinitions"]
    ]
    needed = placement.holding(view, overrides)
    launch_type = request.get("launchType") or "EC2"
    task_view = lifecycle.new_task(arn, cluster.view["clusterArn"], view, containers, state.clock.now()) | {
        "containerInstanceArn": instance.arn,
        "launchType": launch_type,
        "group": request.get("group") or f"family:{definition.family}",
        "cpu": str(needed.cpu),
        "memory": str(needed.memory),
        "availabilityZone": _zone(instance),
        "enableExecuteCommand": request.get("enableExecuteCommand", False),
        "attributes": [{"name": "ecs.cpu-architecture", "value": _architecture()}],
        "overrides": {
            **overrides,
            "inferenceAcceleratorOverrides": [],
            "containerOverrides": [by_name.get(c["name"], {"name": c["name"]}) for c in containers],
        },
    }
    if launch_type == "FARGATE":
        task_view |= {"platformVersion": request.get("platformVersion") or "1.4.0", "platformFamily": "Linux"}
    if request.get("startedBy"):
        task_view["startedBy"] = request["startedBy"]
    roles = {m: overrides.get(m) or view.get(m) for m in ("taskRoleArn", "executionRoleArn")}
    return Task(
        arn=arn,
        cluster=cluster.name,
        instance=instance.arn,
        view=task_view,
        delivery=state.delivery("RUNNING"),
        holding=needed,
        essential=[c["name"] for c in view["containerDefinitions"] if c.get("essential", True)],
        credentials_id=new_credentials_id() if roles["taskRoleArn"] else "",
        execution_credentials_id=new_credentials_id() if roles["executionRoleArn"] else "",
    )


def _container(definition: Json, override: Json, arn: str) -> Json:
    sizes = {k: str(v) for k, v in {**definition, **override}.items() if k in ("cpu", "memory", "memoryReservation")}
    return {"name": definition["name"], "image": definition["image"], "containerArn": arn, **sizes}


def _place(plane: Plane, tasks: list[Task], tags: list[Json], tokens: dict[str, Token] | None = None) -> None:
    """Make all of them or none, and owe their payloads to the agents: a client that sees an error may call again."""
    state = plane.state
    state.save(*tasks, tags={t.arn: tags for t in tasks}, tokens=tokens)
    for task in tasks:
        for line in laptop.fit(state.definition_of(task), state.attributes(task.instance)).replaced:
            log.info("task %s: %s", task.arn.rsplit("/", 1)[-1], line)
    for arn in dict.fromkeys(t.instance for t in tasks):
        state.on_work(arn)


def _tags(plane: Plane, cluster: Cluster, definition: Definition, request: Json) -> list[Json]:
    tags: dict[str, str] = {}
    if request.get("propagateTags") == "TASK_DEFINITION":
        tags |= {t["key"]: t["value"] for t in plane.state.tags.get(definition.view["taskDefinitionArn"], [])}
    tags |= {t["key"]: t["value"] for t in check_tags(request.get("tags") or [])}
    if request.get("enableECSManagedTags"):
        tags["aws:ecs:clusterName"] = cluster.name
    return [{"key": k, "value": v} for k, v in tags.items()]


def _zone(instance: Instance) -> str:
    return next((a.get("value", "") for a in instance.view["attributes"] if a["name"] == "ecs.availability-zone"), "")


def _architecture() -> str:
    machine = platform.machine().lower()
    return ARCHITECTURES.get(machine, machine)


def stop(plane: Plane, request: Json) -> Json:
    """Asks for a task's end; one that has stopped stays as it is."""
    cluster = plane.state.cluster(request.get("cluster"))
    task = plane.state.need_task(cluster, request["task"])
    reason = request.get("reason")
    if reason and len(reason.encode()) > MAX_REASON_BYTES:
        raise invalid(f"reason is too long: {MAX_REASON_BYTES} bytes at most.")
    return {"task": plane.task_view(plane.state.stop(task, reason))}


def describe(plane: Plane, request: Json) -> Json:
    """Describes tasks; stopped ones for an hour."""
    cluster = plane.state.cluster(request.get("cluster"))
    names = request.get("tasks") or []
    if not names:
        raise invalid("Tasks cannot be empty.")
    if len(names) > MAX_DESCRIBED:
        raise invalid(f"Tasks cannot have more than {MAX_DESCRIBED} elements.")
    found, failures = [], []
    with_tags = "TAGS" in (request.get("include") or [])
    for name in names:
        task = plane.state.task(cluster, name)
        if task:
            found.append(plane.task_view(task, with_tags))
        else:
            failures.append(missing(_arn(plane, cluster, name)))
    return {"tasks": found, "failures": failures}


def _arn(plane: Plane, cluster: Cluster, name: str) -> str:
    return name if name.startswith("arn:") else plane.state.names.task(cluster.name, last_part(name))


def list_(plane: Plane, request: Json) -> Json:
    """ARNs of tasks by desired status (RUNNING unless asked otherwise) and the other filters."""
    cluster = plane.state.cluster(request.get("cluster"))
    desired = request.get("desiredStatus") or "RUNNING"
    instance = None
    if request.get("containerInstance"):
        instance = plane.state.instance(cluster, request["containerInstance"])
        if instance is None:
            raise invalid("The referenced container instance was not found.")
    wanted = {
        "group": f"service:{request['serviceName']}" if request.get("serviceName") else None,
        "startedBy": request.get("startedBy"),
        "launchType": request.get("launchType"),
    }
    arns = [
        t.arn
        for t in plane.state.tasks.values()
        if t.cluster == cluster.name
        and t.view["desiredStatus"] == desired
        and (instance is None or t.instance == instance.arn)
        and (not request.get("family") or _family(t) == request["family"])
        and all(value is None or t.view.get(member) == value for member, value in wanted.items())
    ]
    chosen, more = page(arns, request)
    return {"taskArns": chosen, **more}


def _family(task: Task) -> str:
    return str(last_part(task.view["taskDefinitionArn"]).rpartition(":")[0])


def get_protection(plane: Plane, request: Json) -> Json:
    """Which tasks are protected from being stopped by a deployment, and until when."""
    cluster = plane.state.cluster(request["cluster"])
    names = request.get("tasks") or _live_arns(plane, cluster)
    found, failures = [], []
    for name in names:
        task = plane.state.task(cluster, name)
        if task and task.live:
            found.append(_protection(task, plane.state.clock.now()))
        else:
            failures.append(missing(_arn(plane, cluster, name)))
    return {"protectedTasks": found, "failures": failures}


def _live_arns(plane: Plane, cluster: Cluster) -> list[str]:
    return [t.arn for t in plane.state.tasks.values() if t.cluster == cluster.name and t.live]


def _protection(task: Task, now: float) -> Json:
    if task.protected_until is None or task.protected_until <= now:
        return {"taskArn": task.arn, "protectionEnabled": False}
    return {"taskArn": task.arn, "protectionEnabled": True, "expirationDate": task.protected_until}


def update_protection(plane: Plane, request: Json) -> Json:
    """Protects tasks for a time (default two hours) or lifts it. Any task may be protected here."""
    cluster, now = plane.state.cluster(request["cluster"]), plane.state.clock.now()
    minutes = request.get("expiresInMinutes", 120)
    if not 1 <= minutes <= 2880:
        raise invalid("expiresInMinutes must be between 1 and 2880.")
    found, failures = [], []
    for name in request["tasks"]:
        task = plane.state.task(cluster, name)
        if task is None or not task.live:
            failures.append(missing(_arn(plane, cluster, name)))
            continue
        until = now + minutes * 60 if request["protectionEnabled"] else None
        task = plane.state.change(task, protected_until=until)
        found.append(_protection(task, now))
    return {"protectedTasks": found, "failures": failures}
