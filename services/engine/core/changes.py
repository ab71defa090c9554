"""What a decision has changed that others must be told of: compared before and after, so that no step can forget it."""

from __future__ import annotations

from common.model.status import ContainerStatus
from common.model.task import Container, Task

IMAGE_STEPS = (ContainerStatus.MANIFEST_PULLED, ContainerStatus.PULLED)


def abandoned_pulls(before: Task, after: Task) -> list[str]:
    """The containers whose image nobody waits for any more, by name: they were stopped while it was on its way."""
    pulling = {c.name for c in before.containers if c.applied in IMAGE_STEPS and c.known != ContainerStatus.STOPPED}
    return [c.name for c in after.containers if c.name in pulling and c.known == ContainerStatus.STOPPED]


def ended_containers(before: Task, after: Task) -> list[Container]:
    """The containers that have come to their end, and those of which Docker told only after it."""
    was = {c.name: (c.known, c.docker_id) for c in before.containers}
    stopped = [c for c in after.containers if c.known == ContainerStatus.STOPPED]
    return [c for c in stopped if was.get(c.name) != (c.known, c.docker_id)]
