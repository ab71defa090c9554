"""JSON as the reference's encoder writes it (spec 06 §2): one line, compact, HTML-safe, integral floats as integers.

Objects are plain dicts built in the order in which the fields are sent. `put` is the rule "omitted when empty".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

ESCAPES = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)
RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)")
ZERO_TIME = "0001-01-01T00:00:00Z"

Object = dict[str, Any]


def encode(value: Any) -> bytes:
    """`value` as JSON. Text that cannot be encoded as UTF-8 gets U+FFFD in its place."""
    try:
        data = msgspec.json.encode(value)
    except UnicodeEncodeError:
        data = msgspec.json.encode(_encodable(value))
    for raw, escaped in ESCAPES:
        if raw in data:
            data = data.replace(raw, escaped)
    return data


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_encodable(k): _encodable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(v) for v in value]
    return value


def put(target: Object, key: str, value: Any) -> None:
    """Set `key` unless `value` is the empty value of its type (mark O of the specification)."""
    if value:
        target[key] = value


def number(value: float) -> float | int:
    """An integral float as an integer, so that 2.0 is written as 2."""
    return int(value) if float(value).is_integer() else value


def seconds_text(seconds: float) -> str:
    """Unix seconds as RFC 3339 in UTC; "" for 0, which means that it has not happened."""
    if not seconds:
        return ""
    whole, micros = divmod(round(seconds * 1_000_000), 1_000_000)
    text = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}{_fraction(f'{micros:06d}')}Z"


def docker_time(text: str) -> str:
    """A time from Docker in UTC with Docker's digits less trailing zeros; "" for the zero time or no time."""
    match = RFC3339.fullmatch(text)
    if match is None or text.startswith("0001-01-01T00:00:00"):
        return ""
    clock, digits, zone = match.groups()
    if zone not in ("Z", "z"):
        hours, minutes = int(zone[1:3]), int(zone[4:6])
        offset = timedelta(hours=hours, minutes=minutes) * (-1 if zone[0] == "-" else 1)
        try:
            clock = (datetime.strptime(clock.upper(), "%Y-%m-%dT%H:%M:%S") - offset).strftime("%Y-%m-%dT%H:%M:%S")
        except (ValueError, OverflowError):
            return ""
    return f"{clock}{_fraction((digits or '')[:9])}Z"


def _fraction(digits: str) -> str:
    digits = digits.rstrip("0")
    return f".{digits}" if digits else ""
