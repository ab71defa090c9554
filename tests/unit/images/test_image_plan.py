"""Which images and containers go, and in which order (ECS agent behaviour, spec 08 §11)."""

from __future__ import annotations

import msgspec
import pytest

from common.model.agent import ImageReference
from common.model.status import TaskStatus
from common.model.task import Container, Task
from services.images.core import plan
from services.images.core.plan import Limits, UntrackedContainer, UntrackedImage

NOW = 1_800_000_000.0
HOUR = 3600.0
LIMITS = Limits(HOUR, HOUR, 5, 5, 3 * HOUR, frozenset(plan.BUILT_IN_EXCLUSIONS))


def image(name: str, age: float = 2 * HOUR, used: float = 0.0, **more: object) -> ImageReference:
    values = {"image_id": f"sha256:{name}", "names": (name,), "pulled_at": NOW - age, "last_used_at": used, **more}
    return ImageReference(**values)  # type: ignore[arg-type]


def chosen(*images: ImageReference, tasks=(), tried=(), limits=LIMITS) -> str | None:
    found = plan.next_image(images, list(tasks), tried, limits, NOW)
    return found.image_id if found else None


@pytest.mark.parametrize(
    ("candidate", "goes"),
    [
        (image("a", age=59 * 60), False),
        (image("a", age=61 * 60), True),
        (image("a", containers=("arn/c",)), False),
        (image("a", names=()), True),
        (image("amazon/amazon-ecs-pause:0.1.0"), False),
    ],
)
def test_an_image_goes_when_it_is_old_and_unused_and_not_excluded(candidate, goes):
    """Cases 10 to 13 and 19."""
    assert (chosen(candidate) is not None) is goes


def test_the_image_that_was_unused_longest_goes_first():
    """Case 14; age is measured from the pull, order from the last use."""
    assert chosen(image("new", used=NOW - 1), image("old", used=NOW - 100)) == "sha256:old"


def test_an_image_that_failed_in_this_cycle_is_passed_over():
    """A few images stuck in conflict must not starve the others."""
    assert chosen(image("stuck", used=1), image("free", used=2), tried={"sha256:stuck"}) == "sha256:free"


def test_an_image_named_by_a_live_task_stays_even_before_it_is_pulled():
    """The task's document is there before its pull begins; this is what makes a lock needless."""
    task = Task(arn="t", containers=(Container(name="c", image="a"),), known=TaskStatus.NONE)
    assert chosen(image("a"), tasks=[task]) is None
    stopped = msgspec.structs.replace(task, known=TaskStatus.STOPPED)
    assert chosen(image("a"), tasks=[stopped]) == "sha256:a"


def test_exclusions_match_whole_strings():
    """Case 20: `nginx:latest` does not protect an image known as `nginx`."""
    limits = with_values(LIMITS, exclusions=frozenset({"nginx:latest"}))
    assert chosen(image("nginx"), limits=limits) == "sha256:nginx"
    assert chosen(image("nginx:latest"), limits=limits) is None


def with_values(limits: Limits, **values: object) -> Limits:
    return Limits(**{**limits.__dict__, **values})  # type: ignore[arg-type]


def container(status: str, finished: float | None, created: float = NOW - 10 * HOUR, **more) -> UntrackedContainer:
    return UntrackedContainer(id="c", status=status, finished_at=finished, created_at=created, **more)


@pytest.mark.parametrize(
    ("seen", "goes"),
    [
        (container("exited", NOW - 4 * HOUR), True),
        (container("exited", NOW - 2 * HOUR), False),
        (container("created", 0.0), True),
        (container("created", 0.0, created=NOW - 60), False),  # better than the reference: it may be ours in a moment
        (container("exited", None), False),
        (container("running", NOW - 4 * HOUR), False),
        (container("paused", NOW - 4 * HOUR), False),
        (container("exited", NOW - 4 * HOUR, labels=(plan.TASK_LABEL,)), False),
    ],
)
def test_an_untracked_container_goes_when_it_ended_long_ago(seen, goes):
    """Cases 37 to 43."""
    assert bool(plan.removable_containers([seen], [], LIMITS, NOW)) is goes


def test_a_container_of_a_task_is_never_untracked():
    """Case 43: only the engine's sweep removes it."""
    assert plan.removable_containers([container("exited", NOW - 5 * HOUR)], {"c"}, LIMITS, NOW) == []


def test_small_untracked_images_go_first_and_young_ones_stay():
    """Cases 32 to 35."""
    images = [
        UntrackedImage("big", ("b:1",), 10, NOW - 2 * HOUR),
        UntrackedImage("small", ("s:1",), 5, NOW - 2 * HOUR),
        UntrackedImage("young", ("y:1",), 1, NOW - HOUR / 2),
        UntrackedImage("timeless", ("t:1",), 7, 0.0),
        UntrackedImage("tracked", ("x:1",), 1, 0.0),
        UntrackedImage("retagged", ("r:1",), 1, NOW - 2 * HOUR, tagged_at=NOW - 60),
    ]
    found = plan.removable_images(images, {"tracked"}, [], LIMITS, NOW)
    assert [i.id for i in found] == ["small", "timeless", "big"]


def test_an_image_with_several_tags_goes_tag_by_tag():
    """Cases 30 and 31: Docker refuses an id that has several tags."""
    assert plan.references_to_delete(UntrackedImage("id", ("a", "b"), 1, 0.0)) == ("a", "b")
    assert plan.references_to_delete(UntrackedImage("id", ("a",), 1, 0.0)) == ("id",)
    assert plan.references_to_delete(UntrackedImage("id", (), 1, 0.0)) == ("id",)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-06-01T10:00:00.123456789Z", 1780308000.123456789),
        ("2026-06-01T10:00:00+02:00", 1780300800.0),
        ("0001-01-01T00:00:00Z", 0.0),
        ("nonsense", None),
        ("", None),
    ],
)
def test_docker_times_are_read_with_nanoseconds_and_year_one(text, seconds):
    """Traps 10 and 11."""
    assert plan.docker_time(text) == pytest.approx(seconds) if seconds is not None else plan.docker_time(text) is None
