"""What is said about the watched tasks: metrics and health of their containers (spec 07 §8, §10).

Everything is built from the book at one moment. `Report.published` is called when the report was handed over: only then
do its samples count as published, so what finds no room is part of the next report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.model.status import ContainerType
from services.telemetry.core.book import Book, TaskEntry, Watched
from services.telemetry.core.numbers import epoch
from services.telemetry.core.samples import Queue, double_set

GRACE_SECONDS = 30.0  # for containers so young that they cannot have all their numbers yet


@dataclass(frozen=True)
class Report:
    """The task metrics of one publish, and up to where each queue was used."""

    tasks: list[dict[str, Any]]
    marks: list[tuple[Queue, int]]
    overdue: list[str]  # containers without numbers although they are old enough: "<task arn> <name>"

    def published(self) -> None:
        """The report was handed over."""
        for queue, mark in self.marks:
            queue.published(mark)


def report(book: Book, now: float, volumes: Mapping[str, tuple[int, int]], service_connect: bool) -> Report:
    """The metrics of all tasks. `volumes` has (used, size) in bytes by EBS volume id."""
    tasks: list[dict[str, Any]] = []
    overdue: list[str] = []
    for entry in book.tasks.values():
        containers = [metric for c in entry.sampled if (metric := _container(entry, c, now, overdue)) is not None]
        metric = _task(entry, containers, volumes, service_connect)
        if metric is not None:
            tasks.append(metric)
    marks = [(container.queue, container.queue.appended) for _, container in book] if tasks else []
    return Report(tasks, marks, overdue)


def _task(
    entry: TaskEntry, containers: list[dict[str, Any]], volumes: Mapping[str, tuple[int, int]], service_connect: bool
) -> dict[str, Any] | None:
    due = entry.service_connect if service_connect else None
    if not containers and due is None:
        return None
    metric: dict[str, Any] = {}
    if containers:
        metric["containerMetrics"] = containers
    if due is not None and (fresh := due.take()):
        metric["serviceConnectMetricsWrapper"] = fresh
    metric |= {"taskArn": entry.arn, "taskDefinitionFamily": entry.family, "taskDefinitionVersion": entry.version}
    found = [_volume(id_, name, *volumes[id_]) for id_, name, _ in entry.volumes if id_ in volumes]
    if found:
        metric["volumeMetrics"] = found
    return metric


def _volume(id_: str, name: str, used: int, size: int) -> dict[str, Any]:
    return {"size": double_set([size]), "utilized": double_set([used]), "volumeId": id_, "volumeName": name}


def _container(entry: TaskEntry, container: Watched, now: float, overdue: list[str]) -> dict[str, Any] | None:
    queue, young = container.queue, container.age(now) <= GRACE_SECONDS
    if entry.network_mode == "awsvpc" and entry.network is None:
        return None
    cpu, memory = queue.cpu_set(), queue.memory_set()
    if cpu is None or memory is None:
        if not young:
            overdue.append(f"{entry.arn} {container.name}")
        return None
    metric: dict[str, Any] = {"containerName": container.name, "cpuStatsSet": cpu, "memoryStatsSet": memory}
    source = network_source(entry, container)
    if source is not None:
        network, whole = source.network_set()
        if whole or young:
            metric["networkStatsSet"] = network
    restarts = queue.restart_set() if container.restart_policy else None
    if restarts is not None:
        metric["restartStatsSet"] = restarts
    storage = queue.storage_set()
    if storage is not None:
        metric["storageStatsSet"] = storage
    return metric


def network_source(entry: TaskEntry, container: Watched) -> Queue | None:
    """Whose network counters are reported for a container: its own, its task's, or none (spec 07 §8)."""
    is_pause = container.type == ContainerType.CNI_PAUSE
    if entry.network_mode == "bridge":
        return None if is_pause and entry.has_proxy else container.queue
    if entry.network_mode == "awsvpc":
        return None if is_pause or entry.network is None else entry.network.queue
    return None


def health(book: Book, now: float) -> list[dict[str, Any]]:
    """TaskHealth of every task with a container whose health Docker checks."""
    tasks = []
    for entry in book.tasks.values():
        containers = [
            {
                "containerName": container.name,
                "healthStatus": str(container.health.status),
                "statusSince": epoch(container.health.since or now),
            }
            for container in entry.containers.values()
            if container.checks_health
        ]
        if containers:
            tasks.append({
                "containers": containers,
                "taskArn": entry.arn,
                "taskDefinitionFamily": entry.family,
                "taskDefinitionVersion": entry.version,
            })  # fmt: skip
    return tasks


def usable_rates(queue: Queue) -> tuple[float, float] | None:
    """The latest rates of a queue, or None before they are known."""
    rates = queue.rates
    return None if rates is None or math.isnan(rates[0]) or math.isnan(rates[1]) else rates
