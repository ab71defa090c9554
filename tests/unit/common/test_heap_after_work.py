"""Memory goes back once a process rests after work."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest

from common.heap import WORTH_SECONDS, AfterWork, give_back


def looks(*used: float) -> list[int]:
    """After which looks, five seconds apart, something was done; `used` is the CPU time before each."""
    done: list[int] = []
    clock = [1.0]
    number = 0
    after_work = AfterWork(lambda: done.append(number), lambda: clock[0])
    for number, seconds in enumerate(used):  # noqa: B007  (the lambda reads it)
        clock[0] += seconds
        after_work.look(5.0)
    return done


def test_a_process_that_rests_after_its_start_gives_back_once():
    """The imports leave garbage; after that an idle process pays nothing."""
    assert looks(0.0, 0.001, 0.0, 0.02, 0.0) == [0]


def test_work_is_followed_by_one_giving_back_when_it_is_over():
    """Not in the middle of a burst, and not again and again after it."""
    assert looks(0.0, 0.5, 0.3, 0.001, 0.0, 0.0, 0.2, 0.0) == [0, 3, 7]


def test_little_work_adds_up():
    """Many small tasks leave as much as one burst; a single one is not worth a collection."""
    a_bit = WORTH_SECONDS / 2 + 0.001
    assert looks(0.0, a_bit, 0.0, a_bit, 0.0) == [0, 4]


def test_a_process_that_is_never_quiet_is_not_disturbed():
    """A hundred running tasks keep telemetry above the mark; a pause of its loop would be for nothing."""
    assert looks(*[0.05] * 20) == []


def test_cycles_are_collected_and_free_pages_leave_the_process():
    """One block that stays at the top of the C heap keeps all below it, unless the heap is trimmed."""
    if sys.platform != "linux" or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""):
        pytest.skip("only glibc's heap is trimmed")
    gc.collect()
    blocks = [bytes(60_000) for _ in range(300)]
    loop: list[object] = [blocks[:-1]]
    loop.append(loop)
    top = blocks.pop()
    del blocks, loop
    before = resident_bytes()
    give_back()
    assert before - resident_bytes() > 9_000_000
    assert len(top) == 60_000


def resident_bytes() -> int:
    """What the process has in memory (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
