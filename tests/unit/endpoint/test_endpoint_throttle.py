"""Token buckets under a virtual clock, in one process and shared."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.endpoint.shared import SharedBuckets
from services.endpoint.throttle import Buckets, limits


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("10,", (40, 60)),
        ("10", (40, 60)),
        ("10,10,10", (40, 60)),
        (" ,10", (40, 60)),
        ("-10,10", (40, 60)),
        ("10,-1", (40, 60)),
        ("0,0", (40, 60)),
        ("0,5", (40, 5)),
        ("10,0", (10, 60)),
        ("  10 ,5  ", (10, 5)),
        ((10, 5), (10, 5)),
        ((0, 0), (40, 60)),
    ],
)
def test_the_setting_is_read_like_the_reference_reads_it(setting, expected):
    """Cases 26 and 27."""
    assert limits(setting) == expected


@pytest.fixture(params=["local", "shared"])
def buckets(request, tmp_path: Path):
    """Both kinds keep the same promises."""
    if request.param == "local":
        yield Buckets(40.0, 60.0)
    else:
        shared = SharedBuckets(tmp_path / "b", 40.0, 60.0)
        yield shared
        shared.close()


def test_a_bucket_starts_full_and_refills_continuously(buckets):
    """Sixty at once, then one each 25 ms; a denied request costs nothing."""
    key = ("10.0.0.1", "/x")
    assert sum(buckets.take(key, 5.0) for _ in range(100)) == 60
    assert not buckets.take(key, 5.024)
    assert buckets.take(key, 5.0251) and not buckets.take(key, 5.0251)
    assert sum(buckets.take(key, 6.0251) for _ in range(100)) == 40
    assert sum(buckets.take(key, 99.0) for _ in range(100)) == 60


def test_keys_do_not_share_tokens(buckets):
    """Address and path together are the key."""
    for key in (("a", "/x"), ("b", "/x"), ("a", "/y")):
        assert sum(buckets.take(key, 1.0) for _ in range(61)) == 60


def test_buckets_of_paths_that_nobody_asks_for_do_not_pile_up():
    """The reference keeps every one for ten years (W10): full ones are the same as new ones."""
    buckets = Buckets(40.0, 60.0)
    for n in range(20_000):
        buckets.take(("a", f"/{n}"), n * 0.01)
    assert len(buckets) < 2_000


def test_two_workers_share_one_limit(tmp_path: Path):
    """Two maps of the same file: what one takes the other does not have."""
    first, second = (SharedBuckets(tmp_path / "b", 40.0, 60.0) for _ in range(2))
    taken = sum(worker.take(("a", "/x"), 1.0) for _ in range(60) for worker in (first, second))
    assert taken == 60
    first.close()
    second.close()


def test_a_full_table_forgets_the_oldest_bucket(tmp_path: Path):
    """Unknown paths must not end the service of known ones."""
    shared = SharedBuckets(tmp_path / "b", 40.0, 60.0)
    assert all(shared.take(("a", f"/{n}"), float(n)) for n in range(40_000))
    shared.close()
