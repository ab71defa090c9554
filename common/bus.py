"""Redis as the bus between the processes: documents, streams, change feed.

One atomic step has one name here. `Change` collects what belongs together (documents to save or delete, messages to
append, entries to acknowledge) and `Store.commit` does all of it or nothing, in one Lua script. The script remembers
the revision of the first document, so a commit that is repeated because its answer was lost changes nothing: callers
may, and `commit` does, retry until it is answered. Broken documents and messages are set aside under "aside:...",
logged, and skipped; they never stop a reader.

The interface is the same for both servers; `common.memory.MemoryStore` offers it without Redis for unit tests.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec
import redis

from common import keys
from common.backoff import Backoff
from common.errors import Temporary
from common.keys import Kind
from common.redislink import Link, connection_options

log = logging.getLogger(__name__)
T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R")
Client = Any  # redis.Redis; its annotations describe every protocol version and option at once

CALL_SECONDS = 10.0  # longest wait for one answer; `appendfsync always` on a slow disk stays far below
CALLS = 16  # at a time: their connections are kept, on both sides, and the server does one after the other
UNREACHABLE = (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError, OSError)

# ARGV: guard field, guard revision, then each command as its number of words and the words.
COMMIT_SCRIPT = """
local field, revision, at = ARGV[1], tonumber(ARGV[2]), 3
if field ~= '' then
  local have = tonumber(redis.call('HGET', 'revisions', field) or '-1')
  if have >= revision then return 0 end
  redis.call('HSET', 'revisions', field, revision)
end
while at <= #ARGV do
  local n = tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, at + n))
  at = at + n + 1
end
return 1
"""
COMMIT_SHA = hashlib.sha1(COMMIT_SCRIPT.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One message of a stream with the id by which it is acknowledged."""

    id: str
    message: T


@dataclass(frozen=True)
class FeedItem:
    """A document changed (or is gone)."""

    kind: str
    id: str
    deleted: bool


RESET = FeedItem("", "", False)  # the reader missed something: reload all documents


def encode(kind: Kind[T], document: T) -> bytes:
    """The stored form: schema version, then the document."""
    return msgspec.msgpack.encode((kind.schema, document))


def decode(kind: Kind[T], data: bytes) -> T:
    """Raises msgspec.DecodeError (or ValidationError) on anything but a document of this kind and schema."""
    schema, raw = msgspec.msgpack.decode(data, type=tuple[int, msgspec.Raw])
    if schema != kind.schema:
        raise msgspec.ValidationError(f"schema {schema} of {kind.name} is not {kind.schema}, which this version reads")
    return msgspec.msgpack.decode(raw, type=kind.type)


@dataclass
class Change:
    """What belongs together. The first document saved guards against being applied twice."""

    guard: tuple[str, int] = ("", 0)
    commands: list[tuple[Any, ...]] = field(default_factory=list)

    def save(self, kind: Kind[T], id_: str, document: T) -> Change:
        """Save a document; its `revision` must have been raised by the caller."""
        revision = int(getattr(document, "revision", 0))
        if not self.guard[0]:
            self.guard = (f"{kind.name}:{id_}", revision)
        else:
            self.commands.append(("HSET", keys.REVISIONS, f"{kind.name}:{id_}", revision))
        self.commands.append(("SET", kind.key(id_), encode(kind, document)))
        return self._announce(kind, id_, "save")

    def delete(self, kind: Kind[T], id_: str) -> Change:
        """Delete a document; deleting one that is gone is no error."""
        self.commands.append(("DEL", kind.key(id_)))
        self.commands.append(("HDEL", keys.REVISIONS, f"{kind.name}:{id_}"))
        return self._announce(kind, id_, "delete")

    def append(self, stream: str, message: msgspec.Struct) -> Change:
        """Append a message to a stream."""
        self.commands.append(("XADD", stream, "*", "m", msgspec.msgpack.encode(message)))
        return self

    def acknowledge(self, stream: str, group: str, *ids: str) -> Change:
        """Mark entries as done; they leave the stream."""
        if ids:
            self.commands.append(("XACK", stream, group, *ids))
            self.commands.append(("XDEL", stream, *ids))
        return self

    def _announce(self, kind: Kind[T], id_: str, what: str) -> Change:
        self.commands.append(
            ("XADD", keys.FEED, "MAXLEN", "~", keys.FEED_LENGTH, "*", "k", kind.name, "i", id_, "w", what)
        )
        return self

    def __bool__(self) -> bool:
        return bool(self.commands)


