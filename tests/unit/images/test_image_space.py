"""Space given back, arrivals, spellings of a name, and when the disk is too full."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import gevent
import gevent.event
import pytest

from common.config import load
from common.model.agent import ImageReference
from common.model.status import TaskStatus
from common.model.task import Container, Task
from services.images import pressure, service
from services.images.core import plan, space
from services.images.core.arrivals import Arrivals
from services.images.core.plan import Limits
from services.images.core.space import Gone
from services.images.pressure import Pressure, Thresholds

LIMITS = Limits(3600, 3600, 5, 5, 3600, frozenset())
LAYERS = ["sha256:" + "1" * 64, "sha256:" + "2" * 64]


def test_only_layers_that_are_gone_count():
    """A shared base stays on the disk; entries of the history without size belong to no layer."""
    sizes = space.layer_sizes(LAYERS, [300, 0, 1000, 0])
    base, top = space.chain_ids(LAYERS)
    assert sizes == {base: 1000, top: 300} and base == LAYERS[0]
    answer = [{"Untagged": "a:1"}, {"Deleted": "sha256:image"}, {"Deleted": top}]
    assert space.given_back(LAYERS, sizes, 1300, answer) == 300
    assert space.given_back(LAYERS, sizes, 1300, [{"Untagged": "a:1"}]) == 0


def test_without_sizes_by_layer_only_a_whole_image_counts():
    """The figure is never too high."""
    sizes = space.layer_sizes(LAYERS, [300])
    deleted = [{"Deleted": chain} for chain in space.chain_ids(LAYERS)]
    assert sizes == {}
    assert space.given_back(LAYERS, sizes, 1300, deleted) == 1300
    assert space.given_back(LAYERS, sizes, 1300, deleted[1:]) == 0
    assert space.given_back([], {}, 1300, []) == 0


def test_an_image_that_was_not_there_at_the_last_look_came_after_it():
    """Of the images of the first look nothing is known; those that went are forgotten."""
    arrivals = Arrivals()
    arrivals.look({"a"}, 100.0)
    arrivals.look({"a", "b"}, 200.0)
    arrivals.look({"a", "b"}, 300.0)
    assert (arrivals.of("a"), arrivals.of("b"), len(arrivals)) == (0.0, 100.0, 2)
    arrivals.look({"b"}, 400.0)
    assert len(arrivals) == 1


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("nginx", "docker.io/library/nginx"),
        ("library/nginx:1", "docker.io/library/nginx"),
        ("docker.io/library/nginx@sha256:00", "docker.io/library/nginx"),
        ("index.docker.io/me/app:1@sha256:00", "docker.io/me/app"),
        ("me/app", "docker.io/me/app"),
        ("localhost/app:1", "localhost/app"),
        ("host:5000/team/app:1", "host:5000/team/app"),
        ("1.dkr.ecr.us-west-2.amazonaws.com/app@sha256:00", "1.dkr.ecr.us-west-2.amazonaws.com/app"),
    ],
)
def test_all_spellings_of_a_name_have_one_repository(name: str, repository: str):
    """The distribution reference grammar: default domain, `library/`, tag and digest away."""
    assert plan.repository(name) == repository


@pytest.mark.parametrize("spelling", ["nginx", "docker.io/library/nginx:latest", "nginx@sha256:00"])
def test_a_pull_under_another_spelling_protects_the_image(spelling: str):
    """Until the container has its image; then the id decides, and another image of the repository may go."""
    image = ImageReference(image_id="sha256:a", names=("nginx:latest",))
    pulling = Task(arn="t", containers=(Container(name="c", image=spelling),), known=TaskStatus.NONE)
    assert plan.next_image([image], [pulling], (), LIMITS, 1e9) is None
    has = Task(arn="t", containers=(Container(name="c", image=spelling, image_id="sha256:b"),))
    assert plan.next_image([image], [has], (), LIMITS, 1e9) is image


# -- the disk --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("high", "low", "chosen"),
    [("", "", None), ("90", "80", (90, 80)), ("90", "", (90, 80)), ("5", "", (5, 1)), ("80", "85", (80, 70)),
     ("", "70", None), ("100", "70", None), ("90", "0", (90, 80))],
)  # fmt: skip
def test_the_marks_are_off_unless_set_and_low_is_below_high(high: str, low: str, chosen: tuple[int, int] | None):
    """Values outside 1 to 99 count as not set."""
    names = "ECS_IMAGE_CLEANUP_DISK_HIGH_PERCENT", "ECS_IMAGE_CLEANUP_DISK_LOW_PERCENT"
    config = load({name: value for name, value in zip(names, (high, low), strict=True) if value})
    assert pressure.thresholds_of(config) == chosen


class FakeCycle:
    """A cycle whose candidates are numbers."""

    def __init__(self, tracked: int, untracked: int = 0) -> None:
        self.gone, self.limits, self.untracked = Gone(), LIMITS, bool(untracked)
        self.left, self.others = list(range(tracked)), [SimpleNamespace(id=f"u{9 - i}", young_since=float(9 - i))
                                                        for i in range(untracked)]  # fmt: skip
        self.removed: list[Any] = []

    def next_tracked(self, tried: set[str], limits: Limits) -> Any:
        assert limits.minimum_age_seconds < 0
        return SimpleNamespace(image_id=str(self.left[0])) if self.left else None

    def remove_tracked(self, image: Any) -> None:
        self.left.pop(0)
        self._count(image.image_id)

    def removable_untracked(self, limits: Limits) -> list[Any]:
        return self.others

    def remove_untracked(self, image: Any, limits: Limits) -> int:
        assert limits.untracked_minimum_age_seconds < 0
        self._count(image.id)
        return 1

    def _count(self, what: str) -> None:
        self.removed.append(what)
        self.gone.add(Gone(1, 0, 10))


def relieve(cycle: FakeCycle, *readings: float) -> FakeCycle:
    left = iter(readings)
    Pressure(Thresholds(90, 80), lambda: next(left)).check(lambda: cycle)  # type: ignore[arg-type, return-value]
    return cycle


def test_removing_begins_above_high_and_ends_below_low():
    """At 90 nothing happens; at 80.0 it goes on, at 79.9 it ends."""
    assert relieve(FakeCycle(9), 90.0).removed == []
    assert relieve(FakeCycle(9), 90.1, 85.0, 80.0, 79.9).removed == ["0", "1", "2"]


def test_untracked_images_go_after_tracked_ones_the_oldest_first():
    """Only when untracked cleanup is on."""
    assert relieve(FakeCycle(1, 3), 95, 94, 93, 79).removed == ["0", "u7", "u8"]
    assert relieve(FakeCycle(1, 0), 95, 94).removed == ["0"]


def test_a_disk_that_stays_full_is_told_once(caplog):
    """And again after it had room; a disk that cannot be measured is told, too."""
    caplog.set_level(logging.WARNING)
    readings = iter([95, 95, 50, 95])
    watch = Pressure(Thresholds(90, 80), lambda: next(readings))
    for _ in range(4):
        watch.check(lambda: FakeCycle(0))  # type: ignore[arg-type, return-value]
    assert [r.message.count("no more image") for r in caplog.records] == [1, 1]


def test_the_percentage_is_that_of_df(tmp_path):
    """Blocks reserved for root count neither as used nor as free."""
    assert 0.0 < pressure.used_percent(str(tmp_path)) <= 100.0


# -- the process -----------------------------------------------------------------------------------


def serving(monkeypatch: pytest.MonkeyPatch, seconds: float, **environment: str) -> tuple[list[str], list[str]]:
    """What the process does within the first `seconds` of virtual time, and what it says of itself."""
    clock, done, said = [0.0], [], []

    class Stopping(gevent.event.Event):
        def wait(self, timeout: float | None = None) -> bool:  # type: ignore[override]
            clock[0] += seconds if timeout is None else timeout
            return clock[0] >= seconds

    context: Any = SimpleNamespace(
        config=load(environment), stopping=Stopping(), ready=said.append, log=logging.getLogger()
    )
    monkeypatch.setattr(service.time, "monotonic", lambda: clock[0])
    made = service.Service(context)
    monkeypatch.setattr(made, "_make_cycle", lambda: SimpleNamespace(run=lambda: done.append("cycle") or Gone(1, 2, 3)))
    if made.pressure is not None:
        monkeypatch.setattr(made.pressure, "check", lambda _: done.append("look"))
    made.run()
    return done, said


def test_the_disk_is_looked_at_every_minute_and_cycles_keep_their_time(monkeypatch):
    """The first cycle after one whole interval; totals are told."""
    done, said = serving(monkeypatch, 3601.0, ECS_IMAGE_CLEANUP_DISK_HIGH_PERCENT="90")
    assert (done.count("cycle"), done.count("look"), done.index("cycle")) == (2, 60, 30)
    assert said[-1].endswith("removed since the start: 2 images and 4 containers, 0 MB") and "above 90 %" in said[0]


def test_images_that_are_kept_on_purpose_go_only_for_a_full_disk(monkeypatch):
    """`prefer-cached` has no cycles; ECS_DISABLE_IMAGE_CLEANUP has nothing at all."""
    full = {"ECS_IMAGE_CLEANUP_DISK_HIGH_PERCENT": "90"}
    done, _ = serving(monkeypatch, 3601.0, ECS_IMAGE_PULL_BEHAVIOR="prefer-cached", **full)
    assert set(done) == {"look"}
    assert serving(monkeypatch, 3601.0, ECS_IMAGE_PULL_BEHAVIOR="prefer-cached")[0] == []
    assert serving(monkeypatch, 3601.0, ECS_DISABLE_IMAGE_CLEANUP="true", **full)[0] == []
