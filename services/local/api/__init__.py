"""The operations of the ECS API that the local control plane offers, by name.

An operation is a function (plane, request) -> answer: the request was checked against the service model before, the
answer is shaped by it afterwards. Errors are raised as ApiError. The rest of the API answers with an error that names
the operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from services.local.api import agent, clusters, definitions, instances, tags, tasks
from services.local.api.plane import Plane
from services.local.core.errors import ApiError

Json = dict[str, Any]
OPERATIONS: dict[str, Callable[[Plane, Json], Json]] = {
    "CreateCluster": clusters.create,
    "DescribeClusters": clusters.describe,
    "ListClusters": clusters.list_,
    "DeleteCluster": clusters.delete,
    "RegisterTaskDefinition": definitions.register,
    "DescribeTaskDefinition": definitions.describe,
    "ListTaskDefinitions": definitions.list_,
    "ListTaskDefinitionFamilies": definitions.list_families,
    "DeregisterTaskDefinition": definitions.deregister,
    "DeleteTaskDefinitions": definitions.delete,
    "RunTask": tasks.run,
    "StartTask": tasks.start,
    "StopTask": tasks.stop,
    "DescribeTasks": tasks.describe,
    "ListTasks": tasks.list_,
    "GetTaskProtection": tasks.get_protection,
    "UpdateTaskProtection": tasks.update_protection,
    "ListContainerInstances": instances.list_,
    "DescribeContainerInstances": instances.describe,
    "UpdateContainerInstancesState": instances.update_state,
    "RegisterContainerInstance": instances.register,
    "DeregisterContainerInstance": instances.deregister,
    "DiscoverPollEndpoint": agent.discover_poll_endpoint,
    "SubmitTaskStateChange": agent.submit_task,
    "SubmitContainerStateChange": agent.submit_container,
    "SubmitAttachmentStateChanges": agent.submit_attachments,
    "ListTagsForResource": tags.list_,
    "TagResource": tags.tag,
    "UntagResource": tags.untag,
}


def call(plane: Plane, name: str, body: object) -> Json:
    """Check, do and shape one operation. Raises ApiError."""
    operation = OPERATIONS.get(name)
    if operation is None:
        plane.shapes.operation(name)  # an unknown name has an error of its own
        raise ApiError(
            "UnsupportedFeatureException",
            f"The local control plane does not offer {name}. It offers: {', '.join(sorted(OPERATIONS))}.",
        )
    request = plane.shapes.request(name, body)
    if name == "RegisterContainerInstance" and isinstance(body, dict):
        # Agents send it, the published model does not have it (spec 01 §6.1).
        request["clientToken"] = str(body.get("clientToken") or "")
    return plane.shapes.response(name, operation(plane, request))