class Store:
    """One of the two Redis servers."""

    def __init__(self, name: str, path: str, closing: Callable[[], bool] = lambda: False) -> None:
        self.name, self.path, self.closing = name, path, closing
        self._link = Link(path, CALL_SECONDS)
        self._client: Client = redis.Redis(
            unix_socket_path=path, max_connections=512, **connection_options(CALL_SECONDS)
        )
        self._calls = threading.BoundedSemaphore(CALLS)
        self._was_down = False

    # -- calls ---------------------------------------------------------------------------------

    def call(self, action: Callable[[Client], R], deadline_seconds: float | None = None) -> R:
        """Run `action` with the library's client, again and again while the server is away.

        Raises Temporary when `deadline_seconds` have passed or the process is closing.
        """
        return self._persist(lambda: action(self._client), deadline_seconds)

    def ask(self, *words: Any, deadline_seconds: float | None = None) -> Any:
        """The same for one command, with its answer as the protocol has it: what is asked all the time."""
        return self._persist(lambda: self._link.ask(*words), deadline_seconds)

    def _persist(self, action: Callable[[], R], deadline_seconds: float | None) -> R:
        backoff = Backoff(0.02, 1.0, 2.0)
        end = None if deadline_seconds is None else time.monotonic() + deadline_seconds
        while True:
            try:
                result = self._in_turn(action, end)
                self._back()
                return result
            except UNREACHABLE as error:
                delay = backoff.delay()
                if self.closing() or (end is not None and time.monotonic() + delay > end):
                    raise Temporary(f"Redis '{self.name}' at {self.path} does not answer: {error}") from error
                self._away(error)
                time.sleep(delay)

    def _in_turn(self, action: Callable[[], R], end: float | None) -> R:
        wait = None if end is None else max(0.0, end - time.monotonic())
        if not self._calls.acquire(timeout=wait):
            raise redis.TimeoutError(f"{CALLS} calls wait for an answer already")
        try:
            return action()
        finally:
            self._calls.release()

    def _away(self, error: Exception) -> None:
        if not self._was_down:
            self._was_down = True
            log.warning("Redis '%s' does not answer (%s); waiting for it", self.name, error)

    def _back(self) -> None:
        if self._was_down:
            self._was_down = False
            log.info("Redis '%s' answers again", self.name)

    def commit(self, change: Change, deadline_seconds: float | None = None) -> bool:
        """Do everything in `change` or nothing. False when it had been done before (a repeated commit)."""
        if not change:
            return True
        words: list[Any] = [*change.guard]
        for command in change.commands:
            words += [len(command), *command]

        def run() -> bool:
            try:
                return bool(self._link.ask("EVALSHA", COMMIT_SHA, 0, *words))
            except redis.exceptions.NoScriptError:
                return bool(self._link.ask("EVAL", COMMIT_SCRIPT, 0, *words))

        return self._persist(run, deadline_seconds)

    def put(self, values: Mapping[str, bytes], deadline_seconds: float | None = None) -> None:
        """Overwrite keys (one at least) in one step, unannounced: what changes every second and is read when wanted."""
        self.ask("MSET", *(word for pair in values.items() for word in pair), deadline_seconds=deadline_seconds)

    # -- documents -----------------------------------------------------------------------------

    def get(self, kind: Kind[T], id_: str, deadline_seconds: float | None = None) -> T | None:
        """The document, or None when there is none (or it was broken and has been set aside)."""
        data = self.ask("GET", kind.key(id_), deadline_seconds=deadline_seconds)
        return None if data is None else self._decoded(kind, id_, data)

    def get_many(self, kind: Kind[T], ids: Collection[str], deadline_seconds: float | None = None) -> dict[str, T]:
        """Those of these documents that there are, by id, of one moment."""
        if not ids:
            return {}
        values = self.ask("MGET", *(kind.key(id_) for id_ in ids), deadline_seconds=deadline_seconds)
        found = {id_: self._decoded(kind, id_, data) for id_, data in zip(ids, values, strict=True) if data is not None}
        return {id_: document for id_, document in found.items() if document is not None}

    def all(self, kind: Kind[T], deadline_seconds: float | None = None) -> dict[str, T]:
        """All documents of a kind by id; broken ones are set aside."""

        def scan(client: Client) -> list[tuple[bytes, bytes]]:
            names = list(client.scan_iter(match=kind.key("*"), count=1000))
            values = client.mget(names) if names else []
            return [(n, v) for n, v in zip(names, values, strict=True) if v is not None]

        prefix = len(kind.key(""))
        found: dict[str, T] = {}
        for name, data in self.call(scan, deadline_seconds):
            id_ = name.decode()[prefix:]
            document = self._decoded(kind, id_, data)
            if document is not None:
                found[id_] = document
        return found

    def _decoded(self, kind: Kind[T], id_: str, data: bytes) -> T | None:
        try:
            return decode(kind, data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            aside = f"aside:{kind.name}:{id_}"
            log.error("document %s %s cannot be read (%s); set aside as %s", kind.name, id_, error, aside)
            self.call(lambda c: c.set(aside, data))
            self.call(lambda c: c.delete(kind.key(id_)))
            self.call(lambda c: c.hdel(keys.REVISIONS, f"{kind.name}:{id_}"))
            return None

    # -- whether the server kept its data ------------------------------------------------------

    def epoch(self, deadline_seconds: float | None = None) -> str:
        """A random text that changes only when the server lost its data."""

        def read(client: Client) -> str:
            client.set(keys.EPOCH, secrets.token_hex(8), nx=True)
            return client.get(keys.EPOCH).decode()

        return self.call(read, deadline_seconds)

    # -- streams -------------------------------------------------------------------------------

    def consumer(self, stream: str, group: str, type_: Any) -> Consumer:
        """A consumer of `stream` for messages of the (union) type `type_`."""
        return Consumer(self, stream, group, type_)

    def feed(self) -> FeedReader:
        """A reader of the change feed, from now on."""
        return FeedReader(self)

    def blocking_link(self) -> Link:
        """A link of its own for blocking reads, without a read time-out."""
        return Link(self.path, None, again=False)


class Consumer:
    """Reads one stream for one group, at least once: first what was delivered and not acknowledged, then the rest."""

    def __init__(self, store: Store, stream: str, group: str, type_: Any) -> None:
        self.store, self.stream, self.group = store, stream, group
        self._decoder = msgspec.msgpack.Decoder(type_)
        self._link = store.blocking_link()
        self._after = "0"  # ids after this among the unacknowledged; ">" once they are through

    def read(self, block_seconds: float = 5.0, count: int = 100) -> list[Entry[Any]]:
        """The next messages in order, or [] after `block_seconds` or when Redis was away."""
        try:
            reply = self._link.ask(
                "XREADGROUP", "GROUP", self.group, "agent", "COUNT", count, "BLOCK", max(1, int(block_seconds * 1000)),
                "STREAMS", self.stream, self._after,
            )  # fmt: skip
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            self._make_group()
            return []
        except UNREACHABLE as error:
            self.store._away(error)
            time.sleep(0.1)
            self._after = "0"  # an answer may have been lost on the way: what it held is still unacknowledged
            return []
        self.store._back()
        raw = reply[0][1] if reply else []
        if self._after != ">":
            self._after = raw[-1][0].decode() if raw else ">"
        return list(self._entries(raw))

    def _entries(self, raw: Iterable[Any]) -> Iterator[Entry[Any]]:
        for id_, fields in raw:
            try:
                yield Entry(id_.decode(), self._decoder.decode(fields[1]))
            except (msgspec.DecodeError, IndexError, TypeError) as error:
                self._set_aside(id_.decode(), fields, error)

    def _set_aside(self, id_: str, fields: Any, error: Exception) -> None:
        log.error("message %s of %s cannot be read (%s); set aside", id_, self.stream, error)
        change = Change().acknowledge(self.stream, self.group, id_)
        change.commands.append(("HSET", f"aside:{self.stream}", id_, (fields or [b"", b""])[1]))
        self.store.commit(change)

    def _make_group(self) -> None:
        def make(client: Client) -> None:
            try:
                client.xgroup_create(self.stream, self.group, "0", mkstream=True)
            except redis.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

        self.store.call(make)

    def acknowledge(self, *ids: str) -> None:
        """Mark entries as done, outside of any other change."""
        self.store.commit(Change().acknowledge(self.stream, self.group, *ids))


class FeedReader:
    """Follows the change feed of one server. The first read, and any that missed something, says RESET."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._link = store.blocking_link()
        self._last = ""

    def read(self, block_seconds: float = 5.0, count: int = 1000) -> list[FeedItem]:
        """The next changes; [RESET] when all documents must be read anew; [] when nothing happened."""
        try:
            if not self._last:
                return self._start()
            block = max(1, int(block_seconds * 1000))
            reply = self._link.ask("XREAD", "COUNT", count, "BLOCK", block, "STREAMS", keys.FEED, self._last)
            if reply and len(reply[0][1]) == count and self._trimmed():
                return self._start()
            if not reply and self._rewound():
                return self._start()
        except (redis.ResponseError, *UNREACHABLE) as error:
            self.store._away(error)
            time.sleep(0.1)
            self._last = ""
            return []
        self.store._back()
        entries = reply[0][1] if reply else []
        if entries:
            self._last = entries[-1][0].decode()
        return [FeedItem(f[1].decode(), f[3].decode(), f[5] == b"delete") for _, f in entries]

    def _start(self) -> list[FeedItem]:
        self._last = self._newest()
        self.store._back()
        return [RESET]

    def _newest(self) -> str:
        newest = self._link.ask("XREVRANGE", keys.FEED, "+", "-", "COUNT", 1)
        return newest[0][0].decode() if newest else "0-0"

    def _trimmed(self) -> bool:
        oldest = self._link.ask("XRANGE", keys.FEED, "-", "+", "COUNT", 1)
        return bool(oldest) and _ordinal(oldest[0][0].decode()) > _ordinal(self._last)

    def _rewound(self) -> bool:
        return _ordinal(self._newest()) < _ordinal(self._last)


def _ordinal(id_: str) -> tuple[int, int]:
    milliseconds, _, sequence = id_.partition("-")
    return int(milliseconds), int(sequence or 0)


class Bus:
    """Both servers of one agent."""

    def __init__(self, run_dir: str, closing: Callable[[], bool] = lambda: False) -> None:
        self.durable = Store("durable", f"{run_dir}/redis.sock", closing)
        self.volatile = Store("volatile", f"{run_dir}/secrets.sock", closing)

    def store(self, kind: Kind[T]) -> Store:
        """The server that holds documents of `kind`."""
        return self.durable if kind.store == "durable" else self.volatile
