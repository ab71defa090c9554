"""Clusters: create, describe, list, delete."""

from __future__ import annotations

from typing import Any

from services.local.api.plane import Plane, check_tags, missing, page
from services.local.core.errors import ApiError, invalid
from services.local.core.names import check_name, cluster_name
from services.local.core.records import Cluster

Json = dict[str, Any]
_STORED = ("configuration", "serviceConnectDefaults", "capacityProviders", "defaultCapacityProviderStrategy")


def create(plane: Plane, request: Json) -> Json:
    """Creates the cluster, or answers with the one of that name; a deleted one becomes active again."""
    name = check_name(request.get("clusterName") or "default", "Cluster name")
    tags = check_tags(request.get("tags") or [])
    cluster = plane.state.clusters.get(name)
    if cluster is None or cluster.view["status"] != "ACTIVE":
        view = {
            "clusterArn": plane.state.names.cluster(name),
            "clusterName": name,
            "status": "ACTIVE",
            "settings": request.get("settings") or [{"name": "containerInsights", "value": "disabled"}],
            "capacityProviders": [],
            "defaultCapacityProviderStrategy": [],
            **{k: request[k] for k in _STORED if k in request},
        }
        cluster = Cluster(name, view)
        plane.state.save(cluster, tags={view["clusterArn"]: tags})
    return {"cluster": plane.cluster_view(cluster, ["TAGS", "SETTINGS"])}


def describe(plane: Plane, request: Json) -> Json:
    """Describes the named clusters, `default` when none is named; deleted ones too."""
    found, failures = [], []
    for name in request.get("clusters") or ["default"]:
        cluster = plane.state.clusters.get(cluster_name(name))
        if cluster:
            found.append(plane.cluster_view(cluster, request.get("include")))
        else:
            arn = name if name.startswith("arn:") else plane.state.names.cluster(name)
            failures.append(missing(arn))
    return {"clusters": found, "failures": failures}


def list_(plane: Plane, request: Json) -> Json:
    """ARNs of the active clusters."""
    arns = sorted(c.view["clusterArn"] for c in plane.state.clusters.values() if c.view["status"] == "ACTIVE")
    chosen, more = page(arns, request)
    return {"clusterArns": chosen, **more}


def delete(plane: Plane, request: Json) -> Json:
    """Makes an empty cluster INACTIVE."""
    if not request.get("cluster"):
        raise invalid("Cluster should not be null or empty.")
    cluster = plane.state.cluster(request["cluster"])
    view = plane.cluster_view(cluster)
    if view["registeredContainerInstancesCount"]:
        raise ApiError(
            "ClusterContainsContainerInstancesException",
            "The Cluster cannot be deleted while Container Instances are active or draining.",
        )
    if view["runningTasksCount"] or view["pendingTasksCount"]:
        raise ApiError("ClusterContainsTasksException", "The Cluster cannot be deleted while Tasks are active.")
    cluster = plane.state.change(cluster, view={**cluster.view, "status": "INACTIVE"})
    return {"cluster": plane.cluster_view(cluster)}
