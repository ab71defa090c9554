"""Docker's stats as the last resort, and when samples are due (spec 07 §4.1, §4.2, §4.4)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from common.backoff import Backoff
from common.clock import VirtualClock
from common.errors import Temporary
from common.memory import MemoryStore
from common.model.status import ContainerStatus, ContainerType, TaskStatus
from common.model.task import Container, Task
from services.telemetry import sampler as sampling
from services.telemetry.core.book import Book
from services.telemetry.core.dockerstats import DockerStats
from services.telemetry.dockerd import State
from services.telemetry.fallback import Fallback, poll_pauses
from services.telemetry.restarts import Restarts
from services.telemetry.sampler import Sampler


class Docker:
    """Answers as scripted; None in a stream breaks it off."""

    def __init__(self, streams: list[list[int | None]], starts: list[str] | None = None, pid: int = 7) -> None:
        self.streams, self.starts, self.pid, self.calls = streams, starts or ["t0"], pid, list[str]()

    def state_of(self, docker_id: str) -> State:
        self.calls.append("inspect")
        return State(self.pid, self.starts.pop(0) if len(self.starts) > 1 else self.starts[0])

    def stream(self, docker_id: str) -> Iterator[bytes]:
        self.calls.append("stream")
        if not self.streams:
            gevent.sleep(60)
        for usage in self.streams.pop(0):
            if usage is None:
                raise Temporary("broken off")
            yield body(usage)

    def stats(self, docker_id: str) -> bytes:
        self.calls.append("poll")
        return body(len(self.calls))


def body(usage: int) -> bytes:
    """A stats object."""
    return json.dumps({"read": "2026-06-01T10:00:00Z", "cpu_stats": {"cpu_usage": {"total_usage": usage}}}).encode()


class Taken:
    """Takes samples; refuses those without CPU time, as of a container that stopped."""

    def __init__(self) -> None:
        self.samples: list[tuple[int, bool]] = []

    def __call__(self, stats: DockerStats, restarted: bool) -> str:
        usage = stats.cpu_stats.cpu_usage.total_usage
        if not usage:
            return "no cpu core usage reported"
        self.samples.append((usage, restarted))
        return ""


def run(docker: Docker, poll: float = 0.0, restarts: bool = False, opens: Callable[[int], bool] = lambda pid: False):
    """The fallback of one container for a tenth of a second."""
    container: Any = SimpleNamespace(docker_id="c", restart_policy=restarts)
    taken = Taken()
    fallback = Fallback(docker, container, Backoff(0.001, 0.001), poll, opens, taken)  # type: ignore[arg-type]
    gevent.sleep(0.1)
    ended = fallback.ended
    fallback.stop()
    return taken.samples, ended


def test_stats_are_streamed_and_a_stream_that_ends_is_opened_again(caplog):
    """After a good end at once, after a break or an empty object with a pause; told once."""
    docker = Docker([[1, 2], [3, None], [4, 0, 5], [6]])
    assert run(docker) == ([(1, False), (2, False), (3, False), (4, False), (6, False)], False)
    assert docker.calls.count("stream") == 5 and "poll" not in docker.calls
    assert caplog.text.count("Docker's stats are used instead") == 1


def test_with_polling_the_first_poll_is_at_once_and_then_one_per_interval():
    """A random pause below 0.8 intervals lies between the first and the second period."""
    docker = Docker([])
    run(docker, poll=0.02)
    assert 2 <= docker.calls.count("poll") <= 5 and "stream" not in docker.calls


def test_polls_keep_their_times_however_long_docker_takes():
    """A tick is a point in time (spec 07 §4.2); a poll that takes longer than the interval is followed by the next."""
    clock, times = VirtualClock(), [0.0]
    start = clock.now()
    clock.advance(2.0)  # the first poll
    pauses = poll_pauses(10.0, 0.8, clock.now)
    for seconds in (2.0, 2.0, 25.0, 2.0, 2.0):
        clock.advance(next(pauses))
        times.append(round(clock.now() - start, 6))
        clock.advance(seconds)
    assert times == [0.0, 20.0, 30.0, 40.0, 65.0, 75.0]


def test_a_restart_is_seen_by_the_time_of_the_start():
    """Even when the new run has used more CPU time than the old one when it is first looked at."""
    docker = Docker([[10, 20, 30, 31]], ["t0", "t0", "t0", "t1"])
    assert run(docker, restarts=True)[0] == [(10, False), (20, False), (30, True), (31, False)]


@pytest.mark.parametrize(("pid", "opens"), [(0, False), (7, True)])
def test_the_fallback_ends_when_it_is_not_needed(pid: int, opens: bool):
    """The container does not run (it is looked for anew), or Docker's pid led to its files."""
    docker = Docker([[1]], pid=pid)
    assert run(docker, opens=lambda _: opens) == ([], True)
    assert docker.calls == ["inspect"]


