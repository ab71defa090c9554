"""JSON as the control plane reads and writes it.

Writing: compact, members in the order given, absent members left out by the caller, and the five characters escaped
that Go's encoder escapes (ECS agent behaviour, spec 02 §1.7), so that frames and bodies are byte-exact. Reading:
strict RFC 8259 (no NaN, no text behind the value), with one kind of error for everything that is wrong.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


class NotJson(ValueError):
    """The text is not one JSON value; the message says why, without quoting the text (it may hold secrets)."""


def dumps(value: Any) -> str:
    """`value` as compact JSON. Only `ESCAPES` and what JSON demands is escaped; other characters stay as they are."""
    # The escaped characters can only stand inside strings, so that escaping the whole text is safe.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(ESCAPES)


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON value")


def loads(text: str) -> Any:
    """The one JSON value that `text` is. Raises NotJson."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise NotJson("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise NotJson(f"{error.msg} at character {error.pos + 1}") from None
    except ValueError as error:
        raise NotJson(str(error)) from None
