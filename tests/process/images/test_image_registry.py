"""Clean-up cycles against a real engine with a real registry (ECS agent behaviour, spec 08 §5 to §8)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from common import keys
from common.bus import Change
from common.clock import VirtualClock
from common.memory import MemoryBus
from common.model.messages import Command
from services.images.core.arrivals import Arrivals
from services.images.core.plan import Limits
from services.images.core.space import Gone
from services.images.cycle import Cycle
from services.images.pressure import Pressure, Thresholds
from tests.fakes import images
from tests.process.images.conftest import Place, shell

pytestmark = pytest.mark.docker
HOUR = 3600.0
LIMITS = Limits(HOUR, HOUR, 5, 5, 3 * HOUR, frozenset())


class Agent:
    """The documents, and cycles on them. After each cycle it forgets what the engine would forget."""

    def __init__(self, place: Place) -> None:
        self.place, self.bus, self.arrivals = place, MemoryBus(), Arrivals()

    def save(self, *references: Any) -> None:
        for reference in references:
            self.bus.durable.commit(Change().save(keys.IMAGE, reference.image_id, reference))

    def tracked(self) -> set[str]:
        return set(self.bus.durable.all(keys.IMAGE))

    def make(self, limits: Limits = LIMITS, untracked: bool = False, later: float = 0.0) -> Cycle:
        clock = VirtualClock(time.time() + later)
        return Cycle(self.bus, limits, clock, self.place.client, untracked, self.arrivals)  # type: ignore[arg-type]

    def cycle(self, limits: Limits = LIMITS, untracked: bool = False, later: float = 0.0) -> Gone:
        gone = self.make(limits, untracked, later).run()
        self.obey()
        return gone

    def obey(self) -> None:
        decode = msgspec.msgpack.Decoder(Command).decode
        for entry in self.bus.durable.streams.pop(keys.COMMANDS, {}).values():
            message: Any = decode(entry["m"])
            reference = self.bus.durable.get(keys.IMAGE, message.image_id)
            if reference is not None:
                left = tuple(n for n in reference.names if message.name and n != message.name)
                change = Change().delete(keys.IMAGE, message.image_id)
                if left:
                    newer = msgspec.structs.replace(reference, names=left, revision=reference.revision + 1)
                    change = Change().save(keys.IMAGE, message.image_id, newer)
                self.bus.durable.commit(change)


@pytest.fixture
def agent(place: Place) -> Agent:
    """The documents of this test."""
    return Agent(place)


def test_old_images_go_in_order_a_few_in_each_cycle(agent: Agent, place: Place, tracked: Callable[..., Any]) -> None:
    """Cases 10 to 14: the longest unused first, as many as the cycle may; a young one stays."""
    names = [place.here(f"old{i}:1") for i in range(4)]
    young = place.here("young:1")
    agent.save(*(tracked(name, used_at=100.0 - i) for i, name in enumerate(names)))
    agent.save(tracked(young, pulled_at=time.time() - 3540))
    two = replace(LIMITS, images_per_cycle=2)
    gone = agent.cycle(two)
    assert gone.images == 2 and gone.space_bytes > 3_000_000
    assert [bool(place.id(name)) for name in names] == [True, True, False, False]
    agent.cycle(two)
    assert not any(map(place.id, names)) and place.id(young)
    assert agent.cycle(two) == Gone() and agent.tracked() == {place.id(young)}
    assert agent.cycle(two, later=120).images == 1 and not place.id(young)


def test_images_that_are_stuck_do_not_starve_the_others(agent, place, tracked):
    """Case 17, better: refusals cost nothing, and an image that a foreign container uses keeps all its tags."""
    stuck = [place.here(f"stuck{i}:1") for i in range(2)]
    for name in stuck:
        place.container(name, "true")
        shell("tag", name, f"{name}b")
        place.seen(f"{name}b")
    broken, free = place.here("broken:1"), place.here("free:1")
    place.broken_image = broken
    agent.save(*(tracked(name, f"{name}b") for name in stuck), tracked(broken), tracked(free, used_at=9.0))
    assert agent.cycle(replace(LIMITS, images_per_cycle=1)).images == 1
    assert not place.id(free) and place.id(broken)
    assert all(place.id(name) and place.id(f"{name}b") for name in stuck)


def test_a_name_that_a_newer_pull_took_keeps_the_new_image(agent, place, tracked):
    """Cases 4 and 13, and a name moved outside the agent: the old image goes by its id, the new one stays."""
    name = place.here("app:1")
    first = tracked(name)
    place.push("app:1", "newer")
    second = place.pull(name)
    assert second != first.image_id
    agent.save(first, tracked(name, pulled_at=time.time()))
    assert agent.cycle().images == 1
    assert place.id(name) == second and not place.id(first.image_id) and agent.tracked() == {second}


def test_two_names_of_one_image_go_together_and_count_once(agent, place, tracked):
    """Cases 12 and 18a: all names, one removal; two spellings of one tag are no fault."""
    name = place.here("two:latest")
    short = name.removesuffix(":latest")
    shell("tag", name, f"{name}-b")
    place.seen(f"{name}-b")
    agent.save(tracked(short, name, f"{name}-b"))
    assert agent.cycle().images == 1
    assert not place.id(name) and not agent.tracked()


def test_an_excluded_name_protects_the_whole_image(agent, place, tracked):
    """Case 19, for tracked and untracked images."""
    kept, other = place.here("kept:1"), place.here("kept:other")
    shell("tag", kept, f"{kept}b")
    place.seen(f"{kept}b")
    agent.save(tracked(f"{kept}b", kept))
    limits = replace(LIMITS, exclusions=frozenset({kept, other}))
    assert agent.cycle(limits, untracked=True, later=9 * HOUR) == Gone()
    assert place.id(kept) and place.id(other)


def test_untracked_images_go_smallest_first_and_dangling_ones_too(agent, place, tracked):
    """Cases 27, 30 to 32, 35 and 36: by id or tag by tag; the budget is what tracked images have left of it."""
    mine, big = place.here("mine:1"), place.here("big:1")
    shell("tag", big, f"{big}b")
    place.seen(f"{big}b")
    name = place.here("dangling:1")
    dangling = place.id(name)
    place.push("dangling:1", "a longer marker that makes a newer image, larger than the first")
    newer = place.pull(name)
    agent.save(tracked(mine))
    limits = replace(LIMITS, images_per_cycle=4)
    assert agent.cycle(limits, untracked=False, later=2 * HOUR).images == 1  # the tracked one alone
    assert place.id(dangling)
    container = place.container(newer, "true")
    assert agent.cycle(limits, untracked=True, later=2 * HOUR).images == 3  # one by id, two tags
    assert not place.id(dangling) and not place.id(big) and place.id(newer)
    assert place.there(container)


def test_an_untracked_image_ages_from_its_pull_not_from_its_build(agent, place):
    """Docker notes no time of a pull: what was not there in the cycle before has come since."""
    first = place.here("first:1")
    agent.cycle(untracked=True)  # this look knows what is there
    assert agent.cycle(untracked=True, later=2 * HOUR).images == 1 and not place.id(first)
    late = place.here("late:1")
    agent.cycle(untracked=True, later=2 * HOUR + 60)
    assert place.id(late), "built two hours ago by this clock, but it came a minute ago"
    agent.cycle(untracked=True, later=4 * HOUR)
    assert not place.id(late)


def test_untracked_containers_go_after_the_cleanup_wait(agent, place):
    """Cases 37 to 43: ended or never started, old enough, not of ECS; running ones stay; their space is counted."""
    name = f"{place.prefix}/box:1"
    images.make(name)
    place.seen(name)
    ended = place.container(name, "sh", "-c", "dd if=/dev/zero of=/data/x bs=1M count=2", run=True)
    running = place.container(name, "sleep", "600", run=True)
    created, of_ecs = place.container(name, "true"), place.container(name, "true", label="com.amazonaws.ecs.task-arn=x")
    shell("wait", ended)
    wait_less = replace(LIMITS, untracked_minimum_age_seconds=99 * HOUR)
    agent.cycle(wait_less, untracked=True, later=2.9 * HOUR)
    assert all(map(place.there, (ended, running, created, of_ecs)))
    gone = agent.cycle(wait_less, untracked=True, later=3.1 * HOUR)
    assert gone.containers == 2 and gone.space_bytes >= 2_000_000
    assert [place.there(c) for c in (ended, running, created, of_ecs)] == [False, True, False, True]


def test_the_space_of_shared_layers_counts_when_the_last_image_goes(agent, place, tracked):
    """An image's size would count the layers that another one keeps."""
    base = place.here("base:1")
    container = place.container(base, "sh", "-c", "dd if=/dev/zero of=/data/x bs=1M count=1", run=True)
    shell("wait", container)
    shell("commit", container, f"{place.prefix}/derived:1")
    derived = f"{place.prefix}/derived:1"
    place.seen(derived)
    shell("rm", container)
    agent.save(tracked(derived, used_at=1.0), tracked(base, used_at=2.0))
    one = replace(LIMITS, images_per_cycle=1)
    first, second = agent.cycle(one), agent.cycle(one)
    assert first == Gone(1, 0, 1 << 20)
    assert second.images == 1 and second.space_bytes > 1_500_000


def test_a_full_disk_takes_unused_images_until_there_is_room(agent, place, tracked):
    """Age limits do not count, order and protection do; it stops below the low mark, and tells what cannot go."""
    young, used, excluded, older = (place.here(f"{n}:1") for n in ("young", "used", "excluded", "older"))
    now = time.time()
    agent.save(
        tracked(young, pulled_at=now, used_at=now), tracked(used, pulled_at=now, containers=("arn/c",)),
        tracked(excluded, pulled_at=now), tracked(older, pulled_at=now, used_at=now - 5),
    )  # fmt: skip
    limits = replace(LIMITS, exclusions=frozenset({excluded}))
    readings = iter([85.0, 95.0, 79.0, 91.0, 90.5])
    pressure = Pressure(Thresholds(90, 80), lambda: next(readings))
    assert pressure.check(lambda: agent.make(limits)) is None
    found = pressure.check(lambda: agent.make(limits))
    assert found is not None and found.images == 1 and found.space_bytes > 1_500_000
    agent.obey()
    assert place.id(young) and not place.id(older)
    assert pressure.check(lambda: agent.make(limits)).images == 1  # type: ignore[union-attr]
    assert not place.id(young) and place.id(used) and place.id(excluded)
