"""JSON as Go reads it, and its values as Go prints them (spec 05 §6.3, traps 5 and 6).

A task's secret may be one key of a JSON object; what the container then gets is Go's print of the value, which differs
from Python's for numbers, booleans, null and everything nested.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from common.wire import gojson
from common.wire.gojson import Number, Pairs
from services.engine.docker.overlay import BadOverlay

PLAIN_EXPONENTS = range(-4, 6)  # of the first digit; other numbers are printed with an exponent


def decode(text: str) -> Any:
    """JSON with objects as Pairs and every number a float. Raises BadOverlay with the decoder's text."""
    try:
        return _with_floats(gojson.whole_value(text))
    except gojson.NotJson as error:
        raise BadOverlay(str(error)) from error


def _with_floats(value: Any) -> Any:
    if isinstance(value, Number):
        number = float(value.text)
        if math.isinf(number):
            raise BadOverlay(f"json: cannot unmarshal number {value.text} into Go value of type float64")
        return number
    if isinstance(value, Pairs):
        return Pairs((key, _with_floats(member)) for key, member in value)
    return [_with_floats(item) for item in value] if isinstance(value, list) else value


def kind_of(value: Any) -> str:
    """The word of Go's decoder for the kind of a decoded value."""
    return "number" if isinstance(value, float) else gojson.kind_of(value)


def printed(value: Any) -> str:
    """A decoded value as Go's `%v` prints it."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, str):
        return value
    if isinstance(value, Pairs):
        members = dict(value)
        return f"map[{' '.join(f'{printed(key)}:{printed(members[key])}' for key in sorted(members))}]"
    return f"[{' '.join(printed(item) for item in value)}]"


def _float(value: float) -> str:
    """The shortest digits that give the number back; with an exponent below 1e-04 and from 1e+06 on."""
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    if value == 0.0:
        return f"{sign}0"
    _, numerals, power = Decimal(repr(abs(value))).as_tuple()
    digits = "".join(map(str, numerals)).lstrip("0")
    power = int(power) + len(digits) - 1  # of the first digit
    digits = digits.rstrip("0") or "0"
    if power not in PLAIN_EXPONENTS:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{fraction}e{'-' if power < 0 else '+'}{abs(power):02d}"
    if power < 0:
        return f"{sign}0.{'0' * (-power - 1)}{digits}"
    whole, fraction = digits[: power + 1].ljust(power + 1, "0"), digits[power + 1 :]
    return f"{sign}{whole}{f'.{fraction}' if fraction else ''}"
