"""Tags of clusters, task definitions, container instances and tasks."""

from __future__ import annotations

from typing import Any

from services.local.api.plane import Plane, check_tags
from services.local.core.errors import ApiError, invalid

Json = dict[str, Any]


def _resource(plane: Plane, arn: str) -> str:
    """`arn` when something answers to it; else the service's error."""
    if not arn.startswith("arn:"):
        raise invalid(f"The specified ARN is not valid: {arn}")
    name = arn.rsplit("/", 1)[-1]
    state = plane.state
    known = (
        arn in state.tasks
        or arn in state.instances
        or (":cluster/" in arn and name in state.clusters)
        or (":task-definition/" in arn and name in state.definitions)
    )
    if not known:
        raise ApiError("ResourceNotFoundException", "The specified resource could not be found.")
    return arn


def list_(plane: Plane, request: Json) -> Json:
    """Tags of a resource."""
    return {"tags": plane.state.tags.get(_resource(plane, request["resourceArn"]), [])}


def tag(plane: Plane, request: Json) -> Json:
    """Adds tags; an existing key gets the new value."""
    arn = _resource(plane, request["resourceArn"])
    merged = {t["key"]: t["value"] for t in plane.state.tags.get(arn, []) + check_tags(request["tags"])}
    plane.state.save(tags={arn: [{"key": k, "value": v} for k, v in merged.items()]})
    return {}


def untag(plane: Plane, request: Json) -> Json:
    """Removes tags by key; keys that are not there are no error."""
    arn = _resource(plane, request["resourceArn"])
    kept = [t for t in plane.state.tags.get(arn, []) if t["key"] not in request["tagKeys"]]
    plane.state.save(tags={arn: kept})
    return {}
