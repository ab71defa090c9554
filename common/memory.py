"""A store without Redis, for unit tests: the same interface and the same promises, in memory.

The tests of the bus run against this and against real Redis, so the two cannot drift apart.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

import gevent
import gevent.event
import msgspec

from common import keys
from common.bus import RESET, Change, Entry, FeedItem, decode
from common.keys import Kind

log = logging.getLogger(__name__)
T = TypeVar("T", bound=msgspec.Struct)


class MemoryStore:
    """Documents, streams and feed in dictionaries; blocking reads wait for a commit."""

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.data: dict[str, Any] = {}
        self.revisions: dict[str, int] = {}
        self.streams: dict[str, dict[str, Any]] = {}
        self.pending: dict[tuple[str, str], set[str]] = {}
        self.aside: list[str] = []
        self._ids = itertools.count(1)
        self._changed = gevent.event.Event()
        self._epoch = "memory"

    def commit(self, change: Change, deadline_seconds: float | None = None) -> bool:
        """Do everything in `change`, unless its guard shows that it was done before."""
        name, revision = change.guard
        if name:
            if self.revisions.get(name, -1) >= revision:
                return False
            self.revisions[name] = revision
        for command in change.commands:
            self._run(command)
        self._changed.set()
        return True

    def _run(self, command: tuple[Any, ...]) -> None:
        verb, key, *rest = command
        if verb == "SET":
            self.data[key] = rest[0]
        elif verb == "DEL":
            self.data.pop(key, None)
        elif verb == "HSET" and key == keys.REVISIONS:
            self.revisions[rest[0]] = int(rest[1])
        elif verb == "HDEL":
            self.revisions.pop(rest[0], None)
        elif verb == "HSET":
            self.aside.append(str(rest[0]))
        elif verb == "XADD":
            pairs = rest[rest.index("*") + 1 :]
            self.streams.setdefault(key, {})[f"{next(self._ids)}-0"] = dict(zip(pairs[::2], pairs[1::2], strict=True))
        elif verb == "XACK":
            for id_ in rest[1:]:
                self.pending.get((key, rest[0]), set()).discard(id_)
        elif verb == "XDEL":
            for id_ in rest:
                self.streams.get(key, {}).pop(id_, None)
        else:
            raise ValueError(f"the store in memory does not know {verb}")

    def put(self, values: Mapping[str, bytes], deadline_seconds: float | None = None) -> None:
        """Overwrite keys without announcing it."""
        self.data.update(values)

    def get(self, kind: Kind[T], id_: str, deadline_seconds: float | None = None) -> T | None:
        """The document, or None."""
        data = self.data.get(kind.key(id_))
        return None if data is None else self._decoded(kind, id_, data)

    def get_many(self, kind: Kind[T], ids: Collection[str], deadline_seconds: float | None = None) -> dict[str, T]:
        """Those of these documents that there are, by id."""
        found = {id_: self.get(kind, id_, deadline_seconds) for id_ in ids}
        return {id_: document for id_, document in found.items() if document is not None}

    def all(self, kind: Kind[T], deadline_seconds: float | None = None) -> dict[str, T]:
        """All documents of a kind by id; broken ones are set aside."""
        prefix = kind.key("")
        found = {}
        for key, data in list(self.data.items()):
            if key.startswith(prefix):
                document = self._decoded(kind, key[len(prefix) :], data)
                if document is not None:
                    found[key[len(prefix) :]] = document
        return found

    def _decoded(self, kind: Kind[T], id_: str, data: bytes) -> T | None:
        try:
            return decode(kind, data)
        except msgspec.DecodeError as error:
            log.error("document %s %s cannot be read (%s); set aside", kind.name, id_, error)
            self.aside.append(kind.key(id_))
            self.data.pop(kind.key(id_))
            self.revisions.pop(f"{kind.name}:{id_}", None)
            return None

    def epoch(self, deadline_seconds: float | None = None) -> str:
        """Changes when `lose_everything` was called."""
        return self._epoch

    def lose_everything(self) -> None:
        """What a restart of a server without persistence does."""
        self.data.clear()
        self.revisions.clear()
        self.streams.clear()
        self.pending.clear()
        self._epoch += "'"

    def consumer(self, stream: str, group: str, type_: Any) -> MemoryConsumer:
        """A consumer of `stream`."""
        return MemoryConsumer(self, stream, group, type_)

    def feed(self) -> MemoryFeed:
        """A reader of the change feed."""
        return MemoryFeed(self)

    def wait(self, seconds: float) -> None:
        """Until something was committed, or `seconds` have passed."""
        self._changed.clear()
        self._changed.wait(seconds)


class MemoryConsumer:
    """Delivers each entry once to this group until it is acknowledged; a new consumer sees the unacknowledged again."""

    def __init__(self, store: MemoryStore, stream: str, group: str, type_: Any) -> None:
        self.store, self.stream, self.group = store, stream, group
        self._decoder = msgspec.msgpack.Decoder(type_)
        self._delivered: set[str] = set()

    def read(self, block_seconds: float = 5.0, count: int = 100) -> list[Entry[Any]]:
        """The next messages in order."""
        if not self._fresh():
            self.store.wait(block_seconds)
        return list(self._entries(self._fresh()[:count]))

    def _fresh(self) -> list[str]:
        return [id_ for id_ in self.store.streams.get(self.stream, {}) if id_ not in self._delivered]

    def _entries(self, ids: list[str]) -> Iterator[Entry[Any]]:
        for id_ in ids:
            self._delivered.add(id_)
            try:
                yield Entry(id_, self._decoder.decode(self.store.streams[self.stream][id_]["m"]))
            except msgspec.DecodeError:
                self.store.aside.append(f"{self.stream}:{id_}")
                self.store.streams[self.stream].pop(id_)

    def acknowledge(self, *ids: str) -> None:
        """Mark entries as done."""
        self.store.commit(Change().acknowledge(self.stream, self.group, *ids))


class MemoryFeed:
    """Follows the feed of a MemoryStore."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self._seen: int | None = None

    def read(self, block_seconds: float = 5.0, count: int = 1000) -> list[FeedItem]:
        """The next changes; [RESET] first."""
        entries = list(self.store.streams.get(keys.FEED, {}).values())
        if self._seen is None or self._seen > len(entries):
            self._seen = len(entries)
            return [RESET]
        if self._seen == len(entries):
            self.store.wait(block_seconds)
            entries = list(self.store.streams.get(keys.FEED, {}).values())
        fresh = entries[self._seen : self._seen + count]
        self._seen += len(fresh)
        return [FeedItem(e["k"], e["i"], e["w"] == "delete") for e in fresh]


class MemoryBus:
    """Both servers of one agent, without Redis."""

    def __init__(self) -> None:
        self.durable, self.volatile = MemoryStore("durable"), MemoryStore("volatile")

    def store(self, kind: Kind[T]) -> MemoryStore:
        """The server that holds documents of `kind`."""
        return self.durable if kind.store == "durable" else self.volatile
