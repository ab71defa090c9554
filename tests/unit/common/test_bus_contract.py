"""The promises of the bus, kept by real Redis and by the one in memory alike."""

from __future__ import annotations

import msgspec
import pytest

from common import keys
from common.bus import RESET, Bus, Change, FeedItem, encode
from common.memory import MemoryBus
from common.model.agent import TaskStats
from common.model.messages import Event, TaskChanged
from common.model.status import TaskStatus
from common.model.task import Container, Task

ARN = "arn:aws:ecs:us-west-2:123456789012:task/default/0123456789abcdef0123456789abcdef"


@pytest.fixture(params=["memory", "redis"])
def bus(request):
    """The one in memory, then real Redis."""
    if request.param == "memory":
        return MemoryBus()
    request.getfixturevalue("redis_servers")
    return Bus(str(request.getfixturevalue("run_dir")))


def task(revision: int = 1) -> Task:
    return Task(arn=ARN, revision=revision, family="web", containers=(Container(name="a", environment={"A": "é"}),))


def running() -> TaskChanged:
    return TaskChanged(arn=ARN, status=TaskStatus.RUNNING)


def test_a_document_comes_back_as_it_was_saved(bus):
    """The codec loses nothing, and absent members come back as their defaults."""
    bus.durable.commit(Change().save(keys.TASK, ARN, task()))
    assert bus.durable.get(keys.TASK, ARN) == task()
    assert bus.durable.all(keys.TASK) == {ARN: task()}


def test_several_documents_are_read_at_once(bus):
    """Those that are there; one that cannot be read is set aside and hides no other."""
    others = [task(), Task(arn="b", revision=1), Task(arn="broken", revision=1)]
    change = Change()
    for one in others:
        change.save(keys.TASK, one.arn, one)
    bus.durable.commit(change)
    bus.durable.put({keys.TASK.key("broken"): b"\xc1"})
    assert bus.durable.get_many(keys.TASK, ["nobody", "b", "broken", ARN]) == {"b": others[1], ARN: others[0]}
    assert bus.durable.get_many(keys.TASK, []) == bus.durable.get_many(keys.TASK, ["broken"]) == {}


def test_what_is_put_is_there_and_nobody_is_told(bus):
    """For documents that change every second: many at once, whatever their size, and nothing in the feed."""
    feed = bus.volatile.feed()
    assert feed.read(0.05) == [RESET]
    large = "é" * 100_000
    documents = {f"{ARN}{n}": TaskStats(revision=1, arn=large if n else "small") for n in range(3)}
    for _ in range(2):
        bus.volatile.put({keys.STATS.key(arn): encode(keys.STATS, d) for arn, d in documents.items()})
    assert bus.volatile.all(keys.STATS) == documents
    assert feed.read(0.05) == []


def test_a_document_and_its_event_are_saved_together_and_only_once(bus):
    """A commit whose answer was lost is repeated; the event must not be there twice."""
    change = Change().save(keys.TASK, ARN, task()).append(keys.EVENTS, running())
    assert bus.durable.commit(change) is True
    assert bus.durable.commit(change) is False
    consumer = bus.durable.consumer(keys.EVENTS, "acs", Event)
    messages = [entry.message for _ in range(3) for entry in consumer.read(0.05)]
    assert messages == [running()]


def test_an_unacknowledged_message_is_delivered_to_the_next_consumer(bus):
    """A process that dies between reading and acting must not lose the message."""
    bus.durable.commit(Change().append(keys.EVENTS, running()))
    first = bus.durable.consumer(keys.EVENTS, "acs", Event)
    assert [e.message for _ in range(3) for e in first.read(0.05)] == [running()]
    second = bus.durable.consumer(keys.EVENTS, "acs", Event)
    entries = [e for _ in range(3) for e in second.read(0.05)]
    assert [e.message for e in entries] == [running()]
    second.acknowledge(*[e.id for e in entries])
    third = bus.durable.consumer(keys.EVENTS, "acs", Event)
    assert [e for _ in range(3) for e in third.read(0.05)] == []


def test_messages_arrive_in_the_order_of_their_commits(bus):
    """Reports of one task must not overtake each other."""
    for number in range(20):
        bus.durable.commit(Change().append(keys.EVENTS, TaskChanged(arn=str(number), status=TaskStatus.RUNNING)))
    consumer = bus.durable.consumer(keys.EVENTS, "acs", Event)
    arns = [e.message.arn for _ in range(10) for e in consumer.read(0.05, count=7)]
    assert arns == [str(n) for n in range(20)]


def test_the_feed_says_reset_first_and_then_what_changed(bus):
    """A reader that has just started cannot know what it missed."""
    bus.durable.commit(Change().save(keys.TASK, ARN, task()))
    feed = bus.durable.feed()
    assert feed.read(0.05) == [RESET]
    bus.durable.commit(Change().save(keys.TASK, ARN, task(2)))
    bus.durable.commit(Change().delete(keys.TASK, ARN))
    assert feed.read(0.5) == [FeedItem("task", ARN, False), FeedItem("task", ARN, True)]


def test_a_deleted_document_can_be_created_again_from_revision_one(bus):
    """The guard must not outlive the document."""
    bus.durable.commit(Change().save(keys.TASK, ARN, task(7)))
    bus.durable.commit(Change().delete(keys.TASK, ARN))
    assert bus.durable.commit(Change().save(keys.TASK, ARN, task(1))) is True
    assert bus.durable.get(keys.TASK, ARN) == task(1)


def test_a_message_that_cannot_be_read_is_set_aside_and_the_next_one_arrives(bus):
    """One broken entry must not stop the outbox."""

    class Nonsense(msgspec.Struct, tag="Nonsense"):
        x: int = 1

    bus.durable.commit(Change().append(keys.EVENTS, Nonsense()).append(keys.EVENTS, running()))
    consumer = bus.durable.consumer(keys.EVENTS, "acs", Event)
    assert [e.message for _ in range(3) for e in consumer.read(0.05)] == [running()]


def test_a_broken_document_is_set_aside_and_the_others_are_read(bus):
    """A document of another schema costs one task, not the agent."""
    bus.durable.commit(Change().save(keys.TASK, ARN, task()))
    broken = Change()
    broken.commands.append(("SET", keys.TASK.key("broken"), b"\x00"))
    bus.durable.commit(broken)
    assert list(bus.durable.all(keys.TASK)) == [ARN]
    assert bus.durable.get(keys.TASK, "broken") is None
