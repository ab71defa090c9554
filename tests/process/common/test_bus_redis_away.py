"""What the bus does while Redis is away; real redis-server, killed and started again."""

from __future__ import annotations

import time

import gevent
import pytest

from common import keys
from common.bus import RESET, Bus, Change
from common.errors import Temporary
from common.model.agent import Sent, Session
from common.model.messages import Event, TaskChanged
from common.model.status import TaskStatus
from common.model.task import Task


def test_a_commit_waits_for_redis_and_is_then_done_once(run_dir, redis_servers):
    """A killed store delays its users; what was acknowledged before is still there afterwards."""
    durable, _ = redis_servers
    bus = Bus(str(run_dir))
    bus.durable.commit(Change().save(keys.TASK, "a", Task(arn="a", revision=1)))
    durable.kill()
    later = gevent.spawn(bus.durable.commit, Change().save(keys.TASK, "b", Task(arn="b", revision=1)))
    gevent.sleep(0.2)
    assert not later.ready()
    durable.start()
    assert later.get(timeout=5) is True
    assert set(bus.durable.all(keys.TASK)) == {"a", "b"}


def test_a_call_with_a_deadline_gives_up_with_a_clear_text(run_dir):
    """Readers that can do without an answer must not wait for ever."""
    bus = Bus(str(run_dir))
    with pytest.raises(Temporary, match=r"Redis 'durable' at .* does not answer"):
        bus.durable.get(keys.TASK, "a", deadline_seconds=0.1)


def test_a_consumer_goes_on_after_redis_was_killed(run_dir, redis_servers):
    """Unacknowledged messages come again, later ones follow; nothing is lost."""
    durable, _ = redis_servers
    bus = Bus(str(run_dir))
    consumer = bus.durable.consumer(keys.EVENTS, "acs", Event)
    bus.durable.commit(Change().append(keys.EVENTS, TaskChanged(arn="1", status=TaskStatus.RUNNING)))
    assert [e.message.arn for _ in range(3) for e in consumer.read(0.1)] == ["1"]
    durable.kill()
    assert consumer.read(0.1) == []
    durable.start()
    bus.durable.commit(Change().append(keys.EVENTS, TaskChanged(arn="2", status=TaskStatus.RUNNING)))
    seen = [e.message.arn for _ in range(6) for e in consumer.read(0.1)]
    assert seen == ["1", "2"]


def test_a_connection_that_died_with_its_server_costs_no_wait(run_dir, redis_servers, caplog):
    """Kept connections are of the server that was; the next command goes to the one that is, and nobody is warned."""
    durable, _ = redis_servers
    bus = Bus(str(run_dir))
    gevent.joinall([gevent.spawn(bus.durable.get, keys.SENT, "a") for _ in range(8)], raise_error=True)
    durable.kill()
    durable.start()
    began = time.monotonic()
    assert bus.durable.commit(Change().save(keys.SENT, "a", Sent(revision=1)))
    assert bus.durable.get(keys.SENT, "a") == Sent(revision=1)
    assert time.monotonic() - began < 1.0
    assert "does not answer" not in caplog.text


def test_a_reader_that_was_cut_off_gives_no_answer_of_the_command_before(run_dir, redis_servers):
    """A command that was given up leaves its answer on its connection; nobody may get it for the next command."""
    bus = Bus(str(run_dir))
    bus.durable.commit(Change().save(keys.SENT, "a", Sent(revision=1)))
    bus.durable.commit(Change().save(keys.SENT, "b", Sent(revision=2)))
    for seconds in (0.0, 0.0001, 0.0002, 0.0005):
        given_up = gevent.spawn(bus.durable.get, keys.SENT, "a")
        gevent.sleep(seconds)
        given_up.kill()
        assert bus.durable.get(keys.SENT, "b") == Sent(revision=2)


def test_a_feed_reader_reloads_after_the_volatile_store_lost_its_data(run_dir, redis_servers):
    """Memory-only data is gone after a kill: the reader must ask anew, the writer sees another epoch."""
    _, volatile = redis_servers
    bus = Bus(str(run_dir))
    feed = bus.volatile.feed()
    assert feed.read(0.1) == [RESET]
    before = bus.volatile.epoch()
    bus.volatile.commit(Change().save(keys.SESSION, "acs", Session(revision=1, connected=True)))
    assert len(feed.read(0.5)) == 1
    volatile.kill()
    volatile.start()
    assert bus.volatile.epoch() != before
    items = [item for _ in range(5) for item in feed.read(0.1)]
    assert RESET in items
    assert bus.volatile.get(keys.SESSION, "acs") is None


def test_a_feed_reader_notices_a_server_that_was_replaced_between_two_reads(run_dir, redis_servers):
    """The new server's entries look like a continuation of the old one's."""
    _, volatile = redis_servers
    bus = Bus(str(run_dir))
    feed = bus.volatile.feed()
    assert feed.read(0.05) == [RESET]
    bus.volatile.commit(Change().save(keys.SESSION, "a", Session(revision=1)))
    assert [i.id for i in feed.read(0.05)] == ["a"]
    volatile.kill()
    volatile.start()
    bus.volatile.commit(Change().save(keys.SESSION, "b", Session(revision=1)))
    assert [item for _ in range(2) for item in feed.read(0.05)] == [RESET]
    assert feed.read(0.05) == []
    bus.volatile.commit(Change().save(keys.SESSION, "c", Session(revision=1)))
    assert [i.id for i in feed.read(0.05)] == ["c"]


def test_the_durable_store_keeps_its_epoch_across_a_kill(run_dir, redis_servers):
    """A restart with the data still there must not make anybody publish everything again."""
    durable, _ = redis_servers
    bus = Bus(str(run_dir))
    before = bus.durable.epoch()
    durable.kill()
    durable.start()
    assert bus.durable.epoch() == before
