"""The Docker calls of this process, each with its deadline (ECS agent behaviour, spec 08 §12).

What cannot be read is left out and what cannot be removed stays: the next cycle tries again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from docker import APIClient
from docker.errors import APIError

from common import docker
from services.images.core import plan, space
from services.images.core.plan import UntrackedContainer, UntrackedImage

log = logging.getLogger(__name__)
REMOVE_IMAGE_SECONDS = 180
REMOVE_CONTAINER_SECONDS = 300
LIST_SECONDS = 600
INSPECT_SECONDS = 30
FAULTS = (APIError, OSError)  # requests' errors are OSErrors


def docker_clients() -> Callable[[float], APIClient]:
    """Clients by time-out, made once each. Asks Docker for its version: raises OSError or APIError."""
    made: dict[float, APIClient] = {}
    version = docker.lowest_usable_version()

    def client(seconds: float) -> APIClient:
        if seconds not in made:
            made[seconds] = docker.client(version, seconds)
        return made[seconds]

    return client


class Daemon:
    """Docker as this process uses it. `client(seconds)` gives a client with that time-out per call."""

    def __init__(self, client: Callable[[float], APIClient]) -> None:
        self._client = client

    # -- images --------------------------------------------------------------------------------

    def used_images(self) -> set[str]:
        """Ids of the images of all containers, whoever made them; without an answer Docker's refusals must do."""
        return {str(item.get("ImageID", "")) for item in self._containers()}

    def image_id(self, name: str) -> str | None:
        """The id behind a name; None when there is no such image. Raises APIError or OSError."""
        try:
            return str(self._client(INSPECT_SECONDS).inspect_image(name)["Id"])
        except APIError as error:
            if error.status_code == 404:
                return None
            raise

    def image_ids(self) -> set[str]:
        """All images, also dangling ones; empty when Docker does not say."""
        try:
            return {str(item["Id"]) for item in self._client(LIST_SECONDS).images()}
        except FAULTS as error:
            log.warning("images cannot be listed: %s", docker.message_of(error))
            return set()

    def image(self, id_: str) -> UntrackedImage | None:
        """The image as inspect shows it; None when it is gone meanwhile."""
        try:
            seen = self._client(INSPECT_SECONDS).inspect_image(id_)
        except FAULTS:
            return None
        return UntrackedImage(
            id=id_,
            tags=tuple(seen.get("RepoTags") or ()),
            size_bytes=int(seen.get("Size") or 0),
            created_at=plan.docker_time(seen.get("Created", "")) or 0.0,
            tagged_at=plan.docker_time((seen.get("Metadata") or {}).get("LastTagTime", "")) or 0.0,
            digests=tuple(seen.get("RepoDigests") or ()),
        )

    def remove_image(self, reference: str, still: Callable[[], bool]) -> int | None:
        """Remove a name or an id. Bytes given back, also 0 when it was gone already; None when it stays.

        `still` is asked immediately before the removal, after all other calls, whether it may still go.
        """
        layers, sizes, total = self._layers(reference)
        if not still():
            log.info("image %s stays: a task needs it now", reference)
            return None
        try:
            answer = self._client(REMOVE_IMAGE_SECONDS).remove_image(reference, force=False, noprune=True)
        except FAULTS as error:
            if "no such image" in str(error).lower():
                return 0
            log.info("image %s stays until a later cycle: %s", reference, docker.message_of(error))
            return None
        return space.given_back(layers, sizes, total, answer or ())

    def _layers(self, reference: str) -> tuple[list[str], dict[str, int], int]:
        try:
            client = self._client(INSPECT_SECONDS)
            seen = client.inspect_image(reference)
            history = [int(entry.get("Size") or 0) for entry in client.history(reference)]
        except FAULTS:
            return [], {}, 0  # the removal will say what is wrong
        layers = [str(layer) for layer in (seen.get("RootFS") or {}).get("Layers") or ()]
        return layers, space.layer_sizes(layers, history), int(seen.get("Size") or 0)

    # -- containers ----------------------------------------------------------------------------

    def container_ids(self) -> list[str]:
        """All containers in Docker's order; empty when Docker does not say."""
        return [str(item["Id"]) for item in self._containers()]

    def _containers(self, **more: Any) -> list[dict[str, Any]]:
        try:
            return list(self._client(LIST_SECONDS).containers(all=True, **more))
        except FAULTS as error:
            log.warning("containers cannot be listed: %s", docker.message_of(error))
            return []

    def container(self, id_: str) -> UntrackedContainer | None:
        """The container as inspect shows it; None when it is gone or not to be understood."""
        try:
            seen = self._client(INSPECT_SECONDS).inspect_container(id_)
        except FAULTS:
            return None
        state = seen.get("State", {})
        return UntrackedContainer(
            id=id_,
            status=state.get("Status", ""),
            finished_at=plan.docker_time(state.get("FinishedAt", "")),
            created_at=plan.docker_time(seen.get("Created", "")) or 0.0,
            labels=tuple((seen.get("Config") or {}).get("Labels") or ()),
        )

    def remove_container(self, id_: str) -> int | None:
        """Remove a container and its anonymous volumes. Bytes of its own layer; None when it stays."""
        size = sum(int(item.get("SizeRw") or 0) for item in self._containers(filters={"id": id_}, size=True))
        try:
            self._client(REMOVE_CONTAINER_SECONDS).remove_container(id_, v=True)
        except FAULTS as error:
            log.info("container %s stays until a later cycle: %s", id_[:12], docker.message_of(error))
            return None
        return size
