"""How long the event loop was away."""

from __future__ import annotations

import gevent
from gevent.monkey import get_original

from common.looplag import LoopLag
from common.readiness import Beat, Stalls, read

block = get_original("time", "sleep")


def test_what_runs_for_50_ms_between_two_waits_is_a_stall():
    """Less is the scheduler of a busy machine; what ran before the first wait is the program's start."""
    times = iter((10.0, 10.049, 20.0, 20.3, 30.0, 30.1))
    lag = LoopLag(lambda: next(times))
    lag.rests()
    assert lag.stalls == Stalls()
    for _ in range(3):
        lag.woke()
        lag.rests()
    assert (lag.stalls.number, round(lag.stalls.seconds, 3), round(lag.stalls.longest, 3)) == (2, 0.4, 0.3)


def test_a_blocked_loop_is_seen_at_its_length():
    """With the real loop: whether a greenlet, a timer or the main greenlet blocks it."""
    lag = LoopLag()
    lag.start()
    for blocking in (lambda: gevent.spawn(block, 0.2).join(), lambda: gevent.spawn_later(0.01, block, 0.1).join(),
                     lambda: block(0.3)):  # fmt: skip
        gevent.sleep(0.01)
        before = lag.stalls.number
        blocking()
        gevent.sleep(0.01)
        assert lag.stalls.number > before
    lag.stop()
    assert lag.stalls.seconds >= 0.6 and lag.stalls.longest >= 0.3
    seen = lag.stalls
    block(0.1)
    gevent.sleep(0.01)
    assert lag.stalls == seen, "stopped"


def test_stalls_go_with_the_heartbeat(tmp_path):
    """Milliseconds are kept; the file does not grow, and a file of an older version has none."""
    beat = Beat(str(tmp_path), "acs")
    beat.write(False, "x" * 5000, Stalls(12, 3.4567, 1.0))
    state = read(str(tmp_path), "acs")
    assert state is not None and state.stalls == Stalls(12, 3.457, 1.0)
    (tmp_path / "engine.beat").write_text('{"ready": true, "detail": "", "pid": 4}')
    state = read(str(tmp_path), "engine")
    assert state is not None and state.stalls == Stalls()
