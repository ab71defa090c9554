"""Tasks and containers as introspection (v1) and the metadata endpoints (v2, v3, v4) show them (spec 06 §3, §8, §11).

Pure: a task document and the facts about the agent in, dicts in field order out. A container is in the task's
container map from the moment its Docker name is chosen; before that it counts as pulled once its image is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from common.model.status import ContainerStatus, ContainerType, HealthStatus, TaskStatus
from common.model.task import Container, Task
from common.serviceconnect import publisher
from services.endpoint import networks
from services.endpoint.encode import Object, docker_time, number, put, seconds_text

Version = Literal[2, 3, 4]
MINIMUM_CPU = 2  # CPU shares that Docker gets when the task definition names fewer

TASK_WORDS = {s: s.name for s in TaskStatus} | {TaskStatus.PULLED: "NONE", TaskStatus.ZOMBIE: "NONE"}
CONTAINER_WORDS = {s: s.name for s in ContainerStatus} | {ContainerStatus.ZOMBIE: "NONE"}


@dataclass(frozen=True)
class Place:
    """Where the tasks run, as far as metadata tells."""

    cluster: str = ""
    availability_zone: str = ""
    availability_zone_id: str = ""
    vpc_id: str = ""


class Unavailable(Exception):
    """A part that this API version cannot do without is missing; the text is the body of the 500."""


def created(task: Task) -> list[Container]:
    """The task's container map: containers with a Docker name or id, internal ones included."""
    return [c for c in task.containers if c.docker_name or c.docker_id]


def pulled(task: Task) -> list[Container]:
    """Containers whose image is there and that have not been created yet."""
    return [c for c in task.containers if c.pulled and not (c.docker_name or c.docker_id)]


# -- metadata v2, v3, v4 ---------------------------------------------------------------------------


def task_shape(task: Task, place: Place, version: Version) -> Object:
    """A task. Raises Unavailable in v3 when a container has no network settings (spec 06 §10)."""
    shape: Object = {"Cluster": place.cluster, "TaskARN": task.arn, "Family": task.family, "Revision": task.version}
    put(shape, "DesiredStatus", TASK_WORDS[task.desired])
    shape["KnownStatus"] = TASK_WORDS[task.known]
    containers = [_member_shape(task, c, version) for c in in_order(task)]
    if version < 4:
        put(shape, "Containers", containers)
    if task.cpu or task.memory_mib:
        limits: Object = {}
        put(limits, "CPU", number(task.cpu))
        put(limits, "Memory", task.memory_mib)
        shape["Limits"] = limits
    put(shape, "PullStartedAt", seconds_text(task.pull_started_at))
    put(shape, "PullStoppedAt", seconds_text(task.pull_stopped_at))
    put(shape, "ExecutionStoppedAt", seconds_text(task.execution_stopped_at))
    put(shape, "AvailabilityZone", place.availability_zone)
    if version == 4:
        put(shape, "LaunchType", task.launch_type)
        put(shape, "Containers", containers + [container_shape(task, c, 4) for c in pulled(task)])
        put(shape, "VPCID", place.vpc_id)
        put(shape, "ServiceName", task.service_name)
        shape["FaultInjectionEnabled"] = task.enable_fault_injection
        put(shape, "AvailabilityZoneID", place.availability_zone_id)
    return shape


def in_order(task: Task) -> list[Container]:
    """The container map; in bridge mode pause containers first: older Service Connect agents read the first one."""
    containers = created(task)
    if task.network_mode == "bridge":
        containers.sort(key=lambda c: c.type != ContainerType.CNI_PAUSE)
    return containers


def _member_shape(task: Task, container: Container, version: Version) -> Object:
    if networks.has_interface(task):
        return container_shape(task, container, version, networks.of_interface(task, version == 4))
    if task.network_mode == "awsvpc" or version == 2:
        return container_shape(task, container, version)
    if networks.has_settings(container):
        return container_shape(task, container, version, networks.of_docker(container, version == 4))
    if version == 3:
        raise Unavailable(_no_networks(container))
    return container_shape(task, container, version)


def _no_networks(container: Container) -> str:
    if not container.docker_id:
        return "Unable to find container ''"
    return f"Unable to generate network response for container '{container.docker_id}'"


def single_shape(task: Task, container: Container, version: Version) -> Object:
    """One container on its own. Raises Unavailable in v3 and v4 when it needs network settings and has none."""
    if networks.has_interface(task):
        return container_shape(task, container, version, networks.of_interface(task, version == 4))
    if version == 2:
        return container_shape(task, container, version)
    if not networks.has_settings(container):
        text = _no_networks(container)
        raise Unavailable(text if version == 3 else text.replace("Unable", "unable", 1))
    return container_shape(task, container, version, networks.of_docker(container, version == 4))


