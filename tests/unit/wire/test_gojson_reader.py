"""JSON as Go's decoder reads it: the values of Python's reader, and Go's own words for what is wrong."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.wire.gojson import NotJson, Number, Pairs, first_value, kind_of, whole_value

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def plain(value: Any) -> Any:
    """The value as Python's reader gives it."""
    if isinstance(value, Number):
        return float(value.text) if set(value.text) & set(".eE") else int(value.text)
    if isinstance(value, Pairs):
        return {key: plain(member) for key, member in value}
    return [plain(item) for item in value] if isinstance(value, list) else value


@given(VALUES, st.booleans(), st.sampled_from((None, 2)))
def test_what_is_json_is_read_as_python_reads_it(value: Any, ascii_only: bool, indent: int | None) -> None:
    """In every spelling; characters outside of ASCII as they are or escaped."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert plain(whole_value(text)) == value
    assert plain(first_value(text.encode())) == value


@given(st.binary(max_size=40))
def test_reading_raises_nothing_but_its_own_error(data: bytes) -> None:
    """Whatever comes, and only for what Python's reader refuses as well."""
    text = data.decode("utf-8", "replace")
    try:
        whole_value(text)
    except NotJson:
        with pytest.raises(ValueError):
            json.loads(text, parse_constant=lambda word: int(word))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("text", "'e' in literal true (expecting 'r')"),
        ("nope", "'o' in literal null (expecting 'u')"),
        ("foo", "'o' in literal false (expecting 'a')"),
        ('"a\nb"', "'\\n' in string literal"),
        ('"a\x01b"', "'\\x01' in string literal"),
        ('"\\x"', "'x' in string escape code"),
        ('"\\u12g4"', "'g' in \\u hexadecimal character escape"),
        ('{"k":-}', "'}' in numeric literal"),
        ('{"k":1.}', "'}' after decimal point in numeric literal"),
        ('{"k":1e+}', "'}' in exponent of numeric literal"),
        ('{"k":01}', "'1' after object key:value pair"),
        ("é", "'Ã' looking for beginning of value"),
        ("\ufeff{}", "'ï' looking for beginning of value"),
        ("‚", "'â' looking for beginning of value"),
        ("[1é]", "'Ã' after array element"),
        ("{\x85", "'Â' looking for beginning of object key string"),
        ("'", "'\\'' looking for beginning of value"),
        ("\\", "'\\\\' looking for beginning of value"),
        ("\a", "'\\a' looking for beginning of value"),
        ('{"a" "b"}', "'\"' after object key"),
        ("NaN", "'N' looking for beginning of value"),
        ("-Infinity", "'I' in numeric literal"),
        ("{} x", "'x' after top-level value"),
    ],
)
def test_what_is_wrong_is_told_in_the_reference_s_words(text: str, words: str) -> None:
    """A byte is named as if it were a character, since that is what Go's decoder looks at."""
    with pytest.raises(NotJson) as caught:
        whole_value(text)
    assert str(caught.value) == f"invalid character {words}"


@pytest.mark.parametrize("text", ["", " ", "{", '{"a":', '"', '"\\u12', "-", "1.", "1e", "tru", "[1,", '{"a":1 '])
def test_a_text_that_ends_too_early_is_told(text: str) -> None:
    """Another sentence for a whole text than for a stream."""
    with pytest.raises(NotJson, match=r"^unexpected end of JSON input$"):
        whole_value(text)
    with pytest.raises(NotJson, match=r"^(unexpected )?EOF$"):
        first_value(text.encode())


def test_only_the_first_value_of_a_stream_is_read() -> None:
    """The reference's decoder leaves the rest of a body alone."""
    assert first_value(b' {"a":1,"a":2.50} junk') == Pairs([("a", Number("1")), ("a", Number("2.50"))])


def test_an_object_is_no_array() -> None:
    """Pairs are a list, which must not be taken for a JSON array."""
    assert [kind_of(whole_value(text)) for text in ("{}", "[]", "1", '"1"', "true", "null")] == [
        "object", "array", "number", "string", "bool", "null",
    ]  # fmt: skip


def test_a_text_that_is_too_deep_is_refused() -> None:
    """It must cost neither the stack nor the process."""
    assert plain(whole_value("[" * 200 + "]" * 200)) is not None
    for text in ("[" * 100_000, '{"a":' * 100_000):
        with pytest.raises(NotJson, match=re.escape("exceeded max depth")):
            whole_value(text)


def test_bytes_and_halves_that_are_no_character_are_replaced() -> None:
    """One replacement character for each, as Go does."""
    assert first_value(b'"\xff\xc3 \xe2\x82"') == "\ufffd\ufffd \ufffd\ufffd"
    assert whole_value('"\\ud83d\\ude00 \\ud83d"') == "\U0001f600 \ufffd"
    assert whole_value('"\ud83d"') == "\ufffd"
