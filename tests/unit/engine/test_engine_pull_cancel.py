"""Which pulls are ended because nobody waits for them any more."""

from common.model.status import ContainerStatus as C
from common.model.task import Container, Task
from services.engine.core.changes import abandoned_pulls


def task(*containers):
    """A task of (name, known, applied)."""
    return Task(arn="t", containers=tuple(Container(name=n, known=k, applied=a) for n, k, a in containers))


def test_a_container_that_stops_gives_up_its_pull_and_no_other():
    """A sibling that takes a minute to stop must not keep the registry busy for nothing."""
    before = task(
        ("pulling", C.MANIFEST_PULLED, C.PULLED), ("asking", C.NONE, C.MANIFEST_PULLED), ("runs", C.RUNNING, 0)
    )
    stopping = task(("pulling", C.STOPPED, C.NONE), ("asking", C.STOPPED, C.NONE), ("runs", C.RUNNING, C.STOPPED))
    assert abandoned_pulls(before, stopping) == ["pulling", "asking"]
    assert abandoned_pulls(before, before) == []
    assert abandoned_pulls(stopping, stopping) == []
