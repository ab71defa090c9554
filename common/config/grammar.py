"""The texts a value may have: booleans, numbers, Go durations, port ranges, JSON.

The agent's configuration was designed for a Go program, so its value grammars are those of Go's standard library
(spec 01 §1, https://pkg.go.dev/time#ParseDuration, https://pkg.go.dev/strconv). Each function here takes a text and
either returns the value or raises `Malformed` with a sentence for the person who wrote the text. Nothing here knows
about options, sources or defaults.
"""

import json
import re
from collections.abc import Callable
from typing import Any

TRUE_WORDS = frozenset(("1", "t", "T", "TRUE", "true", "True"))
FALSE_WORDS = frozenset(("0", "f", "F", "FALSE", "false", "False"))

INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)
PORT_MAX = 65535

NANOSECOND = 1
MICROSECOND = 1000
MILLISECOND = 1000 * MICROSECOND
SECOND = 1000 * MILLISECOND
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

# Go's unicode.IsSpace. str.strip() alone would also remove the separators U+001C to U+001F.
BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))

_UNITS = {
    "ns": NANOSECOND,
    "us": MICROSECOND,
    "\u00b5s": MICROSECOND,
    "\u03bcs": MICROSECOND,
    "ms": MILLISECOND,
    "s": SECOND,
    "m": MINUTE,
    "h": HOUR,
}
_TERM = re.compile(r"([0-9]*)(?:(\.)([0-9]*))?([^0-9.]*)")
_UNSIGNED = re.compile(r"[0-9]+\Z")
_SIGNED = re.compile(r"[+-]?[0-9]+\Z")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?\Z")
_JSON_BLANKS = " \t\n\r"
_SURROGATE = re.compile("[\ud800-\udfff]")
# int() refuses texts of more than 4300 digits, and no legal value needs more than twenty.
_MANY_DIGITS = 40


class Malformed(ValueError):
    """A text that its grammar does not accept. `kept` is what the reference agent keeps all the same (spec 01 §1)."""

    def __init__(self, problem: str, kept: Any = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.kept = kept


class Pairs(list[tuple[str, Any]]):
    """A JSON object as its members in writing order: only so can the last of several spellings of a key win."""


def trim(text: str) -> str:
    """Remove white space from both ends, with Go's idea of white space."""
    return text.strip(BLANKS)


def parse_bool(text: str) -> bool:
    """Read one of the twelve boolean words; the caller trims where the option allows it."""
    if text in TRUE_WORDS:
        return True
    if text in FALSE_WORDS:
        return False
    raise Malformed("is not a boolean: write true or false")


def _to_int(digits: str) -> int:
    """Convert a text of digits of any length; what is far beyond 64 bits only has to stay beyond."""
    sign = -1 if digits.startswith("-") else 1
    body = digits.lstrip("+-").lstrip("0")
    return sign * (10**_MANY_DIGITS if len(body) > _MANY_DIGITS else int(body or "0"))


def parse_unsigned(text: str, largest: int) -> int:
    """Read a plain decimal number from 0 to `largest`: no sign, no blanks."""
    if not _UNSIGNED.match(text):
        raise Malformed(f"is not a whole number from 0 to {largest}", 0)
    value = _to_int(text)
    if value > largest:
        raise Malformed(f"is too large: the largest number allowed is {largest}", 0)
    return value


def parse_integer(text: str) -> int:
    """Read a signed decimal number; one beyond 64 bits is malformed, but its nearest bound is kept."""
    if not _SIGNED.match(text):
        raise Malformed("is not a whole number", 0)
    value = _to_int(text)
    nearest = min(max(value, INT64_MIN), INT64_MAX)
    if nearest != value:
        raise Malformed("does not fit into 64 bits", nearest)
    return value


def parse_decimal(text: str) -> float:
    """Read a decimal number with an optional fraction and exponent."""
    if not _DECIMAL.match(text):
        raise Malformed("is not a number")
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise Malformed("is too large")
    return value


_DURATION_HELP = "is not a duration: write numbers with units, such as 90s or 1h30m (units ns, us, ms, s, m, h)"


def parse_duration(text: str) -> int:
    """Read a Go duration and return nanoseconds, with Go's truncation of fractions and its 64-bit limits."""
    negative = text.startswith("-")
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    if not rest:
        raise Malformed(_DURATION_HELP, 0)
    total = 0
    position = 0
    while position < len(rest):
        term = _TERM.match(rest, position)
        assert term is not None  # every part of the pattern may be empty
        total += _term_nanoseconds(text, term)
        if total > 2**63:
            raise Malformed("is longer than 292 years, the longest duration", 0)
        position = term.end()
    if total > INT64_MAX and not negative:
        raise Malformed("is longer than 292 years, the longest duration", 0)
    return -total if negative else total


def _term_nanoseconds(text: str, term: re.Match[str]) -> int:
    """Return one `<decimal><unit>` of a duration in nanoseconds."""
    whole, fraction, unit = term.group(1), term.group(3) or "", term.group(4)
    if not whole and not fraction:
        raise Malformed(_DURATION_HELP, 0)
    if not unit:
        seconds = f"{text}s" if _SIGNED.match(text) else "30s"
        raise Malformed(f"is not a duration: the unit is missing (did you mean {seconds}?)", 0)
    scale = _UNITS.get(unit)
    if scale is None:
        raise Malformed(_DURATION_HELP, 0)
    value = _to_int(whole or "0")
    if value > 2**63 // scale:
        raise Malformed("is longer than 292 years, the longest duration", 0)
    return value * scale + _fraction_nanoseconds(fraction, scale)


def _fraction_nanoseconds(fraction: str, scale: int) -> int:
    """Return a fraction of a unit in whole nanoseconds: what is smaller is cut off, as Go does."""
    number, divisor = 0, 1.0
    for digit in fraction:
        # Go stops where the next digit would leave 63 bits, and computes the rest in floating point.
        following = number * 10 + int(digit)
        if number > INT64_MAX // 10 or following > 2**63:
            break
        number, divisor = following, divisor * 10
    return int(float(number) * (float(scale) / divisor))


def format_duration(nanoseconds: int) -> str:
    """Write nanoseconds the way Go prints a duration: `3h0m0s`, `1.5s`, `100ms`, `0s`."""
    sign, value = ("-" if nanoseconds < 0 else ""), abs(nanoseconds)
    if value == 0:
        return "0s"
    if value < SECOND:
        for unit, scale in (("ms", MILLISECOND), ("\u00b5s", MICROSECOND), ("ns", NANOSECOND)):
            if value >= scale:
                return f"{sign}{_with_fraction(value, scale)}{unit}"
    hours, value = divmod(value, HOUR)
    minutes, value = divmod(value, MINUTE)
    seconds = f"{_with_fraction(value, SECOND)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    return f"{sign}{minutes}m{seconds}" if minutes else f"{sign}{seconds}"


def _with_fraction(value: int, scale: int) -> str:
    whole, remainder = divmod(value, scale)
    if not remainder:
        return str(whole)
    digits = len(str(scale)) - 1
    return f"{whole}.{remainder:0{digits}d}".rstrip("0")


def parse_port_range(text: str) -> tuple[int, int]:
    """Read `start-end` or one port; what follows a second hyphen is not looked at (spec 01 §2.3)."""
    first, hyphen, rest = text.partition("-")
    try:
        start = parse_unsigned(first, PORT_MAX)
        end = parse_unsigned(rest.partition("-")[0], PORT_MAX) if hyphen else start
    except Malformed:
        raise Malformed("is not a port range: write start-end, such as 49153-65535") from None
    if end < start:
        raise Malformed(f"is not a port range: {end} is below {start}")
    return start, end


def _reject_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=Pairs, parse_constant=_reject_constant)


