"""Role credentials of tasks: kept in memory, mirrored into the volatile Redis for the other processes.

They are nowhere else: never on disk, never in a log. When the volatile Redis has lost its data they are published again
from memory; when this process restarts they are read back from there, and what neither has ACS sends again after the
first connect (sendCredentials).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable

from msgspec.structs import replace

from common import keys
from common.bus import Change, Store
from common.model.agent import Credentials

log = logging.getLogger(__name__)

FORGOTTEN_AFTER_SECONDS = 24 * 3600.0  # no role session lives longer than half of that


class RoleCredentials:
    """The only writer of CREDENTIALS documents."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: dict[str, Credentials] = {}
        self._stored_at: dict[str, float] = {}

    def restore(self) -> None:
        """Take over what an earlier process of this service left in Redis."""
        for id_, document in self._store.all(keys.CREDENTIALS).items():
            self._held.setdefault(id_, document)
            self._stored_at.setdefault(id_, time.monotonic())

    def get(self, id_: str) -> Credentials | None:
        """The credentials stored under this id."""
        return self._held.get(id_)

    def put(self, *documents: Credentials) -> None:
        """Store, replacing what had the same id. Raises Temporary when the process stops before Redis took them."""
        for document in documents:
            old = self._held.get(document.credentials_id)
            self._held[document.credentials_id] = replace(document, revision=old.revision + 1 if old else 1)
            self._stored_at[document.credentials_id] = time.monotonic()
        self._publish(d.credentials_id for d in documents)

    def forget(self, ids: Iterable[str]) -> None:
        """Delete; an id that is gone is no error."""
        change = Change()
        for id_ in ids:
            self._held.pop(id_, None)
            self._stored_at.pop(id_, None)
            change.delete(keys.CREDENTIALS, id_)
        self._store.commit(change)

    def publish_again(self) -> None:
        """Redis lost its data: write everything once more."""
        if self._held:
            log.info("the volatile Redis lost its data; %d role credentials are published again", len(self._held))
            self._publish(list(self._held))

    def forget_expired(self, in_use: Collection[str]) -> None:
        """Drop what nothing refreshed for a day, unless a task still has it: its containers see it expire."""
        now = time.monotonic()
        stored = self._stored_at.items()
        old = [id_ for id_, at in stored if now - at > FORGOTTEN_AFTER_SECONDS and id_ not in in_use]
        if old:
            log.info("%d role credentials that nothing refreshed for a day are forgotten", len(old))
            self.forget(old)

    def _publish(self, ids: Iterable[str]) -> None:
        for id_ in ids:
            document = self._held.get(id_)
            if document is not None:
                self._store.commit(Change().save(keys.CREDENTIALS, id_, document))
