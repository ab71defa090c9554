"""Task definitions: register, describe, list, deregister, delete."""

from __future__ import annotations

import re
from typing import Any

from services.local.api.plane import Plane, check_tags, page
from services.local.core import checks
from services.local.core import definitions as core
from services.local.core.errors import client, invalid
from services.local.core.names import family_and_revision
from services.local.core.records import Definition
from services.local.state import State

Json = dict[str, Any]


def register(plane: Plane, request: Json) -> Json:
    """Registers the next revision of the family."""
    checks.check(request)
    tags = check_tags(request.get("tags") or [])
    family = request["family"]
    revision = plane.state.next_number(f"revision:{family}")
    arn = plane.state.names.definition(family, revision)
    by = f"arn:{plane.state.names.partition}:iam::{plane.state.names.account}:root"
    view = core.register(request, arn, revision, plane.state.clock.now(), by)
    plane.state.save(Definition(family, revision, view), tags={arn: tags})
    return {"taskDefinition": view, "tags": tags}


def find(state: State, name: str) -> Definition | None:
    """The revision that `family:revision` or an ARN names, or the newest active one of `family`."""
    family, revision = family_and_revision(name)
    if revision is not None:
        return state.definitions.get(f"{family}:{revision}")
    active = [d for d in state.definitions.values() if d.family == family and d.view["status"] == "ACTIVE"]
    return max(active, key=lambda d: d.revision, default=None)


def describe(plane: Plane, request: Json) -> Json:
    """Describes one revision, also an inactive one."""
    definition = find(plane.state, request.get("taskDefinition") or "")
    if definition is None:
        raise client("Unable to describe task definition.")
    arn = definition.view["taskDefinitionArn"]
    with_tags = "TAGS" in (request.get("include") or [])
    return {"taskDefinition": definition.view, "tags": plane.state.tags.get(arn, []) if with_tags else []}


def list_(plane: Plane, request: Json) -> Json:
    """ARNs by family and revision; active ones unless another status is asked for."""
    status, family = request.get("status") or "ACTIVE", request.get("familyPrefix")
    chosen = [
        d for d in plane.state.definitions.values() if d.view["status"] == status and (not family or d.family == family)
    ]
    chosen.sort(key=lambda d: (d.family, d.revision), reverse=request.get("sort") == "DESC")
    arns, more = page([d.view["taskDefinitionArn"] for d in chosen], request)
    return {"taskDefinitionArns": arns, **more}


def list_families(plane: Plane, request: Json) -> Json:
    """Names of families. One with an active revision is ACTIVE, any other INACTIVE."""
    prefix, status = request.get("familyPrefix") or "", request.get("status") or "ALL"
    active = {d.family for d in plane.state.definitions.values() if d.view["status"] == "ACTIVE"}
    everything = {d.family for d in plane.state.definitions.values()}
    wanted = {"ACTIVE": active, "INACTIVE": everything - active}.get(status, everything)
    families, more = page(sorted(f for f in wanted if f.startswith(prefix)), request)
    return {"families": families, **more}


def deregister(plane: Plane, request: Json) -> Json:
    """Makes a revision INACTIVE; tasks that run from it go on."""
    if not re.search(r":\d+$", request.get("taskDefinition") or ""):
        raise client("Invalid task definition: give family:revision or the full ARN.")
    definition = find(plane.state, request["taskDefinition"])
    if definition is None:
        raise client(
            "The specified task definition does not exist. Specify a valid account, family, revision and try again."
        )
    if definition.view["status"] != "ACTIVE":
        raise client("The specified task definition is inactive. Specify an active task definition and try again.")
    view = {**definition.view, "status": "INACTIVE", "deregisteredAt": plane.state.clock.now()}
    return {"taskDefinition": plane.state.change(definition, view=view).view}


def delete(plane: Plane, request: Json) -> Json:
    """Marks inactive revisions for deletion; they vanish when no task shows them any more."""
    names = request.get("taskDefinitions") or []
    if not 1 <= len(names) <= 10:
        raise invalid("Give between 1 and 10 task definitions to delete.")
    deleted, failures = [], []
    for name in names:
        definition = find(plane.state, name) if re.search(r":\d+$", name) else None
        if definition is None:
            failures.append(
                {
                    "arn": name,
                    "reason": "The specified task definition was not found. Specify a valid "
                    "account, family, revision and try again.",
                }
            )
        elif definition.view["status"] == "ACTIVE":
            failures.append(
                {
                    "arn": definition.view["taskDefinitionArn"],
                    "reason": "The specified task definition is still in ACTIVE status. Please deregister the "
                    "target and try again.",
                }
            )
        else:
            now = plane.state.clock.now()
            view = {**definition.view, "status": "DELETE_IN_PROGRESS", "deleteRequestedAt": now}
            deleted.append(plane.state.change(definition, view=view).view)
    return {"taskDefinitions": deleted, "failures": failures}