def container_shape(
    task: Task, container: Container, version: Version, network_items: list[Object] | None = None
) -> Object:
    """A container with the given networks."""
    c = container
    shape: Object = {"DockerId": c.docker_id, "Name": c.name, "DockerName": c.docker_name.lstrip("/"),
                     "Image": c.image, "ImageID": c.image_id}  # fmt: skip
    put(shape, "Ports", known_ports(task, c, with_address=version == 4))
    put(shape, "Labels", dict(sorted(c.labels.items())))
    shape["DesiredStatus"] = CONTAINER_WORDS[c.desired]
    shape["KnownStatus"] = CONTAINER_WORDS[c.known]
    if c.exit_code is not None:
        shape["ExitCode"] = c.exit_code
    shape["Limits"] = {"CPU": max(MINIMUM_CPU, c.cpu_shares), "Memory": c.memory_mib}
    put(shape, "CreatedAt", docker_time(c.created_at))
    put(shape, "StartedAt", docker_time(c.started_at))
    put(shape, "FinishedAt", docker_time(c.finished_at))
    shape["Type"] = "NORMAL" if c.type == ContainerType.SERVICE_CONNECT_RELAY else str(c.type)
    if version < 4:
        put(shape, "Networks", network_items)
    if c.health_check_type == "docker":
        shape["Health"] = health_shape(c)
    put(shape, "Volumes", volumes(c))
    if version == 4:
        put(shape, "LogDriver", c.log_driver)
        put(shape, "LogOptions", dict(sorted(c.log_options.items())))
        put(shape, "ContainerARN", c.container_arn)
        put(shape, "Networks", network_items)
        if c.docker_name or c.docker_id:
            _put_restarts(shape, c)
    return shape


def _put_restarts(shape: Object, container: Container) -> None:
    if container.restart_policy is not None and container.restart_policy.enabled:
        shape["RestartCount"] = container.restart_count


def health_shape(container: Container) -> Object:
    """`{}` until the health check's first result."""
    health = container.health
    shape: Object = {}
    put(shape, "status", "" if health.status == HealthStatus.UNKNOWN else str(health.status))
    put(shape, "statusSince", seconds_text(health.since))
    put(shape, "exitCode", health.exit_code)
    put(shape, "output", health.output)
    return shape


def known_ports(task: Task, container: Container, with_address: bool = False) -> list[Object]:
    """One item per binding that Docker reports, in Docker's order; equal items are not merged (spec 06 §8.5)."""
    items = []
    for binding in publisher(task, container).port_bindings:
        item = _port(task, binding.container_port, binding.protocol, binding.host_port)
        if with_address:
            put(item, "HostIp", binding.bind_ip)
        items.append(item)
    return items


def _port(task: Task, container_port: int, protocol: str, host_port: int) -> Object:
    item: Object = {}
    put(item, "ContainerPort", container_port)
    put(item, "Protocol", protocol)
    put(item, "HostPort", container_port if networks.has_interface(task) else host_port)
    return item


def volumes(container: Container) -> list[Object]:
    """The mounts that Docker reports; never those of internal containers."""
    if container.is_internal:
        return []
    items = []
    for mount in container.mounts:
        item: Object = {}
        put(item, "DockerName", mount.name)
        put(item, "Source", mount.source)
        put(item, "Destination", mount.destination)
        items.append(item)
    return items


# -- introspection ---------------------------------------------------------------------------------

NO_TASK: Object = {"Arn": "", "KnownStatus": "", "Family": "", "Version": "", "Containers": None}


def introspection_task(task: Task) -> Object:
    """A task as /v1/tasks shows it."""
    shape: Object = {"Arn": task.arn}
    known, desired = _backend_word(task.known), _backend_word(task.desired)
    hidden = (known == "STOPPED" and desired != "STOPPED") or (known == "RUNNING" and desired == "PENDING")
    put(shape, "DesiredStatus", "" if hidden else desired)
    shape |= {"KnownStatus": known, "Family": task.family, "Version": task.version}
    shape["Containers"] = [_introspection_container(task, c) for c in created(task) if not c.is_internal]
    return shape


def introspection_tasks(tasks: Iterable[Task]) -> Object:
    """All tasks but the agent's own."""
    return {"Tasks": [introspection_task(task) for task in tasks if not task.is_internal]}


def _backend_word(status: TaskStatus) -> str:
    return status.name if status in (TaskStatus.RUNNING, TaskStatus.STOPPED) else "PENDING"


def _introspection_container(task: Task, container: Container) -> Object:
    c = container
    shape: Object = {"DockerId": c.docker_id, "DockerName": c.docker_name.lstrip("/"), "Name": c.name,
                     "Image": c.image, "ImageID": c.image_id}  # fmt: skip
    put(shape, "CreatedAt", docker_time(c.created_at))
    put(shape, "StartedAt", docker_time(c.started_at))
    defined = [_port(task, p.container_port, p.protocol, p.host_port) for p in c.port_mappings]
    put(shape, "Ports", known_ports(task, c) or defined)
    if networks.has_interface(task):
        shape["Networks"] = networks.of_interface(task)
    put(shape, "Volumes", volumes(c))
    _put_restarts(shape, c)
    return shape