# -- when samples are due --------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> VirtualClock:
    """The time of the sampler."""
    made = VirtualClock()
    time = SimpleNamespace(monotonic=made.now, time_ns=lambda: int(made.now() * 1e9))
    monkeypatch.setattr(sampling, "time", time)
    return made


class FakeSource:
    """Notes when it was read."""

    def __init__(self, *_: Any) -> None:
        self.at, self.due, self.pid, self.fails = list[float](), 0.0, 7, 0

    def sample(self, host_cpu: Any) -> bool:
        self.at.append(CLOCK[0].now())
        self.fails -= 1
        return self.fails < 0

    def close(self) -> None:
        self.pid = 0


CLOCK: list[VirtualClock] = []


def sampler(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, polling: bool, mode: str) -> Sampler:
    """With one task of an application and a pause container; the interval is 10 s."""
    CLOCK[:] = [clock]
    monkeypatch.setattr(sampling, "Source", FakeSource)
    host: Any = SimpleNamespace(cpu=lambda: None, unified=True, cpus=2)
    made = Sampler(Book(), host, None, Restarts(MemoryStore()), polling, 10.0)  # type: ignore[arg-type]
    containers = (
        Container(name="app", docker_id="app", known=ContainerStatus.RUNNING),
        Container(name="pause", docker_id="pause", known=ContainerStatus.RUNNING, type=ContainerType.CNI_PAUSE),
    )
    task = Task(arn="a/b", family="f", containers=containers, network_mode=mode, known=TaskStatus.RUNNING)
    difference = made.book.apply(task)
    made.follow(made.book.tasks["a/b"], difference)
    return made


def test_polls_keep_their_interval_after_a_random_start(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch):
    """At once, then after 1 to 1.8 intervals, then every interval: rounds a little late do not add up."""
    made = sampler(clock, monkeypatch, True, "bridge")
    for _ in range(200):
        made.round()
        clock.advance(1.003)
    source: Any = made.sources["app"]
    first, second, *_ = source.at
    assert first == made.sources["pause"].at[0] and 10.0 <= second - first <= 19.1  # type: ignore[attr-defined]
    assert len(source.at) == 1 + 1 + int((200.6 - (second - first)) / 10)
    assert all(8.9 <= b - a <= 11.1 for a, b in zip(source.at[1:], source.at[2:], strict=False))


def test_after_a_failed_poll_it_begins_anew(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch):
    """As the reference: an error ends the attempt, the next one polls at once and pauses again."""
    made = sampler(clock, monkeypatch, True, "bridge")
    source: Any = made.sources["app"]
    source.fails = 3
    for _ in range(6):
        made.round()
        clock.advance(1.0)
    assert [at - source.at[0] for at in source.at] == [0, 1, 2, 3]


def test_the_network_of_a_task_is_read_every_period_from_one_period_on(clock, monkeypatch):
    """At 10, 20, 30 and 40 s; after a failure the period begins anew, with a pause before it."""
    made, reads = sampler(clock, monkeypatch, False, "awsvpc"), list[float]()
    start = clock.now()

    def read(pid: int) -> dict[str, Any]:
        reads.append(round(clock.now() - start))
        if reads[-1] == 30:
            raise OSError("no such process")
        return {}

    monkeypatch.setattr(sampling.netns, "interfaces", read)
    for _ in range(60):
        made.round()
        gevent.sleep(0)
        clock.advance(1.0003)
    assert reads[:3] == [10, 20, 30] and 41 <= reads[3] <= 42 and 51 <= reads[4] <= 52
    queue = made.book.tasks["a/b"].network.queue  # type: ignore[union-attr]
    assert queue.appended == len(reads) - 1
