"""What the engine writes down about images, from which the cleanup works: the cases of spec 08 §11 about references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from common import keys
from common.bus import Change
from common.clock import VirtualClock
from common.errors import NamedError
from common.memory import MemoryBus
from common.model.agent import ImageReference
from common.model.status import ContainerType
from common.model.task import Container, Task
from services.engine.core.effects import Action, Outcome
from services.engine.images import Images

A, B = "sha256:a", "sha256:b"
START = 1_780_308_000.0


class Book:
    """The references, and tasks that use images."""

    def __init__(self) -> None:
        self.bus, self.clock = MemoryBus(), VirtualClock(START)
        bus: Any = self.bus
        self.images = Images(bus, self.clock)

    def use(self, name: str, image: str, image_id: str, pulled: bool = True, **more: Any) -> Task:
        """A task of this name has its image, from the registry or from the cache."""
        task = Task(arn=name, revision=1, containers=(Container(name="c", image=image, image_id=image_id, **more),))
        began = self.clock.now() if pulled else 0.0
        self.images.used(task, "c", Outcome(action=Action.PULL, image_id=image_id, registry_pull_began_at=began))
        self.images.flush()
        return task

    def saved(self, image_id: str) -> ImageReference:
        """As the cleanup reads it."""
        found = self.bus.durable.get(keys.IMAGE, image_id)
        assert found is not None
        return found


@pytest.fixture
def book() -> Book:
    """A host that has seen no image yet."""
    return Book()


def test_a_first_use_is_written_with_its_time(book: Book):
    """Case 1."""
    book.use("t1", "busybox", A)
    found = book.saved(A)
    assert (found.names, found.containers) == (("busybox",), ("t1/c",))
    assert found.pulled_at == found.last_used_at == START and found.pull_succeeded


def test_a_second_use_changes_neither_names_nor_times(book: Book):
    """Case 2 and trap 12: PulledAt belongs to the first pull, LastUsedAt to the end of a use."""
    book.use("t1", "busybox", A)
    book.clock.advance(60.0)
    book.use("t2", "busybox", A)
    found = book.saved(A)
    assert found.names == ("busybox",) and found.containers == ("t1/c", "t2/c")
    assert found.pulled_at == found.last_used_at == START


def test_names_are_kept_as_they_were_written(book: Book):
    """Case 3 and trap 16: two spellings of one tag are two names, in the order of their first use."""
    book.use("t1", "busybox", A)
    book.use("t2", "busybox:latest", A)
    assert book.saved(A).names == ("busybox", "busybox:latest")


def test_a_name_moves_to_the_image_that_has_it_now(book: Book):
    """Case 4: the old image keeps its containers and has no name left."""
    book.use("t1", "busybox", A)
    book.use("t2", "busybox", B)
    assert (book.saved(A).names, book.saved(A).containers) == ((), ("t1/c",))
    assert (book.saved(B).names, book.saved(B).containers) == (("busybox",), ("t2/c",))


@pytest.mark.parametrize("kind", [ContainerType.CNI_PAUSE, ContainerType.NAMESPACE_PAUSE])
def test_images_of_internal_containers_are_not_written_down(book: Book, kind):
    """They are never pulled, and protected by the exclusion list (spec 08 §2.3)."""
    book.use("t1", "amazon/amazon-ecs-pause:0.1.0", A, type=kind)
    assert book.bus.durable.get(keys.IMAGE, A) is None


def test_without_an_image_there_is_nothing_to_write(book: Book):
    """Case 5: neither in Docker nor in the registry."""
    book.use("t1", "busybox", "")
    assert not book.images.references


@pytest.mark.parametrize(("pulled", "failed", "succeeded"), [(True, False, True), (True, True, False),
                                                            (False, False, False)])  # fmt: skip
def test_only_a_pull_that_succeeded_counts_for_once(book: Book, pulled, failed, succeeded):
    """Cases 45, 47 and 48: a cached image after a failed pull has its reference all the same."""
    task = Task(arn="t1", revision=1, containers=(Container(name="c", image="busybox", image_id=A),))
    error = NamedError("CannotPullContainerError", "no") if failed else None
    began = START if pulled else 0.0
    book.images.used(task, "c", Outcome(action=Action.PULL, image_id=A, registry_pull_began_at=began, error=error))
    assert book.images.references[A].containers == ("t1/c",)
    assert book.images.pull_succeeded("busybox") is succeeded
    assert not book.images.pull_succeeded("busybox:latest")


def test_an_image_that_a_cycle_removed_is_pulled_again(book: Book):
    """Case 46."""
    book.images.released(book.use("t1", "busybox", A))
    assert book.images.pull_succeeded("busybox")
    book.images.removed(A, "busybox")
    assert not book.images.pull_succeeded("busybox")


def test_the_end_of_a_use_is_noted_once(book: Book):
    """Cases 8 and 9: the reference stays, its LastUsedAt is that of the cleanup; a second cleanup changes nothing."""
    task = book.use("t1", "busybox", A)
    book.clock.advance(100.0)
    book.images.released(task)
    book.clock.advance(100.0)
    book.images.released(task)
    book.images.flush()
    found = book.saved(A)
    assert (found.containers, found.last_used_at, found.pulled_at) == ((), START + 100.0, START)


def test_containers_of_the_same_name_in_two_tasks_are_two(book: Book):
    """The reference looks at the container's name only (spec 08 §13)."""
    first = book.use("t1", "busybox", A)
    book.use("t2", "busybox", A)
    book.images.released(first)
    assert book.images.references[A].containers == ("t2/c",)


