"""Keeps the view up to date from both Redis servers.

One greenlet per server reads its feed and fetches what changed. Under one lock per server a document is read and put
into the view in one go, so that a slow read never overwrites a newer one; the feed only says where to look, what is
there when we look counts. A server that lost its data (another epoch) takes nothing away at once: its writer publishes
again from memory, and until then the old documents are the best ones there are.

A request that finds nothing may look once more, because the engine has committed the document before the container
starts but the feed can be a millisecond behind. Such looks are limited in number, shared, and given up after
LOOK_SECONDS; after a failure none is made for a second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import Any, Protocol, TypeVar

import gevent
import gevent.event
import gevent.lock
import msgspec
import redis

from common import keys
from common.bus import RESET, FeedItem
from common.errors import Temporary
from common.keep import keep
from common.keys import CREDENTIALS, FACTS, INSTANCE, SESSION, STATS, TASK, Kind
from services.endpoint.throttle import Bucket
from services.endpoint.view import View

log = logging.getLogger(__name__)
T = TypeVar("T", bound=msgspec.Struct)

LOOK_SECONDS = 0.2  # longest wait of one request for Redis
LOOK_RATE, LOOK_BURST = 200.0, 200.0  # looks per second for what is not in the view; one costs 0.3 ms
LOOKS_AT_ONCE = 64  # reads under way; more than that means that Redis hangs
LOOK_RECENT = 64  # entries of the feed to examine for a task that is not in the view yet
REST_SECONDS = 1.0  # after Redis failed a request
STATS_SECONDS = 0.5  # age from which stats are read again before they are served
CARRY_SECONDS = 60.0  # how long documents outlive a server that lost them
BLOCK_SECONDS = 5.0
CROWD_RATE, CROWD_BURST = 10.0, 20.0  # reads per second of the durable feed, when tasks change all the time
CROWD_PAUSE_SECONDS = 0.1  # a read then takes in all that changed meanwhile
VOLATILE_PAUSE_SECONDS = 0.05  # so that a burst of stats is one read; new credentials are found by a second look


class FeedLike(Protocol):
    """A reader of one change feed."""

    def read(self, block_seconds: float = ..., count: int = ...) -> list[FeedItem]: ...


class Follower:
    """Follows one server. `apply[kind.name](id, document or None)` puts a document into the view."""

    def __init__(self, store: Any, kinds: tuple[Kind[Any], ...], apply: dict[str, Callable[[str, Any], None]],
                 held: Callable[[str], set[str]], pause_seconds: float = 0.0) -> None:  # fmt: skip
        self.store, self.kinds, self.apply, self.held = store, {k.name: k for k in kinds}, apply, held
        self.pause_seconds = pause_seconds
        self._calm = Bucket(CROWD_RATE, CROWD_BURST)
        self.loaded = gevent.event.Event()
        self.lock = gevent.lock.BoundedSemaphore(1)
        self._epoch = ""
        self.rest_until = float("-inf")  # no looks before: the last one failed
        self._examined: bytes = b"-"  # newest entry of the feed that a look has seen
        self._greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        """Begin to follow."""
        self._greenlets.append(gevent.spawn(keep, f"following Redis '{self.store.name}'", self._run, _pause))

    def stop(self) -> None:
        """Stop following; the view stays as it is."""
        gevent.killall(self._greenlets, block=False)

    def alive(self) -> bool:
        """Whether the feed is being followed."""
        return any(self._greenlets)

    def _run(self) -> None:
        feed: FeedLike = self.store.feed()  # a new one says first that everything must be read
        while True:
            self._take(feed.read(BLOCK_SECONDS))
            crowded = not self._calm.take(time.monotonic())
            gevent.sleep(CROWD_PAUSE_SECONDS if crowded else self.pause_seconds)

    def _take(self, items: list[FeedItem]) -> None:
        if RESET in items:
            self.reload()
            return
        wanted: dict[str, list[str]] = {}
        for kind, id_ in dict.fromkeys((i.kind, i.id) for i in items if i.kind in self.apply):
            wanted.setdefault(kind, []).append(id_)
        for kind, ids in wanted.items():
            with self.lock:
                self._refresh(kind, ids)

    def _refresh(self, kind: str, ids: Collection[str], deadline_seconds: float | None = None) -> None:
        # A kind that is not read is only noted as changed.
        read = self.store.get_many(self.kinds[kind], ids, deadline_seconds) if kind in self.kinds else {}
        for id_ in ids:
            self.apply[kind](id_, read.get(id_))

    def reload(self) -> None:
        """Read all documents. What a server that lost its data no longer has is kept for CARRY_SECONDS."""
        with self.lock:
            epoch = self.store.epoch()
            carry = bool(self._epoch) and epoch != self._epoch
            self._epoch, self._examined = epoch, b"-"
            for kind in self.kinds.values():
                self._replace(kind, carry)
        if carry:
            log.warning("Redis '%s' lost its data; what it told before is served for %.0f s more",
                        self.store.name, CARRY_SECONDS)  # fmt: skip
            self._greenlets.append(gevent.spawn_later(CARRY_SECONDS, self.reload))
        self.loaded.set()

    def _replace(self, kind: Kind[Any], carry: bool) -> None:
        documents = self.store.all(kind)
        for id_, document in documents.items():
            self.apply[kind.name](id_, document)
        if not carry:
            for id_ in self.held(kind.name) - documents.keys():
                self.apply[kind.name](id_, None)

    def look(self, kind: Kind[Any], id_: str) -> None:
        """Read one document now. Raises Temporary."""
        with self.lock:
            self._refresh(kind.name, (id_,), LOOK_SECONDS)

    def look_at_recent(self, kind: Kind[Any]) -> None:
        """Read the documents of `kind` that changed since the last look. Raises Temporary."""

        def newest(client: redis.Redis) -> Any:
            return client.xrevrange(keys.FEED, min=self._examined, count=LOOK_RECENT)

        with self.lock:
            entries = [(id_, f) for id_, f in self.store.call(newest, LOOK_SECONDS) if id_ != self._examined]
            changed = dict.fromkeys(f[b"i"].decode() for _, f in entries if f.get(b"k") == kind.name.encode())
            self._refresh(kind.name, changed, LOOK_SECONDS)
            if entries:
                self._examined = entries[0][0]


def _pause(seconds: float) -> bool:
    gevent.sleep(seconds)
    return True


class Source:
    """The view with its two followers, and the second look of a request that found nothing."""

    def __init__(self, view: View, durable: Any, volatile: Any, now: Callable[[], float] = time.monotonic) -> None:
        self.view, self.now = view, now
        self.durable = Follower(durable, (INSTANCE, FACTS, TASK), self._durable_apply(), self._held)
        # Stats change every second and are rarely asked for: they are only noted here, and read on request.
        kinds = (CREDENTIALS, SESSION)
        self.volatile = Follower(volatile, kinds, self._volatile_apply(), self._held, VOLATILE_PAUSE_SECONDS)
        self.changed = gevent.event.Event()  # a task or the instance changed; whoever waits for it clears it
        self.registered = gevent.event.Event()  # the instance has an ARN
        self._budget = Bucket(LOOK_RATE, LOOK_BURST)
        self._looks: dict[tuple[str, str], gevent.Greenlet] = {}

    def start(self) -> None:
        """Begin to follow both servers."""
        self.durable.start()
        self.volatile.start()

    def stop(self) -> None:
        """Stop following both servers."""
        self.durable.stop()
        self.volatile.stop()

    def alive(self) -> bool:
        """Whether both feeds are being followed."""
        return self.durable.alive() and self.volatile.alive()

    @property
    def complete(self) -> bool:
        """Whether all tasks were read since the start; until then what is not found may exist."""
        return self.durable.loaded.is_set()

    def _durable_apply(self) -> dict[str, Callable[[str, Any], None]]:
        return {TASK.name: self._apply_task, INSTANCE.name: self._apply_instance, FACTS.name: self._apply_facts}

    def _volatile_apply(self) -> dict[str, Callable[[str, Any], None]]:
        return {
            CREDENTIALS.name: self._apply_credentials,
            STATS.name: self._note_stats,
            SESSION.name: self._apply_session,
        }

    def _apply_task(self, arn: str, task: Any) -> None:
        current = self.view.tasks.get(arn)
        if task is None:
            self.view.remove_task(arn)
        elif current is None or current.task != task:
            self.view.set_task(task)
        else:
            return
        self.changed.set()

    def _apply_instance(self, _id: str, instance: Any) -> None:
        # Without an instance document the agent is registering anew; its tasks still run under the old one.
        if instance is not None and instance != self.view.instance:
            self.view.set_instance(instance)
            self.changed.set()
            if instance.arn:
                self.registered.set()
            else:
                self.registered.clear()

    def _apply_facts(self, _id: str, facts: Any) -> None:
        if facts is not None:
            self.view.facts = facts

    def _apply_credentials(self, id_: str, credentials: Any) -> None:
        if credentials is None:
            self.view.remove_credentials(id_)
        else:
            self.view.set_credentials(id_, credentials)

    def _apply_session(self, name: str, session: Any) -> None:
        if session is not None:
            self.view.sessions[name] = session

    def _note_stats(self, arn: str, _stats: Any) -> None:
        entry = self.view.stats.get(arn)
        if entry is not None:
            entry.changed = True

    def _held(self, kind: str) -> set[str]:
        if kind == TASK.name:
            return set(self.view.tasks)
        if kind == CREDENTIALS.name:
            # What a task still names was not released: it is missing because the server lost it.
            return set(self.view.credentials) - self.view.known_credentials.keys()
        return set()

    # -- a second look -----------------------------------------------------------------------------

    def look_for_tasks(self) -> bool:
        """Something was not found: read the tasks that changed last. False when nothing was read."""
        return self._look(self.durable, ("task", ""), lambda: self.durable.look_at_recent(TASK))

    def look_for_task(self, arn: str) -> bool:
        """Read one task by its ARN. False when nothing was read."""
        return self._look(self.durable, ("task", arn), lambda: self.durable.look(TASK, arn))

    def look_for_credentials(self, id_: str) -> bool:
        """Read credentials by their id. False when nothing was read."""
        return self._look(self.volatile, ("credentials", id_), lambda: self.volatile.look(CREDENTIALS, id_))

    def fresh_stats(self, arn: str) -> None:
        """See to it that the stats in the view are of this second, as far as Redis tells within the deadline."""
        entry, now = self.view.stats_of(arn), self.now()
        age = now - entry.read_at
        if age < STATS_SECONDS and not (entry.changed and age > STATS_SECONDS / 5):
            return
        self._look(self.volatile, ("stats", arn), lambda: self._read_stats(arn), shared=True)

    def _read_stats(self, arn: str) -> None:
        stats = self.volatile.store.get(STATS, arn, LOOK_SECONDS)
        if arn in self.view.tasks:
            self.view.set_stats(arn, stats, self.now())

    def _look(self, follower: Follower, key: tuple[str, str], read: Callable[[], None], shared: bool = False) -> bool:
        """Run `read` and wait for it, LOOK_SECONDS at most. `shared`: one that is already under way will do."""
        now = self.now()
        if not follower.loaded.is_set() or now < follower.rest_until or len(self._looks) >= LOOKS_AT_ONCE:
            return False
        running = self._looks.get(key)
        if running is not None:
            running.join(LOOK_SECONDS)
            # It may have read just before what this request waits for, so another one follows.
            if shared or key in self._looks:
                return True
        if not shared and not self._budget.take(now):
            return running is not None
        greenlet = self._looks[key] = gevent.spawn(self._guarded, follower, key, read)
        greenlet.join(LOOK_SECONDS)
        if not greenlet.ready():
            # The read goes on in the background; cutting it off would spoil its connection.
            follower.rest_until = self.now() + REST_SECONDS
        return bool(greenlet.ready() and greenlet.value)

    def _guarded(self, follower: Follower, key: tuple[str, str], read: Callable[[], None]) -> bool:
        try:
            read()
            return True
        except (Temporary, redis.RedisError) as error:
            log.debug("a second look at Redis for a %s failed: %s", key[0], error)
            follower.rest_until = self.now() + REST_SECONDS
            return False
        finally:
            self._looks.pop(key, None)
