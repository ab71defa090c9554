"""The cheap look at all containers: what it finds suspicious, and that it concludes nothing by itself."""

import pytest

from common.errors import Temporary
from common.model.status import ContainerStatus as C
from common.model.task import Container, Task
from services.engine.patrol import Patrol, suspicious


def one(known=C.RUNNING, applied=C.NONE, docker_id="d"):
    """A task of one container."""
    return Task(arn="t", containers=(Container(name="app", known=known, applied=applied, docker_id=docker_id),))


@pytest.mark.parametrize(
    ("task", "states", "found"),
    [
        (one(), {"d": "running"}, False),
        (one(), {"d": "paused"}, False),
        (one(), {"d": "exited"}, True),
        (one(), {}, True),
        (one(C.CREATED), {"d": "created"}, False),
        (one(C.CREATED), {"d": "running"}, True),
        (one(C.CREATED), {}, False),
        (one(C.RUNNING, applied=C.STOPPED), {"d": "exited"}, False),
        (one(C.STOPPED), {}, False),
        (one(C.PULLED, docker_id=""), {}, False),
    ],
)
def test_a_container_in_another_state_than_known_is_suspicious(task, states, found):
    """Only idle ones: a call in flight knows better. A created one that is gone shows at its start."""
    assert list(suspicious([task], states)) == ([task] if found else [])


class Lists:
    """Hands that only list."""

    def __init__(self, answer):
        self.answer, self.calls = answer, 0

    def list_containers(self):
        """The answer, or the error."""
        self.calls += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "looked_at"),
    [([("d", "n", {}, "running")], []), ([], ["t"]), (Temporary("away"), [])],
    ids=["as known", "missing", "no answer"],
)
def test_a_round_hands_what_is_suspicious_to_the_worker(answer, looked_at):
    """A Docker that does not answer is no finding."""
    found = []
    Patrol(Lists(answer), lambda: [one()], found.append).round()
    assert found == looked_at


def test_docker_is_not_asked_when_there_is_no_task():
    """An idle host costs nothing."""
    lists = Lists([])
    Patrol(lists, list, print).round()
    assert lists.calls == 0
