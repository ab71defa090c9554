"""Samples, queues and statistic sets: the cases of the specification's table, row by row (spec 07 §5, §6, §19)."""

import json
import os
import struct

import msgspec
import pytest

from services.telemetry.core import samples
from services.telemetry.core.numbers import LARGEST, encode, epoch, f32, format_time, number, parse_time
from services.telemetry.core.samples import Counters, Queue, long_set, queue_length
from services.telemetry.files import this_host

SECOND = 1_000_000_000


def plain(value):
    """As a JSON reader sees it."""
    return json.loads(encode(value))


def queue_of(*rows, length=80):
    queue = Queue(length)
    for row in rows:
        queue.append(row)
    return queue


def cpu_rows(*pairs):
    return [Counters(at, cpu) for at, cpu in pairs]


@pytest.mark.parametrize(
    "pairs, expected",
    [
        ([(0, 0), (1, 1), (2, 300000000)], {"max": 30000001024, "min": 100, "sampleCount": 2, "sum": 30000001124}),
        ([(0, 0), (1, 1), (2, 3), (2, 4)], {"max": 200, "min": 100, "sampleCount": 3, "sum": 500}),
        ([(5, 0), (5, 7)], None),
        (
            [(-1_000_000, 0), (-1_000_000, 10_000_000), (0, 20_000_000)],
            {"max": 1000, "min": 1000, "sampleCount": 1, "sum": 1000},
        ),
    ],
)
def test_cpu_percentages_are_shares_of_the_host_in_single_precision(pairs, expected):
    """Cases 1 to 4: differences, a repeated time repeats the value, equal times alone give no set."""
    found = queue_of(*cpu_rows(*pairs)).cpu_set()
    assert (found if found is None else plain(found)) == expected


