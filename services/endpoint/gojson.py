"""The bodies of requests, read as the reference's decoder does (spec 06 §16.1, §17.2); common/wire/gojson.py reads.

Text after the value is ignored, keys are matched without regard to case, and a value of the wrong type is told in the
reference's words.
"""

from __future__ import annotations

import re
from typing import Any

from common.wire.gojson import NotJson, Number, Pairs, first_value, kind_of

__all__ = ["NotJson", "Number", "Pairs", "WrongType", "first_value", "integer", "kind_of", "wrong"]


class WrongType(Exception):
    """A field's value does not fit; the text is the decoder's."""


def integer(value: Any, struct: str, field: str, type_: str, low: int, high: int) -> int:
    """`value` as an integer of Go's `type_`. Raises WrongType with the decoder's text."""
    if isinstance(value, Number) and re.fullmatch(r"-?[0-9]{1,24}", value.text):
        parsed = int(value.text)
        if low <= parsed <= high and not (low == 0 and value.text.startswith("-")):
            return parsed
    word = f"number {value.text}" if isinstance(value, Number) else kind_of(value)
    raise WrongType(f"json: cannot unmarshal {word} into Go struct field {struct}.{field} of type {type_}")


def wrong(value: Any, struct: str, field: str, type_: str) -> WrongType:
    """The decoder's text for a value of another kind than a string, boolean or list."""
    return WrongType(f"json: cannot unmarshal {kind_of(value)} into Go struct field {struct}.{field} of type {type_}")
