"""What a container had used before its restart policy started it again, kept over restarts of the agent (spec 07 §7).

One small document per container that ever restarted, written at a restart only. When the container stops for good, the
document goes.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from common.bus import Change, Store
from common.errors import Temporary
from common.keys import RESTARTS
from common.model.agent import Restarted
from services.telemetry.core.dockerstats import DockerStats, from_docker, render

if TYPE_CHECKING:
    from common.memory import MemoryStore

log = logging.getLogger(__name__)

DEADLINE_SECONDS = 2.0  # measuring must not wait for Redis


class Restarts:
    """The saved restarts."""

    def __init__(self, store: Store | MemoryStore) -> None:
        self._store = store
        self._known: dict[str, Restarted] = {}

    def load(self) -> None:
        """Read what an earlier run saved. Raises Temporary while Redis is away."""
        self._known = self._store.all(RESTARTS, DEADLINE_SECONDS) | self._known

    def get(self, docker_id: str) -> tuple[int, DockerStats | None]:
        """When the container's last restart was seen (0 = never) and what it had used before."""
        saved = self._known.get(docker_id)
        if saved is None:
            return 0, None
        try:
            return saved.seen_at, from_docker(saved.before) if saved.before else None
        except msgspec.DecodeError as error:
            log.warning("the saved usage of container %s cannot be read (%s); its totals begin anew", docker_id, error)
            return saved.seen_at, None

    def save(self, docker_id: str, seen_at: int, before: DockerStats | None) -> None:
        """A restart was seen. A Redis that is away costs the totals only if the agent restarts before the next one."""
        old = self._known.get(docker_id)
        document = Restarted(
            revision=old.revision + 1 if old else 1,
            docker_id=docker_id,
            seen_at=seen_at,
            before=render(before) if before else b"",
        )
        self._known[docker_id] = document
        self._commit(Change().save(RESTARTS, docker_id, document))

    def forget(self, docker_id: str) -> None:
        """The container stopped for good."""
        if self._known.pop(docker_id, None) is not None:
            self._commit(Change().delete(RESTARTS, docker_id))

    def keep_only(self, docker_ids: set[str]) -> None:
        """Forget all others: containers that went while the agent was down."""
        for docker_id in set(self._known) - docker_ids:
            self.forget(docker_id)

    def _commit(self, change: Change) -> None:
        try:
            self._store.commit(change, DEADLINE_SECONDS)
        except Temporary as error:
            log.warning("the usage of a restarted container is not saved: %s", error)
