"""The parts of the process on documents in memory: what each of them survives."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import gevent.event
import pytest

from common import keep, keys
from common.bus import Change, encode
from common.errors import Temporary
from common.memory import MemoryBus
from common.model.agent import Instance
from common.model.status import ContainerStatus, TaskStatus
from common.model.task import Container, Task
from services.telemetry import service
from services.telemetry.service import Service

RUNNING = Task(
    arn="a/b", revision=1, family="f", known=TaskStatus.RUNNING,
    containers=(Container(name="c", docker_id="c", known=ContainerStatus.RUNNING),),
)  # fmt: skip


class FakeSession:
    """Fails as often as the test says, then serves."""

    def __init__(self, *_: Any) -> None:
        self.fails = 1
        self.serves = False

    def run(self, stopping: gevent.event.Event) -> None:
        self.fails -= 1
        if self.fails >= 0:
            raise KeyError("nobody foresaw this")
        self.serves = True
        stopping.wait()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The process, not started yet; whatever fails is begun again without a long pause."""
    monkeypatch.setattr(keep, "FIRST_PAUSE_SECONDS", 0.01)
    stopping = gevent.event.Event()
    given = {"ECS_POLLING_METRICS_WAIT_DURATION": 10.0, "DOCKER_HOST": "unix:///none", "AWS_MAX_ATTEMPTS": 1}
    config: dict[str, Any] = defaultdict(str, given, AWS_DEFAULT_REGION="r", ECS_TCS_ENDPOINT="http://127.0.0.1:1")
    context: Any = SimpleNamespace(
        config=config, bus=MemoryBus(), log=logging.getLogger("telemetry"), stopping=stopping,
        ready=lambda: None, not_ready=lambda reason: None,
    )  # fmt: skip
    host: Any = SimpleNamespace(unified=True, cpus=1, memory=1, root="/none", proc="/none", cpu=lambda: None)
    one = Service(context, host)
    monkeypatch.setattr(one.sampler, "round", lambda: None)
    yield one
    stopping.set()


def run(one: Service) -> None:
    """Start it."""
    gevent.spawn(one.run)


def fails_once(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, error: Exception) -> list[int]:
    """The first call of this method raises; answers the calls that were made."""
    real: Callable[..., Any] = getattr(where, name)
    calls: list[int] = []

    def call(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise error
        return real(*args)

    monkeypatch.setattr(where, name, call)
    return calls


@pytest.mark.parametrize("error", [Temporary("Redis is away"), KeyError("nobody foresaw this")], ids=repr)
def test_what_must_be_read_anew_is_read_until_it_was(made: Service, monkeypatch, eventually, error):
    """The feed says so once; when the reading fails half way the book must not stay empty."""
    made._durable.commit(Change().save(keys.TASK, RUNNING.arn, RUNNING))
    loads = fails_once(monkeypatch, made._restarts, "load", error)
    run(made)
    eventually(lambda: made.book.tasks, seconds=3)
    assert list(made.book.tasks) == [RUNNING.arn]
    assert len(loads) == 2, "the reading that failed is made up for, and once is enough"


def test_what_the_feed_kept_back_is_found_all_the_same(made: Service, monkeypatch, eventually):
    """Nothing relies on one wake-up: all documents are read again now and then."""
    monkeypatch.setattr(service, "RECONCILE_SECONDS", 0.05)
    monkeypatch.setattr(service, "FOLLOW_PAUSE_SECONDS", 0.01)
    run(made)
    eventually(made._loaded.is_set)
    assert not made.book.tasks
    made._durable.put({keys.TASK.key(RUNNING.arn): encode(keys.TASK, RUNNING)})
    gevent.sleep(0.06)
    made._durable.commit(Change().save(keys.INSTANCE, keys.INSTANCE_ID, Instance(revision=1)))  # any word will do
    eventually(lambda: made.book.tasks, seconds=3)
    assert list(made.book.tasks) == [RUNNING.arn]


def test_the_sampler_and_the_session_are_begun_again_when_they_fail(made: Service, monkeypatch, eventually, caplog):
    """A process that stays up and does half its work is noticed by nobody."""
    session = FakeSession()
    monkeypatch.setattr(service, "Session", lambda *_: session)
    rounds = fails_once(monkeypatch, made.sampler, "round", KeyError("nobody foresaw this"))
    made._durable.commit(Change().save(keys.INSTANCE, keys.INSTANCE_ID, Instance(revision=1, arn="i", region="r")))
    run(made)
    eventually(lambda: session.serves and len(rounds) > 1, seconds=3)
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.CRITICAL]
    assert sorted(told) == [f"the {part} failed and is begun again" for part in ("sampler", "telemetry session")]
