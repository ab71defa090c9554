"""Docker's event stream as the engine sees it: order, inspects, faults."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from common.model.status import ContainerStatus
from services.engine.core.effects import Action, DockerEvent, Resync
from services.engine.docker import RESYNC
from services.engine.docker.hands import Hands
from tests.fakes.docker_proxy import DockerProxy, Rule
from tests.process.engine_docker.conftest import Bench, docker, until

pytestmark = pytest.mark.docker


class Listener:
    """Collects the events of some hands in the background."""

    def __init__(self, hands: Hands) -> None:
        self.items: list[DockerEvent | Resync] = []
        self.stopping = threading.Event()
        self._stream = hands.events(self.stopping)
        threading.Thread(target=self._run, daemon=True).start()
        until(lambda: RESYNC in self.items)

    def _run(self) -> None:
        for item in self._stream:
            self.items.append(item)

    def of(self, id_: str) -> list[DockerEvent]:
        """The events of one container."""
        return [e for e in self.items if isinstance(e, DockerEvent) and e.docker_id == id_]

    def actions(self, id_: str) -> list[str]:
        """Their actions."""
        return [e.action for e in self.of(id_)]


@pytest.fixture
def listen() -> Iterator[list[Listener]]:
    """Listeners to be ended after the test."""
    made: list[Listener] = []
    yield made
    for listener in made:
        listener.stopping.set()


def test_an_ordinary_life_is_told_in_order_with_details(bench: Bench, listen: list[Listener]) -> None:
    """start before die, the exit code from the inspect, and no event of the exec calls of health checks."""
    hands = bench.hands()
    listen.append(Listener(hands))
    task = bench.started(hands, bench.task(bench.container()))
    id_ = task.containers[0].docker_id
    docker("exec", id_, "true")
    bench.do(hands, Action.STOP, task)
    until(lambda: "stop" in listen[0].actions(id_))
    events = listen[0].of(id_)
    assert [e.action for e in events] == ["create", "start", "die", "stop"]
    by_action = {e.action: e for e in events}
    assert by_action["create"].observation is None
    started, died = by_action["start"].observation, by_action["die"].observation
    assert started is not None and started.status is ContainerStatus.RUNNING
    assert died is not None and (died.exit_code, by_action["die"].exit_code) == (0, 0)
    assert all(e.at > 1_600_000_000 for e in events)


def test_a_process_that_exits_at_once_is_seen_to_start_first(bench: Bench, listen: list[Listener]) -> None:
    """ECS hears RUNNING and then STOPPED only when start is delivered before die (spec 03 §6.12, trap 40)."""
    hands = bench.hands()
    listen.append(Listener(hands))
    tasks = [bench.created(hands, bench.task(bench.container(command=("sh", "-c", "exit 4")))) for _ in range(5)]
    threads = [threading.Thread(target=bench.do, args=(hands, Action.START, task)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for task in tasks:
        id_ = task.containers[0].docker_id
        until(lambda id_=id_: "die" in listen[0].actions(id_))
        assert listen[0].actions(id_) == ["create", "start", "die"]
        assert listen[0].of(id_)[-1].exit_code == 4


def test_events_reuse_the_inspect_of_the_call_that_caused_them(bench: Bench, proxy: DockerProxy) -> None:
    """A start and a stop cost one inspect each, not three: the burst of thirty tasks lives on it."""
    hands = bench.hands(proxy.address)
    listener = Listener(hands)
    try:
        task = bench.created(hands, bench.task(bench.container()))
        id_ = task.containers[0].docker_id
        before = proxy.count("GET", f"/containers/{id_}/json")
        bench.do(hands, Action.START, task)
        bench.do(hands, Action.STOP, task)
        until(lambda: "stop" in listener.actions(id_))
        assert proxy.count("GET", f"/containers/{id_}/json") - before <= 3
    finally:
        listener.stopping.set()


def test_nothing_is_lost_while_the_stream_is_down(bench: Bench, proxy: DockerProxy) -> None:
    """`since` brings the events of the gap, none of them twice, and a RESYNC tells that there was one."""
    hands, direct = bench.hands(proxy.address), bench.hands()
    listener = Listener(hands)
    try:
        task = bench.started(direct, bench.task(bench.container()))
        id_ = task.containers[0].docker_id
        until(lambda: "start" in listener.actions(id_))
        proxy.refuse()
        docker("kill", id_)
        time.sleep(0.3)
        proxy.listen()
        until(lambda: "die" in listener.actions(id_))
        assert listener.actions(id_) == ["create", "start", "die"]
        assert listener.items.count(RESYNC) == 2
        assert listener.of(id_)[-1].exit_code == 137
    finally:
        listener.stopping.set()


def test_a_container_whose_inspect_hangs_delays_no_other(bench: Bench, proxy: DockerProxy) -> None:
    """Each container has its own line."""
    hands, direct = bench.hands(proxy.address), bench.hands()
    slow = bench.created(direct, bench.task(bench.container()))
    quick = bench.created(direct, bench.task(bench.container()))
    slow_id, quick_id = slow.containers[0].docker_id, quick.containers[0].docker_id
    proxy.add(Rule("GET", f"/containers/{slow_id}/json", hang=True))
    listener = Listener(hands)
    try:
        bench.do(direct, Action.START, slow)
        bench.do(direct, Action.START, quick)
        until(lambda: "start" in listener.actions(quick_id), 5)
        assert "start" not in listener.actions(slow_id)
    finally:
        listener.stopping.set()


def test_a_container_removed_from_outside_dies_without_an_error(bench: Bench, proxy: DockerProxy) -> None:
    """The inspect after `docker rm -f` may answer 404: then the event's own exit code counts (spec 03 §6.12)."""
    hands, direct = bench.hands(proxy.address), bench.hands()
    task = bench.started(direct, bench.task(bench.container()))
    id_ = task.containers[0].docker_id
    proxy.add(Rule("GET", f"/containers/{id_}/json", delay=0.5))
    listener = Listener(hands)
    try:
        docker("rm", "-f", id_)
        until(lambda: "die" in listener.actions(id_))
        died = listener.of(id_)[-1]
        assert (died.gone, died.error, died.exit_code) == (True, None, 137)
    finally:
        listener.stopping.set()
