"""A task definition made for production, as an instance without the parts of production can run it.

Called for placement, for the payload and by `ecs-local run`; clients go on seeing what was registered. Pure: a
definition and the names of an instance's attributes give the definition to send and a sentence for each replacement.
Nothing is replaced that the instance can do itself, so an instance with the attribute gets the definition as it is.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from msgspec import Struct

from services.local.core.definitions import P1, P2, required_attributes

Json = dict[str, Any]
TASK_ENI, TASK_LIMITS = P2 + "task-eni", P2 + "task-cpu-mem-limit"
AWSLOGS, JSON_FILE = P1 + "logging-driver.awslogs", P1 + "logging-driver.json-file"


class Fitted(Struct, frozen=True):
    """The definition for the agent, the attributes it needs of the instance, and what was replaced in it."""

    definition: Json
    attributes: frozenset[str]
    replaced: tuple[str, ...] = ()


def fit(definition: Json, attributes: Collection[str]) -> Fitted:
    """`definition` (a TaskDefinition view) for an instance with these `attributes`."""
    registered = frozenset(a["name"] for a in definition.get("requiresAttributes") or [])
    fitted, replaced = definition, []
    if definition.get("networkMode") == "awsvpc" and TASK_ENI not in attributes:
        fitted = _in_host_network(fitted)
        replaced.append(
            "network mode awsvpc -> host: the containers reach each other on localhost, their ports are this machine's"
        )
    writers = [c["name"] for c in fitted["containerDefinitions"] if _driver(c) == "awslogs"]
    if writers and AWSLOGS not in attributes and JSON_FILE in attributes:
        fitted = _each_container(fitted, _with_log_file)
        replaced.append(f"log driver awslogs -> json-file ({', '.join(writers)}): ecs-local logs shows the output")
    if (fitted.get("cpu") or fitted.get("memory")) and TASK_LIMITS not in attributes:
        fitted = {k: v for k, v in fitted.items() if k not in ("cpu", "memory")}
        replaced.append("cpu and memory of the task -> no limit: this machine cannot limit a task as a whole")
    if not replaced:
        return Fitted(definition, registered)
    return Fitted(fitted, frozenset(required_attributes(fitted)), tuple(replaced))


def _driver(container: Json) -> str:
    return str((container.get("logConfiguration") or {}).get("logDriver") or "")


def _each_container(definition: Json, change: Any) -> Json:
    return {**definition, "containerDefinitions": [change(c) for c in definition["containerDefinitions"]]}


def _in_host_network(definition: Json) -> Json:
    return _each_container({**definition, "networkMode": "host"}, _without_network_settings)


def _without_network_settings(container: Json) -> Json:
    """Docker refuses settings of a network namespace to a container in the host's."""
    kept = [s for s in container.get("systemControls") or [] if not str(s.get("namespace") or "").startswith("net.")]
    return {**container, "systemControls": kept}


def _with_log_file(container: Json) -> Json:
    return (
        {**container, "logConfiguration": {"logDriver": "json-file"}} if _driver(container) == "awslogs" else container
    )
