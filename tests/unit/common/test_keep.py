"""What becomes of a loop that fails."""

import logging

from common.errors import Temporary
from common.keep import keep


def test_a_part_that_fails_is_begun_again_until_it_returns(caplog):
    """An unexpected error is told with the part's name and its place in the code, a temporary one in a sentence."""
    ends = [KeyError("no such"), Temporary("Redis is away"), None]
    pauses = []

    def job():
        if (error := ends.pop(0)) is not None:
            raise error

    with caplog.at_level(logging.WARNING):
        keep("the reader", job, lambda seconds: pauses.append(seconds) is None)
    assert ends == [] and len(pauses) == 2 and 0.5 <= pauses[0] <= 0.6 and 1.0 <= pauses[1] <= 1.2
    assert [r.getMessage() for r in caplog.records] == [
        "the reader failed and is begun again",
        "the reader pauses: Redis is away",
    ]
    assert caplog.records[0].exc_info is not None


def test_a_part_is_not_begun_again_when_the_process_stops():
    """The pause says so."""
    runs = []

    def job():
        runs.append(1)
        raise KeyError

    keep("the reader", job, lambda seconds: False)
    assert runs == [1]
