"""Protobuf's wire format, for messages written by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import protobuf


def test_the_examples_of_the_format_are_met():
    """protobuf.dev, "Encoding": 150 as field 1, "testing" as field 2, a message in field 3."""
    assert protobuf.number(1, 150) == bytes.fromhex("089601")
    assert protobuf.text(2, "testing") == bytes.fromhex("120774657374696e67")
    assert protobuf.message(3, protobuf.number(1, 150)) == bytes.fromhex("1a03089601")
    assert protobuf.text(2, "") == b"" and protobuf.texts(2, ["", "a"]) == bytes.fromhex("1200120161")
    assert protobuf.pairs(2, {"k": "v"}) == bytes.fromhex("12060a016b120176")


@given(st.lists(st.one_of(st.integers(0, 2**63 - 1), st.text()), max_size=5))
def test_what_is_written_is_read(values):
    """In order, with the field numbers from 1 on."""
    written = b"".join(
        protobuf.number(n, v) if isinstance(v, int) else protobuf.texts(n, [v]) for n, v in enumerate(values, 1)
    )
    read = [v if isinstance(v, int) else v.decode() for _, v in protobuf.fields(written)]
    assert read == values and [n for n, _ in protobuf.fields(written)] == list(range(1, len(values) + 1))


@given(st.binary(max_size=30))
def test_whatever_comes_is_a_message_or_a_value_error(data):
    """A server may send anything: the fields lie in what came, one after the other, or it is refused."""
    try:
        found = list(protobuf.fields(data))
    except ValueError:
        with pytest.raises(ValueError):
            protobuf.strings(data, 1)
        return
    texts = [value for number, value in found if number == 1 and isinstance(value, bytes)]
    assert len(found) + sum(len(value) for _, value in found if isinstance(value, bytes)) <= len(data)
    try:
        assert [text.encode() for text in protobuf.strings(data, 1)] == texts
    except UnicodeDecodeError:
        assert any(text.decode(errors="replace").encode() != text for text in texts)