def test_a_full_queue_pushes_the_oldest_out_but_differences_stay():
    """Case 5: five places, six samples; rates and percentages were computed when the first was still there."""
    values = [2112444996, 2248922292, 2382142527, 2516445820, 2653783456, 2666483380]
    queue = queue_of(
        *(Counters(i * SECOND // 10, v, net=(v, 0, 0, 0, 0, 0, 0, 0)) for i, v in enumerate(values)), length=5
    )
    assert plain(queue.cpu_set()) == {
        "max": 137.33763122558594, "min": 12.69992446899414, "sampleCount": 5, "sum": 554.0383796691895,
    }  # fmt: skip
    network, whole = queue.network_set()
    assert whole
    assert plain(network["rxBytesPerSecond"]) == {
        "max": 1373376384, "min": 126999248, "sampleCount": 5, "sum": 5540383824,
    }  # fmt: skip
    assert network["rxBytes"]["sum"] == 12467777475


def test_memory_is_floored_to_mib_before_statistics():
    """Case 6."""
    queue = queue_of(*(Counters(i, memory=7377772544) for i in range(5)))
    assert plain(queue.memory_set()) == {"max": 7035, "min": 7035, "sampleCount": 5, "sum": 35175}


def test_sums_beyond_63_bits_go_into_the_overflow_members():
    """Cases 7 and 8."""
    value = 4611686018427387903
    found = long_set([value] * 3)
    assert found == {
        "max": value, "min": value, "overflowMax": 0, "overflowMin": 0, "overflowSum": 4611686018427387902,
        "sampleCount": 3, "sum": 9223372036854775807,
    }  # fmt: skip
    assert long_set([1 << 63])["max"] == LARGEST and long_set([1 << 63])["overflowMax"] == 1
    assert long_set([LARGEST])["overflowMax"] == 0
    assert long_set([2 * LARGEST])["overflowMax"] == 0


def test_one_sample_makes_no_set():
    """Case 9."""
    queue = queue_of(Counters(0))
    assert (queue.cpu_set(), queue.memory_set(), queue.storage_set(), queue.restart_set()) == (None,) * 4
    assert queue.network_set() == ({}, False)


def test_a_published_sample_still_gives_the_next_difference():
    """Case 10: after a publish one new sample is enough, and its percentage counts from the published one."""
    queue = queue_of(*cpu_rows((0, 0), (SECOND, 0), (2 * SECOND, 0), (3 * SECOND, SECOND)))
    queue.published(queue.appended)
    queue.append(Counters(4 * SECOND, SECOND + SECOND // 2))
    assert plain(queue.cpu_set()) == {"max": 50, "min": 50, "sampleCount": 1, "sum": 50}
    assert plain(queue.memory_set())["sampleCount"] == 1


def test_a_sample_that_arrives_while_a_message_is_handed_over_is_neither_lost_nor_sent_twice():
    """Only what was in the message counts as published."""
    queue = queue_of(*cpu_rows((0, 0), (1, 1), (2, 2)))
    mark = queue.appended
    queue.append(Counters(3, 3))
    queue.published(mark)
    assert plain(queue.memory_set())["sampleCount"] == 1


def test_restarts_are_counted_from_the_sample_before_the_first_unpublished_one():
    """Cases 11 and 12, and the two examples of spec 07 §6."""
    queue = queue_of(*(Counters(i, restarts=n) for i, n in enumerate([0, 1, 2, 3])))
    assert queue.restart_set() == {"restartCount": 3}
    queue.published(queue.appended)
    queue.append(Counters(9, restarts=4))
    assert queue.restart_set() == {"restartCount": 1}
    queue.published(queue.appended)
    queue.append(Counters(10, restarts=2))
    assert queue.restart_set() is None
    assert queue_of(*(Counters(i, restarts=n) for i, n in enumerate([0, 1, 3, 3, 4, 5]))).restart_set() == {
        "restartCount": 5
    }
    partly = queue_of(*(Counters(i, restarts=n) for i, n in enumerate([0, 1, 3])))
    partly.published(partly.appended)
    for i, n in enumerate([4, 5, 7]):
        partly.append(Counters(5 + i, restarts=n))
    assert partly.restart_set() == {"restartCount": 4}


def test_a_counter_that_falls_wraps_as_the_reference_lets_it():
    """Case 13."""
    queue = queue_of(*cpu_rows((0, 2000000000), (SECOND, 0)))
    assert plain(queue.cpu_set())["max"] == 1844674428928


def test_samples_without_a_network_count_as_zero_in_every_network_statistic():
    """Case 50a: also in the rates, which are 0 and not left out."""
    network, whole = queue_of(*(Counters(i * SECOND) for i in range(20))).network_set()
    assert whole and list(network) == sorted(network) and len(network) == 10
    for value in network.values():
        assert (value["max"], value["min"], value["sum"], value["sampleCount"]) == (0, 0, 0, 20)


def test_the_first_report_has_one_percentage_less_than_samples():
    """Case 50c: 19 and 20, then 20 everywhere."""
    queue = queue_of(*(Counters(i * SECOND, i, net=(i,) * 8) for i in range(20)))
    network, _ = queue.network_set()
    assert (queue.cpu_set()["sampleCount"], queue.memory_set()["sampleCount"]) == (19, 20)
    assert (network["rxBytesPerSecond"]["sampleCount"], network["rxBytes"]["sampleCount"]) == (19, 20)
    queue.published(queue.appended)
    for i in range(20, 40):
        queue.append(Counters(i * SECOND, i, net=(i,) * 8))
    assert (queue.cpu_set()["sampleCount"], queue.memory_set()["sampleCount"]) == (20, 20)


def test_queue_lengths_follow_the_polling_interval():
    """Case 28 and the table of spec 07 §1."""
    assert queue_length(1.0, False) == 80
    assert [queue_length(s, True) for s in (5.0, 10.0, 15.0, 20.0)] == [16, 8, 5, 4]


def test_a_time_difference_beyond_63_bits_is_cut_off():
    """A zero time followed by a real one must not raise."""
    queue = queue_of(Counters(-(1 << 62), 0), Counters(1 << 63, 10**9))
    assert plain(queue.cpu_set())["max"] >= 0


def test_f32_is_ieee_single_precision():
    """The emulation is the machine's own conversion."""
    assert f32(0.1) == struct.unpack("f", struct.pack("f", 0.1))[0]


@pytest.mark.parametrize(
    "value, text",
    [
        (1780308003.250999, "1780308003.25"), (1780308003.0, "1780308003"), (1780307990.417, "1780307990.417"),
        (1780307000.5, "1780307000.5"), (1780307940.12, "1780307940.12"),
    ],
)  # fmt: skip
def test_times_are_truncated_to_milliseconds_without_trailing_zeros(value, text):
    """Case 52."""
    assert encode(epoch(value)).decode() == text


@pytest.mark.parametrize(
    "value, text",
    [
        (119.0, "119"), (49.601844787597656, "49.601844787597656"), (1e-7, "1e-7"), (0.00001, "0.00001"),
        (1e16, "10000000000000000"), (1e21, "1e+21"), (0.0, "0"), (0.5, "0.5"), (2.0**53, "9007199254740992"),
        (2.0**64, "18446744073709552000"), (-(2.0**64), "-18446744073709552000"), (2**64, "18446744073709551616"),
    ],
)  # fmt: skip
def test_doubles_are_written_as_go_writes_them(value, text):
    """Whole values without a fraction, exponents only below 1e-6 and from 1e21 on; of large ones the digits that tell
    them apart, then zeros. Integers are what they are."""
    assert encode(number(value)).decode() == text


def test_times_keep_nanoseconds_and_the_zero_time_is_none():
    """Fractions of any length, and the year 1."""
    assert parse_time("2026-06-01T10:00:01.503217845Z") % SECOND == 503217845
    assert parse_time("2026-06-01T10:00:00.5Z") % SECOND == 500000000
    assert parse_time("2026-06-01T10:00:03Z") == 1780308003 * SECOND
    assert parse_time("0001-01-01T00:00:00Z") == parse_time("") == parse_time("soon") == 0
    assert format_time(1780308001503217845) == "2026-06-01T10:00:01.503217845Z"
    assert format_time(1780308000500000000) == "2026-06-01T10:00:00.5Z"
    assert format_time(0) == "0001-01-01T00:00:00Z"


def test_strings_are_escaped_as_go_escapes_them():
    """`<`, `>` and `&` would change the size that is measured against the limit."""
    assert encode({"a": "<&>"}) == b'{"a":"\\u003c\\u0026\\u003e"}'
    assert encode("\u2028\u2029") == b'"\\u2028\\u2029"'
    assert msgspec.json.decode(encode({"a": "<&>"})) == {"a": "<&>"}
    assert samples.STREAM_LENGTH == 80


def test_the_cpus_are_those_that_this_process_may_use():
    """Trap 9: neither those that are online nor those of the container."""
    assert this_host().cpus == len(os.sched_getaffinity(0))
