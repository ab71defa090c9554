"""Following the change feed: each change at once, and not one read for each when tasks change all the time."""

from __future__ import annotations

import time

import gevent

from common import keys
from common.bus import Change
from common.errors import Temporary
from common.memory import MemoryFeed, MemoryStore
from common.model.task import Task
from services.endpoint.follow import CROWD_BURST, CROWD_PAUSE_SECONDS, Follower


class Feed(MemoryFeed):
    """Counts how often it is read."""

    reads = 0

    def read(self, block_seconds: float = 5.0, count: int = 1000):
        """See the base."""
        Feed.reads += 1
        return super().read(block_seconds, count)


class Store(MemoryStore):
    """Gives out such a feed."""

    def feed(self) -> Feed:
        """See the base."""
        Feed.reads = 0
        return Feed(self)

    def change(self, number: int) -> None:
        """Save one of three tasks."""
        task = Task(arn=f"t{number % 3}", revision=number)
        self.commit(Change().save(keys.TASK, task.arn, task))


def following(store: Store) -> tuple[Follower, dict[str, int]]:
    """A follower at work, and the revisions that it has taken in."""
    seen: dict[str, int] = {}
    follower = Follower(
        store, (keys.TASK,), {"task": lambda id_, task: seen.update({id_: task.revision})}, lambda _: set()
    )
    follower.start()
    follower.loaded.wait(1)
    return follower, seen


def test_a_change_is_taken_in_at_once(eventually):
    """A task that starts changes six times: no pause lies between any of them and the view."""
    store = Store()
    follower, seen = following(store)
    began = time.monotonic()
    for number in range(6):
        store.change(number)
        eventually(lambda number=number: seen.get(f"t{number % 3}") == number, pause=0.001)
    assert time.monotonic() - began < 3 * CROWD_PAUSE_SECONDS, "with a pause after each it would be five at least"
    assert seen == {"t0": 3, "t1": 4, "t2": 5}
    follower.stop()


def test_a_crowd_of_changes_is_taken_in_together(eventually):
    """Two hundred changes within 0.4 s cost a fraction of the reads, and none is missed."""
    store = Store()
    follower, seen = following(store)
    for number in range(200):
        store.change(number)
        gevent.sleep(0.002)
    eventually(lambda: seen == {"t0": 198, "t1": 199, "t2": 197}, seconds=2)
    assert Feed.reads < 2 * CROWD_BURST
    follower.stop()


def test_a_change_that_cannot_be_taken_over_is_read_anew(eventually):
    """Whatever it is: a view that stands still would be worse."""
    store = Store()
    follower, seen = following(store)
    take, fails = follower.apply["task"], [Temporary("away"), KeyError("nobody foresaw this")]

    def apply(id_, task):
        if fails:
            raise fails.pop()
        take(id_, task)

    follower.apply["task"] = apply
    store.change(7)
    eventually(lambda: seen.get("t1") == 7, seconds=5)
    assert follower.alive()
    follower.stop()
