"""The JSON rules of spec 06 §2 and the times."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.endpoint.encode import docker_time, encode, number, seconds_text

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<a>&", b'"\\u003ca\\u003e\\u0026"'),
        ("\u2028\u2029", b'"\\u2028\\u2029"'),
        ("é", '"é"'.encode()),
        ("\ud800x", '"\ufffdx"'.encode()),
        ('"\\\n', b'"\\"\\\\\\n"'),
    ],
)
def test_strings_are_escaped_like_the_reference_does(text, expected):
    """HTML characters and line separators as escapes, other text as UTF-8, broken text as U+FFFD."""
    assert encode(text) == expected


@given(JSON_VALUES)
def test_encoding_loses_nothing(value):
    """Whatever is escaped, a reader gets the same value back."""
    assert json.loads(encode(value)) == value


@pytest.mark.parametrize(("value", "expected"), [(2.0, b"2"), (0.25, b"0.25"), (1024.0, b"1024"), (0.1, b"0.1")])
def test_integral_floats_have_no_fraction(value, expected):
    """Clients in typed languages decode them as integers."""
    assert encode(number(value)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-06-01T10:00:00.123456789Z", "2026-06-01T10:00:00.123456789Z"),
        ("2026-06-01T10:00:00.500000000Z", "2026-06-01T10:00:00.5Z"),
        ("2026-06-01T10:00:00.000Z", "2026-06-01T10:00:00Z"),
        ("2026-06-01T12:30:00.25+02:30", "2026-06-01T10:00:00.25Z"),
        ("2026-06-01T05:00:00-05:00", "2026-06-01T10:00:00Z"),
        ("0001-01-01T00:00:00Z", ""),
        ("", ""),
        ("yesterday", ""),
    ],
)
def test_docker_times_keep_their_digits_and_lose_their_zone(text, expected):
    """Nanoseconds stay, trailing zeros go, the zero time is no time."""
    assert docker_time(text) == expected


def test_unix_seconds_become_utc_with_the_digits_they_have():
    """A float of today holds microseconds."""
    assert seconds_text(0.0) == ""
    assert seconds_text(1780308000.5) == "2026-06-01T10:00:00.5Z"
    assert seconds_text(1780308000.0) == "2026-06-01T10:00:00Z"
    assert seconds_text(1780308000.123457) == "2026-06-01T10:00:00.123457Z"