def _json_error(error: Exception, text: str) -> Malformed:
    """Say where JSON is broken. Only the position is named: the text may hold a secret."""
    if isinstance(error, json.JSONDecodeError):
        what = error.msg[:1].lower() + error.msg[1:]
        hint = "; it is wrapped in quotes that do not belong there" if text[:1] in ("'", '"') else ""
        return Malformed(f"is not valid JSON: {what} at character {error.pos + 1}{hint}")
    if isinstance(error, RecursionError):
        return Malformed("is not valid JSON: nested too deeply")
    return Malformed("is not valid JSON: a number in it cannot be read")


def _guarded(decode: Callable[[], Any], text: str) -> Any:
    try:
        return decode()
    except (ValueError, RecursionError) as error:
        raise _json_error(error, text) from None


def parse_json(text: str) -> Any:
    """Decode a text that must be exactly one JSON value; objects come back as `Pairs`."""
    return _guarded(lambda: _DECODER.decode(text), text)


def parse_json_prefix(text: str) -> Any:
    """Decode the first JSON value of a text and ignore the rest; a text of blanks is None, like `null`."""
    start = len(text) - len(text.lstrip(_JSON_BLANKS))
    if start == len(text):
        return None
    return _guarded(lambda: _DECODER.raw_decode(text, start)[0], text)


def clean_string(text: str) -> str:
    """Replace halves of surrogate pairs: JSON may hold them, UTF-8 and every API after us may not."""
    return _SURROGATE.sub("\ufffd", text)


def plain_json(value: Any) -> Any:
    """Turn `Pairs` into dictionaries, recursively; of repeated keys the last wins."""
    if isinstance(value, Pairs):
        return {clean_string(key): plain_json(member) for key, member in value}
    if isinstance(value, list):
        return [plain_json(member) for member in value]
    return clean_string(value) if isinstance(value, str) else value
