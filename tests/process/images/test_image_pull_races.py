"""Pulls and clean-up at the same time: a real engine, a real Docker, a registry as slow as the test likes.

There is no lock between the two. An image that a live task names, in any spelling, is no candidate; the task's document
is there before its pull begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import pytest
from msgspec import structs

from common import keys
from common.bus import Change
from common.clock import SystemClock
from services.images.core.plan import Limits
from services.images.cycle import Cycle
from tests.process.engine.conftest import DockerHost
from tests.process.images.conftest import Place, shell

pytestmark = pytest.mark.docker
LIMITS = Limits(-1.0, -1.0, 50, 0, 3600.0, frozenset())  # every image is old enough


@pytest.fixture
def host(place: Place, run_dir: Path) -> Iterator[DockerHost]:
    """A real engine on the machine's Docker; not started yet."""
    host = DockerHost("", "unix:///var/run/docker.sock", run_dir)
    with host.proxy:
        yield host
        host.stop()
    for id_ in host.ids():
        host.docker("rm", "-f", "-v", id_)


def cycle(host: DockerHost, place: Place, untracked: bool = False) -> Cycle:
    bus: Any = host.bus
    return Cycle(bus, LIMITS, SystemClock(), place.client, untracked)


def task_of(host: DockerHost, name: str, image: str) -> Any:
    """A task of one container without a network."""
    task = host.task(name, image=image)
    alone = structs.replace(task.containers[0], docker_host_config='{"NetworkMode":"none"}')
    return structs.replace(task, containers=(alone,))


def running(host: DockerHost, *tasks: Any) -> bool:
    states = host.known(*tasks)
    assert "STOPPED" not in states, [e for e in host.events() if getattr(e, "reason", "")]
    return set(states) == {"RUNNING"}


def names_of(host: DockerHost) -> dict[str, tuple[str, ...]]:
    return {id_: r.names for id_, r in host.bus.durable.all(keys.IMAGE).items()}


def test_a_long_pull_delays_no_cycle_and_loses_nothing(host, place, tracked: Callable[..., Any], eventually):
    """Case 44, better: while a layer is awaited, the cycle removes what is unused and another task pulls and starts;
    the cached image that the pull may fall back on stays until the new one has taken its name."""
    name, idle, quick = place.here("app:1"), place.here("idle:1"), place.push("quick:1")
    before, unused = tracked(name), tracked(idle)
    for reference in (before, unused):
        host.bus.durable.commit(Change().save(keys.IMAGE, reference.image_id, reference))
    place.push("app:1")  # newer, in the registry alone
    host.start(pull_behavior="default")
    place.registry.hold()
    slow = task_of(host, "slow", name)
    host.run(slow)
    eventually(lambda: place.registry.waiting)
    began = time.monotonic()
    gone = cycle(host, place, untracked=True).run()
    assert time.monotonic() - began < 5.0 and gone.images == 1
    assert place.registry.waiting and not place.id(idle) and place.id(name) == before.image_id
    place.registry.release()
    second = task_of(host, "second", quick)
    host.run(second)
    eventually(lambda: running(host, slow, second), seconds=30)
    place.seen(quick)
    newer = place.seen(name)
    assert newer != before.image_id
    eventually(lambda: names_of(host).get(before.image_id) == () and newer in names_of(host))
    assert cycle(host, place, untracked=True).run().images == 1  # the old image, by its id
    assert not place.id(before.image_id) and place.id(name) == newer and running(host, slow, second)


def test_tasks_start_whatever_the_cleanup_does_meanwhile(host, place, tracked, eventually):
    """Cycles without a pause, all ages over, against tasks that name cached, unused images in other spellings."""
    cached = [place.here(f"race{i}:latest") for i in range(6)]
    for name in cached:
        reference = tracked(name)
        host.bus.durable.commit(Change().save(keys.IMAGE, reference.image_id, reference))
    digests = [shell("image", "inspect", "-f", "{{index .RepoDigests 0}}", name) for name in cached]
    spelled = [cached[0], cached[1].removesuffix(":latest"), digests[2], digests[3],
               f"{cached[4]}@{digests[4].partition('@')[2]}", place.push("race6:1")]  # fmt: skip
    host.start(pull_behavior="default")
    tasks = [task_of(host, f"t{i}", image) for i, image in enumerate(spelled)]
    place.registry.hold()
    host.run(*tasks)
    eventually(lambda: len(host.bus.durable.all(keys.TASK)) == len(tasks))  # a task that nobody knows protects nothing
    cycles = [cycle(host, place, untracked=True).run()]  # while all of them ask the registry
    place.registry.release()

    def clean() -> None:
        while True:
            cycles.append(cycle(host, place, untracked=True).run())
            gevent.sleep(0)

    cleaning = gevent.spawn(clean)
    try:
        eventually(lambda: running(host, *tasks), seconds=40)
        assert not cleaning.dead
    finally:
        cleaning.kill()
    assert cycles[0].images == 1 and not any(c.space_bytes for c in cycles[1:])  # cached[5], which no task names
    assert not place.id(cached[5]) and all(place.id(name) for name in cached[:2])


def test_an_image_that_a_task_only_waits_to_pull_is_untracked_and_stays(host, place, eventually):
    """Trap 9: pulled and not yet recorded, an image looks untracked; its age is over, too."""
    name = place.push("late:1")
    host.start(pull_behavior="default")
    place.registry.hold()
    task = task_of(host, "late", name)
    host.run(task)
    eventually(lambda: place.registry.waiting)
    place.pull_in_background(name)
    place.registry.release()
    eventually(lambda: place.id(name), pause=0.0)
    place.seen(name)
    assert cycle(host, place, untracked=True).run().images == 0
    eventually(lambda: running(host, task), seconds=20)
    no_limits = replace(LIMITS, images_per_cycle=1)
    bus: Any = host.bus
    assert Cycle(bus, no_limits, SystemClock(), place.client, True).run().images == 0
