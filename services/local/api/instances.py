"""Container instances: register, deregister, describe, list, change state."""

from __future__ import annotations

import json
import platform
from typing import Any

from msgspec.structs import replace

from services.local.api.plane import Plane, missing, page
from services.local.core import lifecycle
from services.local.core.errors import ApiError, cluster_not_found, invalid
from services.local.core.names import new_id
from services.local.core.records import Cluster, Instance

Json = dict[str, Any]
MAX_DESCRIBED = 100
BY_FORCE = "The container instance was deregistered by force."


def register(plane: Plane, request: Json) -> Json:
    """Registers an agent, or renews the registration that its ARN or client token names."""
    try:
        cluster = plane.state.cluster(request.get("cluster"))
    except ApiError as error:
        if error.code != cluster_not_found().code:
            raise
        # The model of this operation has no ClusterNotFoundException; agents look at the text (spec 01 §6.6).
        raise ApiError("ClientException", "Cluster not found.") from None
    instance = _known(plane, cluster, request)
    now = plane.state.clock.now()
    arn = (
        instance.arn
        if instance
        else request.get("containerInstanceArn") or plane.state.names.instance(cluster.name, new_id())
    )
    previous: Json = instance.view if instance else {"registeredAt": now, "version": 0}
    view = {
        **previous,
        "containerInstanceArn": arn,
        "status": "DRAINING" if previous.get("status") == "DRAINING" else "ACTIVE",  # a restart ends no draining
        "version": previous["version"] + 1,
        "attachments": [],
        "registeredResources": [_resource(r) for r in request.get("totalResources") or []],
        "attributes": _attributes(plane, request, previous.get("attributes") or []),
    }
    identity = _identity(request)
    if identity.get("instanceId"):
        view["ec2InstanceId"] = identity["instanceId"]
    record = Instance(arn=arn, cluster=cluster.name, view=view, client_token=request.get("clientToken") or "")
    plane.state.save(record, tags={arn: request["tags"]} if request.get("tags") else None)
    return {"containerInstance": plane.instance_view(record, with_tags=True)}


def _known(plane: Plane, cluster: Cluster, request: Json) -> Instance | None:
    arn, token = request.get("containerInstanceArn"), request.get("clientToken")
    if arn:
        return plane.state.instances.get(arn)
    return next(
        (i for i in plane.state.instances.values() if token and i.client_token == token and i.cluster == cluster.name),
        None,
    )


def _resource(given: Json) -> Json:
    return {"doubleValue": 0.0, "longValue": 0, "integerValue": 0, **given}


def _attributes(plane: Plane, request: Json, previous: list[Json]) -> list[Json]:
    """What the agent sent, its custom ones from before (it sends those once), and what the service itself knows."""
    machine = platform.machine().lower()
    own = {
        "ecs.availability-zone": plane.state.names.region + "a",
        "ecs.cpu-architecture": {"aarch64": "arm64", "amd64": "x86_64"}.get(machine, machine),
    }
    sent = request.get("attributes") or []
    names = {a["name"] for a in sent}
    kept = [a for a in previous if a["name"] not in names and "capability" not in a["name"] and a["name"] not in own]
    return [*sent, *kept, *({"name": k, "value": v} for k, v in own.items() if k not in names)]


def _identity(request: Json) -> Json:
    try:
        document = json.loads(request.get("instanceIdentityDocument") or "{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def deregister(plane: Plane, request: Json) -> Json:
    """Ends a registration. With `force`, tasks still on it count as stopped: nobody will report on them again."""
    cluster = plane.state.cluster(request.get("cluster"))
    instance = _need(plane, cluster, request.get("containerInstance") or "")
    tasks = plane.state.tasks_on(instance.arn)
    if tasks and not request.get("force"):
        raise invalid("Found running tasks on the instance.")
    now = plane.state.clock.now()
    ended = [replace(task, view=lifecycle.abandoned(task.view, BY_FORCE, now)) for task in tasks]
    view = {**instance.view, "status": "INACTIVE", "version": instance.view["version"] + 1}
    instance = replace(instance, view=view)
    plane.state.save(instance, *ended)
    plane.hub.disconnect(instance.arn, inactive=True)
    return {"containerInstance": plane.instance_view(instance)}


def _need(plane: Plane, cluster: Cluster, name: str) -> Instance:
    instance = plane.state.instance(cluster, name)
    if instance is None or instance.view["status"] == "INACTIVE":
        raise invalid("The referenced container instance was not found.")
    return instance


def describe(plane: Plane, request: Json) -> Json:
    """Describes instances, also deregistered ones."""
    cluster = plane.state.cluster(request.get("cluster"))
    names = request.get("containerInstances") or []
    if not names:
        raise invalid("Container instances cannot be empty.")
    if len(names) > MAX_DESCRIBED:
        raise invalid(f"Container instances cannot have more than {MAX_DESCRIBED} elements.")
    include = request.get("include") or []
    found, failures = [], []
    for name in names:
        instance = plane.state.instance(cluster, name)
        if instance is None:
            failures.append(
                missing(name if name.startswith("arn:") else plane.state.names.instance(cluster.name, name))
            )
            continue
        view = plane.instance_view(instance, with_tags="TAGS" in include)
        if "CONTAINER_INSTANCE_HEALTH" not in include:
            view.pop("healthStatus", None)
        found.append(view)
    return {"containerInstances": found, "failures": failures}


def list_(plane: Plane, request: Json) -> Json:
    """ARNs of the instances, without the deregistered ones."""
    cluster = plane.state.cluster(request.get("cluster"))
    if request.get("filter"):
        raise invalid("The local control plane does not evaluate cluster query language; leave out 'filter'.")
    wanted = {request["status"]} if request.get("status") else {"ACTIVE", "DRAINING"}
    arns = sorted(
        i.arn for i in plane.state.instances.values() if i.cluster == cluster.name and i.view["status"] in wanted
    )
    chosen, more = page(arns, request)
    return {"containerInstanceArns": chosen, **more}


def update_state(plane: Plane, request: Json) -> Json:
    """ACTIVE or DRAINING: a draining instance gets no new tasks."""
    cluster = plane.state.cluster(request.get("cluster"))
    status = request["status"]
    if status not in ("ACTIVE", "DRAINING"):
        raise invalid("The status must be ACTIVE or DRAINING.")
    found, failures = [], []
    for name in request["containerInstances"]:
        instance = plane.state.instance(cluster, name)
        if instance is None or instance.view["status"] == "INACTIVE":
            failures.append(missing(name))
            continue
        view = {**instance.view, "status": status, "version": instance.view["version"] + 1}
        instance = plane.state.change(instance, view=view)
        found.append(plane.instance_view(instance))
    return {"containerInstances": found, "failures": failures}
