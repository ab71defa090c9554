"""One clean-up cycle: what the plan chooses is removed through Docker, one call at a time, each with its deadline.

The cycle owns no document: image references belong to the engine, which is told by an ImageRemoved command. A refused
removal (409, in use) costs nothing from the budget and is tried again in the next cycle, so a few images that are
stuck do not starve the others.

Between pulls and cleanup there is no lock that a long pull could hold. A task's document in Redis is what protects its
images: it is there before the first look at an image and until the task has stopped, and tasks and references are read
anew immediately before every removal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from docker import APIClient
from msgspec.structs import replace

from common import docker, keys
from common.bus import Bus, Change
from common.clock import Clock
from common.logs import fields
from common.model.agent import ImageReference
from common.model.messages import ImageRemoved
from common.model.task import Task
from services.images.core import plan
from services.images.core.arrivals import Arrivals
from services.images.core.plan import Limits, UntrackedImage
from services.images.core.space import Gone
from services.images.daemon import FAULTS, Daemon, docker_clients

__all__ = ["Cycle", "docker_clients", "limits_of"]

if TYPE_CHECKING:
    from common.memory import MemoryBus

log = logging.getLogger(__name__)


def limits_of(config: Mapping[str, Any]) -> Limits:
    """The options of this process as the plan needs them."""
    given = [str(item) for item in config["ECS_EXCLUDE_UNTRACKED_IMAGE"] or ()]
    pause = f"{config['PauseContainerImageName']}:{config['PauseContainerTag']}"
    return Limits(
        minimum_age_seconds=config["ECS_IMAGE_MINIMUM_CLEANUP_AGE"],
        untracked_minimum_age_seconds=config["NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE"],
        images_per_cycle=config["ECS_NUM_IMAGES_DELETE_PER_CYCLE"],
        untracked_containers_per_cycle=config["NONECS_NUM_CONTAINERS_DELETE_PER_CYCLE"],
        stopped_container_age_seconds=config["ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION"],
        exclusions=frozenset([*given, *(item.strip() for item in given), pause, *plan.BUILT_IN_EXCLUSIONS]),
    )


class Cycle:
    """Everything one cycle needs; `gone` counts what it has removed. `client(seconds)` is as for `Daemon`.

    `arrivals` outlives the cycle: what came since the last one is young, whenever it was built.
    """

    def __init__(
        self, bus: Bus | MemoryBus, limits: Limits, clock: Clock, client: Callable[[float], APIClient], untracked: bool,
        arrivals: Arrivals | None = None,
    ) -> None:  # fmt: skip
        self.bus, self.limits, self.clock, self.untracked = bus, limits, clock, untracked
        self.arrivals = Arrivals() if arrivals is None else arrivals
        self.daemon = Daemon(client)
        self.gone = Gone()

    def run(self) -> Gone:
        """Remove what may go now; returns what went."""
        self._tracked()
        if self.untracked:
            left = max(0, self.limits.images_per_cycle - self.gone.images)
            self._untracked_containers()
            self._untracked_images(left)
        return self.gone

    def tasks(self) -> list[Task]:
        """All tasks, as they are now."""
        return list(self.bus.durable.all(keys.TASK).values())

    # -- images that the engine knows ----------------------------------------------------------

    def _tracked(self) -> None:
        tried = set[str]()
        while self.gone.images < self.limits.images_per_cycle:
            image = self.next_tracked(tried, self.limits)
            if image is None:
                break
            tried.add(image.image_id)
            self.remove_tracked(image)

    def next_tracked(self, tried: set[str], limits: Limits) -> ImageReference | None:
        """The tracked image that goes next. One that a container outside ECS uses keeps all its names."""
        references = self.bus.durable.all(keys.IMAGE).values()
        tasks = self.tasks()
        now = self.clock.now()
        if plan.next_image(references, tasks, tried, limits, now) is None:
            return None  # nothing to ask Docker about
        return plan.next_image(references, tasks, tried | self.daemon.used_images(), limits, now)

    def remove_tracked(self, image: ImageReference) -> None:
        """Remove all its names, or the image itself when none is left that points to it."""
        there = {name: self._points_to(name) for name in image.names}
        if not any(id_ in (image.image_id, "") for id_ in there.values()):
            went = [self._remove(image, "")]
        else:
            for name, id_ in there.items():
                if id_ not in (image.image_id, None, ""):  # moved: deleting it would take the other image away
                    self._tell(image, name)
            names = [name for name, id_ in there.items() if id_ in (image.image_id, None)]
            went = [self._remove(image, name) for name in names]
        self.gone.images += any(went)  # however many names it had

    def _points_to(self, name: str) -> str | None:
        """The id of the image with this name; None when there is none, "" when Docker does not say."""
        try:
            return self.daemon.image_id(name)
        except FAULTS as error:
            log.warning("image %s is not removed: %s", name, docker.message_of(error))
            return ""

    def _remove(self, image: ImageReference, name: str) -> bool:
        """Remove one name, or the image when `name` is empty; the engine is told."""
        reference = name or image.image_id
        given_back = self.daemon.remove_image(reference, lambda: self._unused(image))
        if given_back is None:
            return False
        self.gone.space_bytes += given_back
        log.info("removed an unused image", **fields(image=reference, id=image.image_id, bytes=given_back))
        self._tell(image, name)
        return True

    def _unused(self, image: ImageReference) -> bool:
        """Whether no task has come to need it."""
        reference = self.bus.durable.get(keys.IMAGE, image.image_id)
        used = plan.in_use(self.tasks()).has(image.image_id, image.names)
        return not used and not (reference is not None and reference.containers)

    def _tell(self, image: ImageReference, name: str) -> None:
        self.bus.durable.commit(Change().append(keys.COMMANDS, ImageRemoved(image_id=image.image_id, name=name)))

    # -- what nobody knows ---------------------------------------------------------------------

    def _untracked_containers(self) -> None:
        known = {c.docker_id for t in self.tasks() for c in t.containers if c.docker_id}
        unknown = [id_ for id_ in self.daemon.container_ids() if id_ not in known]
        found = [c for c in map(self.daemon.container, unknown) if c]
        for container in plan.removable_containers(found, known, self.limits, self.clock.now()):
            if self.gone.containers == self.limits.untracked_containers_per_cycle:
                return
            given_back = self.daemon.remove_container(container.id)
            if given_back is not None:
                self.gone.add(Gone(containers=1, space_bytes=given_back))
                log.info("removed a stopped container that belongs to no task",
                         **fields(dockerId=container.id, bytes=given_back))  # fmt: skip

    def _untracked_images(self, budget: int) -> None:
        if not budget:
            return
        removed = 0
        for image in self.removable_untracked(self.limits):
            if removed >= budget:
                return
            removed += self.remove_untracked(image, self.limits)

    def removable_untracked(self, limits: Limits) -> list[UntrackedImage]:
        """Untracked images that may go and that no container uses, the smallest first."""
        tracked = set(self.bus.durable.all(keys.IMAGE))
        there = self.daemon.image_ids()
        if there:
            self.arrivals.look(there, self.clock.now())
        unknown = there - tracked - self.daemon.used_images()
        found = [replace(i, arrived_at=self.arrivals.of(i.id)) for i in map(self.daemon.image, sorted(unknown)) if i]
        return plan.removable_images(found, tracked, self.tasks(), limits, self.clock.now())

    def _still_untracked(self, image: UntrackedImage, limits: Limits) -> bool:
        """Whether it may still go: listing and earlier removals take a while."""
        tracked = self.bus.durable.all(keys.IMAGE)
        return bool(plan.removable_images([image], tracked, self.tasks(), limits, self.clock.now()))

    def remove_untracked(self, image: UntrackedImage, limits: Limits) -> int:
        """Remove its tags, or the image by its id, while it may go; returns how many references went."""
        removed = 0
        for reference in plan.references_to_delete(image):
            given_back = self.daemon.remove_image(reference, lambda: self._still_untracked(image, limits))
            if given_back is not None:
                removed += 1
                self.gone.add(Gone(images=1, space_bytes=given_back))
                log.info("removed an image that belongs to no task",
                         **fields(image=reference, id=image.id, bytes=given_back))  # fmt: skip
        return removed
