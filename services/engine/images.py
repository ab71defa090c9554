"""Which images tasks use or used: the documents from which the image cleanup works (spec 08 §2).

Kept in memory and written by one greenlet a moment after a change, so that thirty tasks with one image cost one
write. What a crash loses is rebuilt at the start, from the containers of the saved tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import gevent
import gevent.event
from msgspec.structs import replace

from common import keys
from common.bus import Bus, Change
from common.clock import Clock
from common.model.agent import ImageReference
from common.model.task import Task
from services.engine.core.effects import Outcome

log = logging.getLogger(__name__)

SETTLE_SECONDS = 0.2


def user_of(task: Task, name: str) -> str:
    """How a container is named in a reference."""
    return f"{task.arn}/{name}"


class Images:
    """The image references of this host."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self.bus, self.clock = bus, clock
        self.references: dict[str, ImageReference] = {}
        self._dirty: set[str] = set()
        self._deleted: dict[str, int] = {}  # image id -> last revision, until the store has deleted it, too
        self._changed = gevent.event.Event()

    def load(self, tasks: Iterable[Task]) -> None:
        """Read the saved references and rebuild who uses them. The saved names stay as they are.

        A reference that a crash lost before it was written begins anew, or nobody would ever remove its image.
        """
        self.references = self.bus.durable.all(keys.IMAGE)
        users: dict[str, list[str]] = {}
        names: dict[str, str] = {}
        for task in tasks:
            for container in task.containers:
                if container.image_id and not container.is_internal:
                    users.setdefault(container.image_id, []).append(user_of(task, container.name))
                    names.setdefault(container.image_id, container.image)
        now = self.clock.now()
        for image_id in users.keys() - self.references.keys():
            self._set(ImageReference(image_id=image_id, names=(names[image_id],), pulled_at=now, last_used_at=now))
        for image_id, reference in list(self.references.items()):
            found = tuple(users.get(image_id, ()))
            if found != reference.containers:
                self._set(replace(reference, containers=found))

    def pull_succeeded(self, name: str) -> bool:
        """Whether an earlier task pulled exactly this image name (pull behaviour `once`)."""
        return any(r.pull_succeeded and name in r.names for r in self.references.values())

    def used(self, task: Task, name: str, outcome: Outcome) -> None:
        """A container of the task has its image, pulled or cached."""
        container = task.container(name)
        if container is None or container.is_internal or not outcome.image_id:
            return
        now = self.clock.now()
        reference = self.references.get(outcome.image_id)
        if reference is None:
            revision = self._deleted.pop(outcome.image_id, 0)  # the store would refuse to go back to an earlier one
            reference = ImageReference(revision=revision, image_id=outcome.image_id, pulled_at=now, last_used_at=now)
        for other in [r for r in self.references.values() if r.image_id != outcome.image_id]:
            if container.image in other.names:  # the name has moved to a newer image
                self._set(replace(other, names=tuple(n for n in other.names if n != container.image)))
        user = user_of(task, name)
        pulled = outcome.registry_pull_began_at > 0 and outcome.error is None
        self._set(
            replace(
                reference,
                names=reference.names if container.image in reference.names else (*reference.names, container.image),
                containers=reference.containers if user in reference.containers else (*reference.containers, user),
                pull_succeeded=reference.pull_succeeded or pulled,
                size_bytes=outcome.image_size_bytes or reference.size_bytes,
            )
        )

    def released(self, task: Task) -> None:
        """The task is cleaned up: its containers use no image any more."""
        for container in task.containers:
            reference = self.references.get(container.image_id)
            user = user_of(task, container.name)
            if reference is not None and user in reference.containers:
                left = tuple(c for c in reference.containers if c != user)
                self._set(replace(reference, containers=left, last_used_at=self.clock.now()))

    def removed(self, image_id: str, name: str = "") -> None:
        """The image, or only its name, is gone from Docker.

        One that a task uses meanwhile keeps its record, or nobody would remove the image that was pulled again. Whether
        it was is not known here, so the next task pulls it to be sure.
        """
        reference = self.references.get(image_id)
        if reference is None:
            return
        if reference.containers:
            self._set(replace(reference, pull_succeeded=False))
            return
        left = tuple(n for n in reference.names if n != name) if name else ()
        if left:
            self._set(replace(reference, names=left))
        else:
            self._deleted[image_id] = self.references.pop(image_id).revision
            self._dirty.add(image_id)
            self._changed.set()

    def republish(self) -> None:
        """The store has lost its data: write everything again."""
        self._dirty.update(self.references)
        self._changed.set()

    def run(self) -> None:
        """Write changes as they come, for ever."""
        while True:
            self._changed.wait()
            gevent.sleep(SETTLE_SECONDS)
            self.flush()

    def flush(self) -> None:
        """Write what has changed, now."""
        self._changed.clear()
        for image_id in list(self._dirty):
            self._dirty.discard(image_id)
            reference = self.references.get(image_id)
            if reference is None:
                change = Change().delete(keys.IMAGE, image_id)
            else:
                reference = replace(reference, revision=reference.revision + 1)
                self.references[image_id] = reference
                change = Change().save(keys.IMAGE, image_id, reference)
            try:
                self.bus.durable.commit(change)
            except Exception:  # refused, or the engine ends: whoever writes next writes this one, too
                self._dirty.add(image_id)
                self._changed.set()
                raise
            if reference is None:
                self._deleted.pop(image_id, None)

    def _set(self, reference: ImageReference) -> None:
        self.references[reference.image_id] = reference
        self._dirty.add(reference.image_id)
        self._changed.set()
