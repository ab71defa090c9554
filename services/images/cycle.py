"""One clean-up cycle: what the plan chooses is removed through Docker, one call at a time, each with its deadline.

The cycle owns no document: image references belong to the engine, which is told by an ImageRemoved command. A refused
removal (409, in use) costs nothing from the budget and is tried again in the next cycle, so a few images that are
stuck do not starve the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from docker import APIClient
from docker.errors import APIError

from common import docker, keys
from common.bus import Bus, Change
from common.clock import Clock
from common.logs import fields
from common.model.agent import ImageReference
from common.model.messages import ImageRemoved
from services.images.core import plan
from services.images.core.plan import Limits, UntrackedContainer, UntrackedImage

log = logging.getLogger(__name__)
REMOVE_IMAGE_SECONDS = 180
REMOVE_CONTAINER_SECONDS = 300
LIST_SECONDS = 600
INSPECT_SECONDS = 30
FAULTS = (APIError, OSError)  # requests' errors are OSErrors


def limits_of(config: Mapping[str, Any]) -> Limits:
    """The options of this process as the plan needs them."""
    given = [str(item) for item in config["ECS_EXCLUDE_UNTRACKED_IMAGE"] or ()]
    return Limits(
        minimum_age_seconds=config["ECS_IMAGE_MINIMUM_CLEANUP_AGE"],
        untracked_minimum_age_seconds=config["NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE"],
        images_per_cycle=config["ECS_NUM_IMAGES_DELETE_PER_CYCLE"],
        untracked_containers_per_cycle=config["NONECS_NUM_CONTAINERS_DELETE_PER_CYCLE"],
        stopped_container_age_seconds=config["ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION"],
        exclusions=frozenset([*given, *(item.strip() for item in given), *plan.BUILT_IN_EXCLUSIONS]),
    )


class Cycle:
    """Everything one cycle needs. `client(seconds)` gives a Docker client with that time-out per call."""

    def __init__(
        self, bus: Bus, limits: Limits, clock: Clock, client: Callable[[float], APIClient], untracked: bool
    ) -> None:
        self.bus, self.limits, self.clock, self.client, self.untracked = bus, limits, clock, client, untracked

    def run(self) -> int:
        """Returns the number of tracked images removed."""
        attempts = self._tracked()
        if self.untracked:
            self._untracked_containers()
            self._untracked_images(max(0, self.limits.images_per_cycle - attempts))
        return attempts

    # -- images that the engine knows ----------------------------------------------------------

    def _tracked(self) -> int:
        removed, tried = 0, set[str]()
        while removed < self.limits.images_per_cycle:
            # Read anew before every removal: a task that arrived meanwhile protects its image.
            tasks = self.bus.durable.all(keys.TASK).values()
            references = self.bus.durable.all(keys.IMAGE)
            image = plan.next_image(references.values(), list(tasks), tried, self.limits, self.clock.now())
            if image is None:
                break
            tried.add(image.image_id)
            removed += self._remove_image(image)
        return removed

    def _remove_image(self, image: ImageReference) -> bool:
        if not image.names:
            return self._forget_if(self._delete(image.image_id), image, "")
        gone = [self._forget_if(self._still(name, image) and self._delete(name), image, name) for name in image.names]
        return any(gone)

    def _still(self, name: str, image: ImageReference) -> bool:
        """A name that points to another image by now must not take that image away."""
        try:
            current = str(self.client(INSPECT_SECONDS).inspect_image(name)["Id"])
        except APIError as error:
            return error.status_code == 404  # gone already: forget the name
        except OSError as error:
            log.warning("image %s is not removed: %s", name, docker.message_of(error))
            return False
        if current != image.image_id:
            self._tell(image, name)
        return current == image.image_id

    def _forget_if(self, removed: bool, image: ImageReference, name: str) -> bool:
        if removed:
            log.info("removed an unused image", **fields(image=name or image.image_id, id=image.image_id))
            self._tell(image, name)
        return removed

    def _tell(self, image: ImageReference, name: str) -> None:
        self.bus.durable.commit(Change().append(keys.COMMANDS, ImageRemoved(image_id=image.image_id, name=name)))

    def _delete(self, reference: str) -> bool:
        """True when the reference is gone afterwards."""
        try:
            self.client(REMOVE_IMAGE_SECONDS).remove_image(reference, force=False, noprune=True)
            return True
        except FAULTS as error:
            if "no such image" in str(error).lower():
                return True
            log.info("image %s stays for now: %s", reference, docker.message_of(error))
            return False

    # -- what nobody knows ---------------------------------------------------------------------

    def _untracked_containers(self) -> None:
        known = {c.docker_id for t in self.bus.durable.all(keys.TASK).values() for c in t.containers if c.docker_id}
        try:
            listed = self.client(LIST_SECONDS).containers(all=True)
        except FAULTS as error:
            log.warning("containers cannot be listed: %s", docker.message_of(error))
            return
        found = [c for c in (self._container(item["Id"]) for item in listed if item["Id"] not in known) if c]
        removed = 0
        for container in plan.removable_containers(found, known, self.limits, self.clock.now()):
            if removed == self.limits.untracked_containers_per_cycle:
                return
            try:
                self.client(REMOVE_CONTAINER_SECONDS).remove_container(container.id, v=True)
                removed += 1
                log.info("removed a stopped container that belongs to no task", **fields(dockerId=container.id))
            except FAULTS as error:
                log.info("container %s stays for now: %s", container.id[:12], docker.message_of(error))

    def _container(self, id_: str) -> UntrackedContainer | None:
        try:
            seen = self.client(INSPECT_SECONDS).inspect_container(id_)
        except FAULTS:
            return None  # gone, or not to be understood: not ours to remove
        state = seen.get("State", {})
        return UntrackedContainer(
            id=id_,
            status=state.get("Status", ""),
            finished_at=plan.docker_time(state.get("FinishedAt", "")),
            created_at=plan.docker_time(seen.get("Created", "")) or 0.0,
            labels=tuple((seen.get("Config") or {}).get("Labels") or ()),
        )

    def _untracked_images(self, budget: int) -> None:
        tracked = set(self.bus.durable.all(keys.IMAGE))
        try:
            listed = {item["Id"] for item in self.client(LIST_SECONDS).images()} if budget else set()
        except FAULTS as error:
            log.warning("images cannot be listed: %s", docker.message_of(error))
            return
        found = [i for i in (self._image(id_) for id_ in sorted(listed - tracked)) if i]
        removed = 0
        for image in plan.removable_images(found, tracked, self.limits, self.clock.now()):
            if removed >= budget:
                return
            for reference in plan.references_to_delete(image):
                if self._delete(reference):
                    removed += 1
                    log.info("removed an image that belongs to no task", **fields(image=reference, id=image.id))

    def _image(self, id_: str) -> UntrackedImage | None:
        try:
            seen = self.client(INSPECT_SECONDS).inspect_image(id_)
        except FAULTS:
            return None  # gone meanwhile
        return UntrackedImage(
            id=id_,
            tags=tuple(seen.get("RepoTags") or ()),
            size_bytes=int(seen.get("Size") or 0),
            created_at=plan.docker_time(seen.get("Created", "")) or 0.0,
            tagged_at=plan.docker_time((seen.get("Metadata") or {}).get("LastTagTime", "")) or 0.0,
        )


def docker_clients() -> Callable[[float], APIClient]:
    """Clients by time-out, made once each."""
    made: dict[float, APIClient] = {}

    def client(seconds: float) -> APIClient:
        if seconds not in made:
            made[seconds] = docker.client(docker.lowest_usable_version(), seconds)
        return made[seconds]

    return client
