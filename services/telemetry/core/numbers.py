"""Numbers and times as the telemetry backend expects them (spec 07 §5.1, §13, §20).

Percentages and rates are IEEE single precision, rounded after each operation; counters are unsigned 64-bit; times are
whole nanoseconds inside and epoch seconds with at most three decimals on the wire.
"""

from __future__ import annotations

import calendar
import struct
import time
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec

MASK = (1 << 64) - 1  # unsigned 64-bit arithmetic
LARGEST = (1 << 63) - 1  # of a JSON integer of the wire; the rest goes into the overflow members
NAN = float("nan")
ZERO_TIME = "0001-01-01T00:00:00Z"
NANOSECONDS = 1_000_000_000
ESCAPED = (
    (b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026"),
    ("\u2028".encode(), b"\\u2028"), ("\u2029".encode(), b"\\u2029"),
)  # fmt: skip

_single = struct.Struct("f")


def f32(value: float) -> float:
    """`value` rounded to single precision, widened again."""
    return _single.unpack(_single.pack(value))[0]  # type: ignore[no-any-return]


def number(value: float) -> Any:
    """`value` as a JSON number in Go's form: whole values without a fraction, exponents only beyond 1e-6 and 1e21."""
    text = repr(value)
    if "e" not in text:
        return int(value) if value == int(value) else value
    if 1e-6 <= abs(value) < 1e21:
        return msgspec.Raw(f"{Decimal(text):f}".encode())
    if abs(value) >= 1e21:
        return msgspec.Raw(text.encode())
    mantissa, _, exponent = text.partition("e")
    return msgspec.Raw(f"{mantissa}e{int(exponent)}".encode())


def epoch(seconds: float) -> Any:
    """Unix seconds truncated to milliseconds, as a JSON number (1780308003.25, 1780308003)."""
    milliseconds = int(seconds * 1000 + 1e-4)  # 10:00:03.250 is a hair below in binary
    whole, rest = divmod(milliseconds, 1000)
    return whole if not rest else msgspec.Raw(f"{whole}.{rest:03d}".rstrip("0").encode())


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time in UTC; 0 for the zero time, nothing, or a text that is no time."""
    if not text or text == ZERO_TIME:
        return 0
    main, _, fraction = text.rstrip("Z").partition(".")
    try:
        return _seconds_of(main[:19]) * NANOSECONDS + int((fraction + "000000000")[:9] if fraction else 0)
    except ValueError:
        return 0


@lru_cache(4)  # the readings of one round share their second
def _seconds_of(text: str) -> int:
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))


def format_time(nanoseconds: int) -> str:
    """RFC 3339 in UTC with up to nine decimals and no trailing zeros; 0 is the zero time."""
    if not nanoseconds:
        return ZERO_TIME
    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{_text_of(seconds)}{fraction}Z"


@lru_cache(4)
def _text_of(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def encode(value: Any) -> bytes:
    """JSON as Go writes it: no white space; `<`, `>`, `&` and the Unicode line separators escaped."""
    data = msgspec.json.encode(value)
    for character, escaped in ESCAPED:
        if character in data:
            data = data.replace(character, escaped)
    return data
