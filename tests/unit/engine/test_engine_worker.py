"""One worker with fakes around it: when it sleeps, when it repeats, and what it does not wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from common.clock import SystemClock
from common.model.status import ContainerStatus as C
from common.model.status import TaskStatus as T
from common.model.task import Container, Task
from services.engine import worker as module
from services.engine.core.changes import ended_containers
from services.engine.core.decide import Desire, Happened
from services.engine.core.effects import Action, DockerEvent, Effect, Outcome
from services.engine.core.turn import Settings
from services.engine.crew import Crew
from services.engine.worker import Shop, Stop, Worker
from tests.fakes.hands import FakeContainer, FakeDocker, FakeHands, observe

ARN = "arn:aws:ecs:us-west-2:1:task/c/t1"
SILENT = "Error response from daemon: layer does not exist"


class Records:
    """Nothing is kept; ECS has accepted nothing."""

    def save(self, task: Task, events: Any, acks: Any) -> Task:
        """The next revision."""
        return replace(task, revision=task.revision + 1)

    def sent(self, arn: str) -> None:
        """What ECS has accepted."""


class Bench:
    """Makes workers, and ends them."""

    def __init__(self) -> None:
        self.docker = FakeDocker()
        self.hands = FakeHands(self.docker)
        self.ended: list[str] = []
        self.hands.ended = lambda container: self.ended.append(container.name)  # type: ignore[method-assign]
        self.workers: list[Worker] = []

    def worker(self, task: Task, is_new: bool = True, cleanup_seconds: float = 3600.0) -> Worker:
        """A worker at work."""
        nothing: Any = SimpleNamespace(used=lambda *_: None, released=lambda *_: None)
        door: Any = SimpleNamespace(enter=lambda *_: None, release=lambda *_: None)
        records: Any = Records()
        shop = Shop(
            crew=Crew(self.hands), records=records, images=nothing, admission=door, clock=SystemClock(),
            settings=Settings(cleanup_wait_seconds=cleanup_seconds), limits_enabled=False,
            resources_for=lambda _: (), index=lambda _: None, forget=lambda _: None, stopping=lambda: False,
        )  # fmt: skip
        made = Worker(task, shop, is_new)
        self.workers.append(made)
        made.start()
        return made

    def container(self, name: str) -> Container:
        """A container that ran when the engine ended, in Docker and in the document."""
        at = self.docker.time()
        made = FakeContainer(f"id-{name}", f"n-{name}", ARN, name, "busybox", state="running", started_at=at)
        self.docker.containers[made.id] = made
        return Container(
            name=name, image="busybox", essential=True, known=C.RUNNING, desired=C.RUNNING, docker_id=made.id,
            docker_name=made.name, started_at=at,
        )  # fmt: skip


@pytest.fixture
def bench():
    """A Bench whose workers are ended after the test."""
    made = Bench()
    yield made
    for each in made.workers:
        each.kill()


@pytest.fixture
def web() -> Task:
    """A task of one container that has room."""
    app = Container(name="app", image="busybox", essential=True)
    return Task(arn=ARN, family="web", version="1", desired=T.RUNNING, admitted=True, containers=(app,))


def test_a_worker_sleeps_while_a_call_outlasts_the_time_of_the_cleanup(bench, web, eventually, monkeypatch):
    """The cleanup waits for the call, so its time is no reason to look again and again."""
    rounds = []
    once = Worker._round
    monkeypatch.setattr(Worker, "_round", lambda self: (rounds.append(1), once(self)))
    it = bench.worker(web, cleanup_seconds=0.3)
    eventually(lambda: it.task.known == T.RUNNING)
    app = bench.docker.of(ARN, "app")
    bench.docker.end(app, 0)
    it.put(Happened("app", DockerEvent(docker_id=app.id, action="die", exit_code=0, observation=observe(app))))
    eventually(lambda: it.task.known == T.STOPPED)
    go = bench.hands.hold(Action.STOP, "app")
    bench.docker.start(app)
    it.put(Happened("app", DockerEvent(docker_id=app.id, action="start", observation=observe(app))))
    eventually(lambda: time.time() > it.task.known_at + 0.4)
    before = len(rounds)
    eventually(lambda: time.time() > it.task.known_at + 0.7)
    assert len(rounds) - before <= 2
    go.set()
    eventually(lambda: app.state == "exited")


def test_a_stop_that_docker_takes_without_effect_is_repeated_after_a_pause(bench, web, eventually, monkeypatch):
    """Without one the daemon is asked fifty times a second."""
    pauses = []
    monkeypatch.setattr(Crew, "start", noting_pauses(Crew.start, pauses))
    bench.hands.perform = stopping_nothing(bench)
    it = bench.worker(web)
    eventually(lambda: it.task.known == T.RUNNING)
    it.put(Desire(T.STOPPED))
    eventually(lambda: len(pauses) >= 2)
    assert pauses[0] == 0.0
    assert pauses[1] >= module.STOP_PAUSE_SECONDS / 2


def noting_pauses(start: Callable[..., None], pauses: list[float]) -> Callable[..., None]:
    """Crew.start that writes down after which pauses stops are made."""

    def noting(self: Crew, effect: Effect, task: Any, done: Any, delay_seconds: float = 0.0) -> None:
        if effect.action is Action.STOP:
            pauses.append(delay_seconds)
        start(self, effect, task, done, delay_seconds)

    return noting


def stopping_nothing(bench: Bench) -> Callable[[Task, Effect], Outcome]:
    """Hands whose stop succeeds and whose container runs on."""
    at_once = bench.hands.perform

    def perform(task: Task, effect: Effect) -> Outcome:
        if effect.action is not Action.STOP:
            return at_once(task, effect)
        seen = observe(bench.docker.of(task.arn, effect.target))
        return Outcome(action=effect.action, target=effect.target, observation=seen)

    return perform


# -- after the engine was away ---------------------------------------------------------------------


@pytest.fixture
def saved(bench) -> Task:
    """A task of two containers that ran when the engine ended; Docker does not tell of `x`."""
    for _ in range(1000):
        bench.hands.fail(Action.INSPECT, "x", "CannotInspectContainerError", SILENT)
    containers = (bench.container("x"), bench.container("y"))
    return Task(arn=ARN, desired=T.RUNNING, known=T.RUNNING, admitted=True, prepared=True, containers=containers)


def test_a_stop_gets_through_although_docker_does_not_tell_of_a_container(bench, saved, eventually):
    """It does not wait for the answer, whose absence nobody can end."""
    it = bench.worker(saved, is_new=False)
    eventually(lambda: bench.docker.called(Action.INSPECT, "x"))
    it.put(Desire(T.STOPPED))
    eventually(lambda: it.task.known == T.STOPPED, seconds=2)
    assert {c.state for c in bench.docker.containers.values()} == {"exited"}


def test_a_container_of_which_docker_does_not_tell_keeps_no_other_waiting(bench, saved, eventually, monkeypatch):
    """A Docker that answers is asked a few times; then the task goes on, and nothing is concluded."""
    backoff = module.Backoff
    monkeypatch.setattr(module, "Backoff", lambda *_: backoff(0.001, 0.001, 1.0))
    bench.docker.containers["id-y"].state = "exited"
    bench.docker.containers["id-y"].exit_code = 7
    bench.docker.containers["id-y"].finished_at = bench.docker.time()
    it = bench.worker(saved, is_new=False)
    eventually(lambda: it.task.container("y").exit_code == 7, seconds=2)
    assert bench.docker.called(Action.INSPECT, "x") == module.TAKE_UP_ATTEMPTS


def test_a_docker_that_is_away_is_waited_for_at_the_start(bench, saved, eventually, monkeypatch):
    """Then no container can be told of, and a task must not go on with guesses."""
    backoff = module.Backoff
    monkeypatch.setattr(module, "Backoff", lambda *_: backoff(0.001, 0.001, 1.0))
    bench.docker.answers = False
    it = bench.worker(saved, is_new=False)
    eventually(lambda: bench.docker.called(Action.INSPECT, "x") > module.TAKE_UP_ATTEMPTS * 3)
    assert bench.docker.called(Action.INSPECT, "y") == 0
    it.put(Stop())
    eventually(lambda: bench.docker.called(Action.INSPECT, "y"), seconds=2)


# -- what was held for a container -----------------------------------------------------------------


def test_what_a_container_held_is_free_when_it_is_over(bench, web, eventually):
    """Once, however it ended."""
    it = bench.worker(web)
    eventually(lambda: it.task.known == T.RUNNING)
    assert bench.ended == []
    it.put(Desire(T.STOPPED))
    eventually(lambda: it.task.known == T.STOPPED)
    assert bench.ended == ["app"]


def test_a_container_that_docker_made_after_its_end_is_over_too():
    """Its id comes with the late result of the create, and with it what the create took."""
    running = Task(arn="t", containers=(Container(name="a", known=C.PULLED), Container(name="b", known=C.STOPPED)))
    stopped = replace(running, containers=(Container(name="a", known=C.STOPPED), running.containers[1]))
    late = replace(running, containers=(Container(name="a", known=C.STOPPED, docker_id="d"), running.containers[1]))
    assert [c.name for c in ended_containers(running, stopped)] == ["a"]
    assert [c.name for c in ended_containers(stopped, late)] == ["a"]
    assert ended_containers(late, late) == []