def test_a_lost_name_is_saved_and_the_last_one_ends_the_reference(book: Book):
    """Case 18: a crash between two names does not bring the first one back."""
    for task in book.use("t1", "a", A), book.use("t2", "b", A):
        book.images.released(task)
    book.images.removed(A, "b")
    book.images.flush()
    assert book.saved(A).names == ("a",)
    book.images.removed(A, "a")
    book.images.flush()
    assert book.bus.durable.get(keys.IMAGE, A) is None


@pytest.mark.parametrize("name", ["busybox", "other", ""])
def test_an_image_that_a_task_uses_meanwhile_keeps_its_record(book: Book, name: str):
    """The removal and the word of it are two moments; a task that comes between them may have pulled the image again.

    With `once` it may also have been content with what is gone now: the next one pulls.
    """
    book.images.released(book.use("t1", "busybox", A))
    book.use("t2", "other", A)
    book.images.removed(A, name)
    book.images.flush()
    assert (book.saved(A).names, book.saved(A).containers) == (("busybox", "other"), ("t2/c",))
    assert not book.images.pull_succeeded("other")


def test_an_image_that_comes_back_at_once_is_written_down(book: Book):
    """The store still has the old record, and would take a new one for an old one that was repeated."""
    book.images.released(book.use("t1", "busybox", A))
    book.images.flush()
    book.images.removed(A)
    book.use("t2", "busybox", A)
    assert book.saved(A).containers == ("t2/c",)
    book.images.released(Task(arn="t2", revision=1, containers=(Container(name="c", image_id=A),)))
    book.images.removed(A)
    book.images.flush()
    book.use("t3", "busybox", A)
    assert book.saved(A).containers == ("t3/c",) and book.saved(A).revision == 1, "it began anew"


def restarted(book: Book, *tasks: Task) -> Images:
    """The references after a restart with these tasks."""
    bus: Any = book.bus
    images = Images(bus, book.clock)
    images.load(tasks)
    return images


def saved(names: tuple[str, ...], *containers: str) -> Callable[[str], ImageReference]:
    return lambda image_id: ImageReference(
        revision=1, image_id=image_id, names=names, containers=containers, pulled_at=1.0, last_used_at=2.0
    )


def test_users_are_counted_anew_at_the_start_and_names_stay(book: Book):
    """Cases 6, 45c and 50, trap 13: whoever comes last does not take the name, and no stale user protects an image."""
    for image_id, make in ((A, saved((), "gone/c")), (B, saved(("busybox",), "t2/c"))):
        book.bus.durable.commit(Change().save(keys.IMAGE, image_id, make(image_id)))
    tasks = [Task(arn=arn, revision=1, containers=(Container(name="c", image="busybox", image_id=id_),))
             for arn, id_ in (("t2", B), ("t1", A))]  # fmt: skip
    found = restarted(book, *tasks).references
    assert (found[A].names, found[A].containers) == ((), ("t1/c",))
    assert (found[B].names, found[B].containers) == (("busybox",), ("t2/c",))
    assert found[A].pulled_at == 1.0 and found[A].last_used_at == 2.0


def test_a_reference_that_a_crash_lost_begins_anew(book: Book):
    """Case 7, better: the image would stay for ever."""
    task = Task(arn="t1", revision=1, containers=(Container(name="c", image="busybox", image_id=A),))
    found = restarted(book, task).references[A]
    assert (found.names, found.containers, found.pulled_at) == (("busybox",), ("t1/c",), START)
