"""The value grammars of spec 01 §1: what is accepted, what is not, and that no text whatever breaks them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import grammar
from common.config.grammar import HOUR, INT64_MAX, INT64_MIN, MILLISECOND, MINUTE, SECOND, Malformed

TEXTS = st.text() | st.text(alphabet="0123456789.+-nuµμsmh ") | st.text(alphabet='[]{},:"0123456789.-eEtruefalsn \\')


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0), ("-0", 0), ("+0", 0), ("0s", 0), ("1h30m", HOUR + 30 * MINUTE), ("1.5h", 90 * MINUTE),
        ("-10s", -10 * SECOND), ("+10s", 10 * SECOND), (".5s", 500 * MILLISECOND), ("1.s", SECOND), ("1us", 1000),
        ("1µs", 1000), ("1μs", 1000), ("1ns", 1), ("1m1m", 2 * MINUTE), ("0.3333333333333333333h", 20 * MINUTE),
        ("9223372036854775807ns", INT64_MAX), ("-9223372036854775808ns", INT64_MIN), ("0.9ns", 0),
        ("1.00000000000000000000000000000000000000001s", SECOND),
    ],
)  # fmt: skip
def test_a_go_duration_is_read_as_go_reads_it(text, nanoseconds):
    """The examples of spec 01 §1 and of Go's own tests, with truncation and the 64-bit limits."""
    assert grammar.parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    "text",
    ["", "30", "1d", " 1s", "1s ", "1 s", "+", "-", "s", ".", ".s", "-.", "+.s", "1..s", "--1s", "1e3s", "٣s", "1S",
     "9223372036854775808ns", "-9223372036854775809ns", "9999999h", "1" * 5000 + "s", "00"],
)  # fmt: skip
def test_what_is_no_go_duration_is_refused(text):
    """A number without a unit, unknown units, blanks and what does not fit are malformed, and zero is kept."""
    with pytest.raises(Malformed) as caught:
        grammar.parse_duration(text)
    assert caught.value.kept == 0


@given(st.integers(INT64_MIN, INT64_MAX))
def test_a_printed_duration_is_read_back_unchanged(nanoseconds):
    """`format_duration` writes Go's form, which `parse_duration` must accept for every value there is."""
    if abs(nanoseconds) < 2**52:  # beyond, Go's own reading of a fraction of a unit is floating point
        assert grammar.parse_duration(grammar.format_duration(nanoseconds)) == nanoseconds
    else:
        assert abs(grammar.parse_duration(grammar.format_duration(nanoseconds)) - nanoseconds) <= SECOND


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(0, "0s"), (3 * HOUR, "3h0m0s"), (90 * SECOND, "1m30s"), (1500 * MILLISECOND, "1.5s"),
     (100 * MILLISECOND, "100ms"),
     (1, "1ns"), (1100, "1.1µs"), (-SECOND, "-1s"), (HOUR + MILLISECOND, "1h0m0.001s")],
)  # fmt: skip
def test_durations_are_printed_the_way_go_prints_them(nanoseconds, text):
    """Error texts of the reference agent contain durations in this form."""
    assert grammar.format_duration(nanoseconds) == text


@given(TEXTS)
def test_no_text_breaks_a_parser(text):
    """Whatever is in the environment, a parser answers with a value or with Malformed and a sentence."""
    parsers = (
        grammar.parse_duration, grammar.parse_bool, grammar.parse_integer, grammar.parse_decimal,
        grammar.parse_port_range, grammar.parse_json, grammar.parse_json_prefix,
        lambda value: grammar.parse_unsigned(value, 65535),
    )  # fmt: skip
    for parser in parsers:
        try:
            parser(text)
        except Malformed as error:
            assert error.problem


def test_only_twelve_words_are_booleans():
    """Not `.lower()`: tRUE, yes and on are no booleans (spec 01, trap 7)."""
    assert all(grammar.parse_bool(word) for word in ("1", "t", "T", "TRUE", "true", "True"))
    assert not any(grammar.parse_bool(word) for word in ("0", "f", "F", "FALSE", "false", "False"))
    for word in ("yes", "on", "tRUE", "", " true", "2"):
        with pytest.raises(Malformed):
            grammar.parse_bool(word)


@given(st.booleans(), st.sampled_from(["", " ", "\r", "\u2003", "\t\n"]))
def test_a_printed_boolean_is_read_back_with_blanks_around_it(value, blank):
    """Booleans are trimmed with Go's white space, which includes the wide blanks of Unicode."""
    assert grammar.parse_bool(grammar.trim(f"{blank}{'true' if value else 'false'}{blank}")) is value


def test_an_integer_beyond_64_bits_keeps_the_nearest_bound():
    """Spec 01 §1: WARN, but the bound is kept; all other malformed integers count as zero."""
    for text, kept in (("99999999999999999999", INT64_MAX), ("-" + "9" * 6000, INT64_MIN), ("1.0", 0), (" 1", 0)):
        with pytest.raises(Malformed) as caught:
            grammar.parse_integer(text)
        assert caught.value.kept == kept


@pytest.mark.parametrize(
    ("text", "ports"),
    [("49153-65535", (49153, 65535)), ("8000", (8000, 8000)), ("0-65535", (0, 65535)), ("5-6-junk", (5, 6))],
)
def test_port_ranges_are_read(text, ports):
    """What follows a second hyphen is not looked at (spec 01 §2.3)."""
    assert grammar.parse_port_range(text) == ports


@pytest.mark.parametrize("text", ["6-5", "-5", "5-", "a-b", "1-65536", " 1-2", ""])
def test_broken_port_ranges_are_refused(text):
    """A range needs two ports in order, without blanks."""
    with pytest.raises(Malformed):
        grammar.parse_port_range(text)


@pytest.mark.parametrize("text", ["[" * 100_000, "NaN", "[1,2", '{"a":}', "1" * 5000, "\ufeff[]"])
def test_hostile_json_is_only_malformed(text):
    """Depth, constants that are not JSON and endless numbers must not escape as other exceptions."""
    with pytest.raises(Malformed):
        grammar.parse_json(text)
