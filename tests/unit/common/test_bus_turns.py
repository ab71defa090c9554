"""Calls to a store take turns over a few connections."""

from __future__ import annotations

import gevent
import pytest

from common.bus import CALLS, Store
from common.errors import Temporary


@pytest.fixture
def store(tmp_path):
    """No server is needed: the calls do not use the client."""
    return Store("durable", str(tmp_path / "none.sock"))


def test_a_burst_of_calls_goes_over_a_few_connections(store):
    """Each connection stays open on both sides after the burst; a hundred of them cost 1.5 MB."""
    running, most = 0, 0

    def action(_):
        nonlocal running, most
        running += 1
        most = max(most, running)
        gevent.sleep(0.001)
        running -= 1
        return True

    calls = [gevent.spawn(store.call, action) for _ in range(5 * CALLS)]
    assert all(call.get(timeout=5) for call in calls)
    assert most == CALLS


def test_a_call_waits_no_longer_for_its_turn_than_its_deadline(store):
    """A server that hangs keeps every turn; who waits for one must learn of it in time."""
    answer = gevent.event.Event()
    hung = [gevent.spawn(store.call, lambda _: answer.wait()) for _ in range(CALLS)]
    gevent.sleep(0)
    with gevent.Timeout(2.0), pytest.raises(Temporary, match="does not answer"):
        store.call(lambda _: True, deadline_seconds=0.05)
    answer.set()
    gevent.joinall(hung, timeout=2, raise_error=True)
    assert store.call(lambda _: True, deadline_seconds=0.05)
