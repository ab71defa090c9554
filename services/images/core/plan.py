"""Which images and containers may be removed now, and in which order.

Pure: takes what is known and a time, returns choices. Rules of the reference (ECS agent behaviour, spec 08 §5-§8) with
these improvements: an image that any container of a live task names, in whatever spelling, is never touched, so no
lock between pulls and cleanup is needed; a never-started container ages from its creation, and one with an ECS task
label is left to the engine. Times are Unix seconds, ages are seconds.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from msgspec import Struct

from common.model.agent import ImageReference
from common.model.status import TaskStatus
from common.model.task import Task

TASK_LABEL = "com.amazonaws.ecs.task-arn"
BUILT_IN_EXCLUSIONS = (
    "amazon/amazon-ecs-pause:0.1.0",
    "amazon/amazon-ecs-agent:latest",
    "ecs-service-connect-agent:interface-v1",
    "ebs-csi-driver:latest",
)
REMOVABLE = ("exited", "dead", "created")
RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)$")


@dataclass(frozen=True)
class Limits:
    """The options that bound a cycle."""

    minimum_age_seconds: float
    untracked_minimum_age_seconds: float
    images_per_cycle: int
    untracked_containers_per_cycle: int
    stopped_container_age_seconds: float
    exclusions: frozenset[str]


class UntrackedImage(Struct, frozen=True):
    """An image as inspect shows it."""

    id: str
    tags: tuple[str, ...]
    size_bytes: int
    created_at: float  # build time; 0 when missing or unreadable: old enough
    tagged_at: float = 0.0  # Metadata.LastTagTime
    digests: tuple[str, ...] = ()  # RepoDigests
    arrived_at: float = 0.0  # at the earliest; 0 when not known

    @property
    def young_since(self) -> float:
        """Where its age begins."""
        return max(self.created_at, self.tagged_at, self.arrived_at)


class UntrackedContainer(Struct, frozen=True):
    """A container as inspect shows it. `finished_at` is None when it cannot be read."""

    id: str
    status: str
    finished_at: float | None
    created_at: float
    labels: tuple[str, ...] = ()


def docker_time(text: str) -> float | None:
    """An RFC 3339 time of Docker as Unix seconds; year 1 (never) is 0.0, unreadable text is None."""
    match = RFC3339.match(text or "")
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(g) for g in match.groups()[:6])
    if year < 1970:
        return 0.0
    zone = match.group(8)
    offset = 0 if zone == "Z" else (1 if zone[0] == "+" else -1) * (int(zone[1:3]) * 3600 + int(zone[4:6]) * 60)
    fraction = float(f"0.{match.group(7)}") if match.group(7) else 0.0
    return timegm((year, month, day, hour, minute, second)) - offset + fraction


def repository(name: str) -> str:
    """The repository of an image name, in full: `nginx:1`, `library/nginx` and `docker.io/library/nginx@sha256:...`
    are all `docker.io/library/nginx`."""
    path, slash, last = name.partition("@")[0].rpartition("/")
    path += slash + last.partition(":")[0]
    domain, slash, rest = path.partition("/")
    if not slash or not (domain == "localhost" or "." in domain or ":" in domain):
        domain, rest = "docker.io", path
    if domain in ("docker.io", "index.docker.io"):
        return f"docker.io/{rest if '/' in rest else f'library/{rest}'}"
    return f"{domain}/{rest}"


class InUse(Struct, frozen=True):
    """What the tasks that have not stopped need.

    `repositories` are those of containers whose image is not known yet. They may be pulling it at this moment, and a
    removal of another spelling of the name, or of the last tag of the repository, would take it away from them.
    """

    ids: frozenset[str]
    names: frozenset[str]
    repositories: frozenset[str]

    def has(self, image_id: str, names: Iterable[str]) -> bool:
        """Whether the image with this id and these names is needed."""
        return image_id in self.ids or any(n in self.names or repository(n) in self.repositories for n in names)


def in_use(tasks: Iterable[Task]) -> InUse:
    """The images of every container of a task that still needs them."""
    containers = [c for t in tasks if t.known < TaskStatus.STOPPED for c in t.containers]
    return InUse(
        frozenset(c.image_id for c in containers if c.image_id),
        frozenset(c.image for c in containers),
        frozenset(repository(c.image) for c in containers if c.image and not c.image_id),
    )


def next_image(
    references: Iterable[ImageReference], tasks: Collection[Task], tried: Collection[str], limits: Limits, now: float
) -> ImageReference | None:
    """The tracked image to remove next: unused, old enough, not excluded, longest unused first."""
    used = in_use(tasks)
    candidates = [
        r
        for r in references
        if r.image_id not in tried
        and not r.containers
        and now - r.pulled_at > limits.minimum_age_seconds
        and not used.has(r.image_id, r.names)
        and not limits.exclusions.intersection(r.names)
    ]
    return min(candidates, key=lambda r: (r.last_used_at, r.image_id), default=None)


def removable_containers(
    containers: Iterable[UntrackedContainer], known: Collection[str], limits: Limits, now: float
) -> list[UntrackedContainer]:
    """Stopped containers that no task knows, older than the clean-up wait."""

    def age(container: UntrackedContainer) -> float:
        assert container.finished_at is not None
        return now - (container.finished_at or container.created_at)

    return [
        c
        for c in containers
        if c.id not in known
        and TASK_LABEL not in c.labels
        and c.status in REMOVABLE
        and c.finished_at is not None
        and age(c) > limits.stopped_container_age_seconds
    ]


def removable_images(
    images: Iterable[UntrackedImage], tracked: Collection[str], tasks: Iterable[Task], limits: Limits, now: float
) -> list[UntrackedImage]:
    """Untracked images that may go, the smallest first. One that a task has just pulled is not tracked yet."""
    used = in_use(tasks)
    chosen = [
        i
        for i in images
        if i.id not in tracked
        and not used.has(i.id, (*i.tags, *i.digests))
        and not limits.exclusions.intersection(i.tags)
        and now - i.young_since > limits.untracked_minimum_age_seconds
    ]
    return sorted(chosen, key=lambda i: (i.size_bytes, i.id))


def references_to_delete(image: UntrackedImage) -> Sequence[str]:
    """By tag when there are several, by id otherwise (Docker refuses an id with several tags)."""
    return image.tags if len(image.tags) > 1 else (image.id,)
