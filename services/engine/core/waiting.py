"""What a container waits for before one of its steps, besides `dependsOn`; and the image that only waits."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from common.model.status import ContainerStatus, ResourceStatus
from common.model.task import Container, Resource, TransitionDependencies, TransitionDependency

PAUSE_IMAGE = "amazon/amazon-ecs-pause:0.1.0"


def waiting(
    container: Container,
    step: ContainerStatus,
    *,
    resource: TransitionDependency | None = None,
    other: TransitionDependency | None = None,
) -> Container:
    """The container with one more thing to wait for before `step`."""
    before = container.transition_dependencies.get(int(step), TransitionDependencies())
    after = TransitionDependencies(
        containers=(*before.containers, other) if other else before.containers,
        resources=(*before.resources, resource) if resource else before.resources,
    )
    return replace(container, transition_dependencies={**container.transition_dependencies, int(step): after})


def waiting_for(container: Container, resource: Resource, *steps: ContainerStatus) -> Container:
    """The container that waits before each of `steps` until the resource is there."""
    for step in steps:
        created = TransitionDependency(target=resource.name, status=int(ResourceStatus.CREATED))
        container = waiting(container, step, resource=created)
    return container


def waiting_for_cgroup(pause: Container, resources: Iterable[Resource]) -> Container:
    """A pause container, which comes first and brings its own image.

    Docker makes a missing parent cgroup, without limits: the first container must not come before ours (trap 29).
    """
    for resource in resources:
        if resource.kind == "cgroup":
            pause = waiting_for(pause, resource, ContainerStatus.PULLED)
    return pause
