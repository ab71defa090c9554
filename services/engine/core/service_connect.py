"""Service Connect in a task: who waits for whom, and the pause containers of bridge mode.

The resource of the kind KIND carries what was settled when the task arrived: the listeners with their ports. The
proxy is an ordinary container of the task, which the others wait for until it is healthy and which ends after them. In
bridge mode each container gets a pause container: it publishes the ports, holds the network namespace, and is
provisioned with routes to the proxy before the proxy starts (ECS agent behaviour, spec 04 §2.3, §11).
"""

from __future__ import annotations

from msgspec.structs import replace

from common.model.status import ContainerStatus, ContainerType
from common.model.task import Container, Dependency, PortMapping, Resource, Task, TransitionDependency
from common.serviceconnect import AGENT_IMAGE, PAUSE_OF, in_bridge_mode, proxy_name
from services.engine.core.waiting import waiting, waiting_for_cgroup

C = ContainerStatus

KIND = "serviceconnect"
PAUSE, DIGEST = "pause", "digest"  # in Resource.detail: the image of pause containers, the digest of the proxy's


def resource_of(task: Task) -> Resource | None:
    """What was settled about Service Connect for this task."""
    return next((r for r in task.resources if r.kind == KIND), None)


def order_of(task: Task, container: Container) -> list[Dependency]:
    """What Service Connect makes the container wait for, as a `dependsOn` of the task definition would."""
    proxy = proxy_name(task)
    return [Dependency(container_name=proxy, condition="HEALTHY")] if proxy and container.name != proxy else []


def with_proxy(task: Task) -> Task:
    """The task with its proxy made Amazon's agent, and with the pause containers that it needs."""
    proxy, settled = proxy_name(task), resource_of(task)
    if not proxy or settled is None:
        return task
    others = [c.name for c in task.containers if c.name != proxy]
    digest = str(settled.detail[DIGEST])
    containers = tuple(_proxy(c, others, digest) if c.name == proxy else c for c in task.containers)
    task = replace(task, containers=containers)
    return _with_pauses(task, proxy, settled) if in_bridge_mode(task) else task


def _proxy(container: Container, others: list[str], digest: str) -> Container:
    container = replace(container, image=AGENT_IMAGE, image_digest=digest)
    for name in others:
        container = waiting(container, C.STOPPED, other=TransitionDependency(target=name, status=int(C.STOPPED)))
    return container


def _with_pauses(task: Task, proxy: str, settled: Resource) -> Task:
    containers = list(task.containers)
    for container in task.containers:
        if container.is_internal:
            continue
        pause = Container(
            name=f"{PAUSE_OF}{container.name}",
            image=settled.detail[PAUSE],
            type=ContainerType.CNI_PAUSE,
            essential=True,
            steady=C.RESOURCES_PROVISIONED,
            port_mappings=_listeners(settled) if container.name == proxy else container.port_mappings,
        )
        pause = waiting(pause, C.STOPPED, other=TransitionDependency(target=proxy, status=int(C.STOPPED)))
        if container.name != proxy:
            # Its route leads to the address of the proxy's pause container.
            there = TransitionDependency(target=f"{PAUSE_OF}{proxy}", status=int(C.RUNNING))
            pause = waiting(pause, C.RESOURCES_PROVISIONED, other=there)
        containers.append(waiting_for_cgroup(pause, task.resources))
    pauses = [c.name for c in containers if c.type == ContainerType.CNI_PAUSE]
    return replace(task, containers=tuple(_after(c, pauses) if c.name == proxy else c for c in containers))


def _after(proxy: Container, pauses: list[str]) -> Container:
    for name in pauses:
        ready = TransitionDependency(target=name, status=int(C.RESOURCES_PROVISIONED))
        proxy = waiting(proxy, C.CREATED, other=ready)
    return proxy


def _listeners(settled: Resource) -> tuple[PortMapping, ...]:
    """The ports on which the proxy is called from outside."""
    return tuple(
        PortMapping(container_port=listener["port"], host_port=listener["hostPort"], protocol="tcp")
        for listener in settled.detail["ingress"]
    )
