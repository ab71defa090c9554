"""What an engine in memory makes of commands that it cannot carry out, and of a store that refuses a write."""

from __future__ import annotations

import gevent
import pytest
import redis

from common import keys
from common.bus import Change
from common.clock import SystemClock
from common.config import load
from common.memory import MemoryBus
from common.model.agent import ImageReference
from common.model.messages import ForgetEverything, RunOrUpdateTask
from common.model.status import TaskStatus
from common.model.task import Container, Task
from services.engine import admission
from services.engine.engine import Engine
from services.engine.images import Images
from tests.fakes.hands import FakeHands

ARN = "arn:aws:ecs:us-west-2:1:task/c/t1"


@pytest.fixture
def engine():
    """An engine on a store in memory and a Docker made of dictionaries."""
    hands = FakeHands()
    made = Engine(load({}), MemoryBus(), hands, hands.facts(), SystemClock(), lambda: False)
    made.start()
    yield made
    made.stop(1.0)


def test_a_task_whose_demand_cannot_be_told_is_refused_with_the_cause(engine, eventually, monkeypatch):
    """Its worker lives, its command is acknowledged, and its STOPPED report says what is wrong."""

    def demand_of(task: Task) -> None:
        raise OverflowError("cannot convert float infinity to integer")

    monkeypatch.setattr(admission, "demand_of", demand_of)
    app = Container(name="app", image="busybox", essential=True)
    task = Task(arn=ARN, family="web", version="1", desired=TaskStatus.RUNNING, containers=(app,))
    engine.bus.durable.commit(Change().append(keys.COMMANDS, RunOrUpdateTask(task=task)))
    eventually(lambda: ARN in engine.workers and engine.workers[ARN].task.known == TaskStatus.STOPPED)
    assert "cannot convert float infinity to integer" in engine.workers[ARN].task.terminal_reason
    eventually(lambda: not engine.records.in_flight)


def test_secrets_of_tasks_that_are_forgotten_leave_the_memory(engine, eventually, monkeypatch):
    """They belong to another instance; nobody would ever clean these tasks up."""
    forgotten = []
    monkeypatch.setattr(engine.hands, "forget", lambda task: forgotten.append(task.arn))
    run = RunOrUpdateTask(task=Task(arn=ARN, desired=TaskStatus.RUNNING, containers=(Container(name="app"),)))
    engine.bus.durable.commit(Change().append(keys.COMMANDS, run))
    eventually(lambda: ARN in engine.workers)
    engine.bus.durable.commit(Change().append(keys.COMMANDS, ForgetEverything(reason="i-2 is not i-1")))
    eventually(lambda: forgotten == [ARN])
    assert ARN not in engine.workers


def test_an_image_reference_that_was_refused_is_written_with_the_next_try(monkeypatch):
    """A full disk must not cost the record of an image: nobody else would ever remove it."""
    bus = MemoryBus()
    images = Images(bus, SystemClock())
    images.references["sha256:a"] = ImageReference(image_id="sha256:a", names=("web:1",))
    images.republish()
    commit = bus.durable.commit

    def refuse(change: Change) -> bool:
        raise redis.ResponseError("OOM command not allowed")

    monkeypatch.setattr(bus.durable, "commit", refuse)
    with pytest.raises(redis.ResponseError):
        images.flush()
    monkeypatch.setattr(bus.durable, "commit", commit)
    writer = gevent.spawn(images.run)
    with gevent.Timeout(5):
        while bus.durable.get(keys.IMAGE, "sha256:a") is None:
            gevent.sleep(0.01)
    writer.kill()
    assert bus.durable.all(keys.IMAGE)["sha256:a"].names == ("web:1",)
