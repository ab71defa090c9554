"""Shapes of wire messages, as closed sets of members that are read tolerantly and checked strictly.

A shape is a function from a decoded JSON value to its canonical form: member names match in any case and come out as
declared here, unknown members are dropped, null is absent. A value of another JSON type is a Mismatch (the reference's
decoder drops the whole message then; ECS agent behaviour, spec 02 §1.7 and §12.15). Closed sets are also what keeps a
payload from writing into the agent's own state.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Shape = Callable[[Any], Any]

INT64 = 2**63
SURROGATE = re.compile("[\ud800-\udfff]")


class Mismatch(ValueError):
    """A value of the wrong JSON type. `path` grows on the way out; values are not quoted, they may be secrets."""

    def __init__(self, expected: str, path: str = "") -> None:
        super().__init__(expected)
        self.expected, self.path = expected, path

    def below(self, name: str) -> Mismatch:
        """The same, seen from one level further up."""
        joint = "" if not self.path or self.path.startswith("[") else "."
        return Mismatch(self.expected, f"{name}{joint}{self.path}")

    def __str__(self) -> str:
        return f"{self.path or 'the message'} is not {self.expected}"


def clean(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON may hold and UTF-8 may not."""
    return text if text.isascii() else SURROGATE.sub("\ufffd", text)


def string(value: Any) -> str:
    """A JSON string."""
    if not isinstance(value, str):
        raise Mismatch("a string")
    return clean(value)


def boolean(value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise Mismatch("true or false")
    return value


def integer(value: Any) -> int:
    """An integer within 64 bits, written as one: 5.0 and 1e2 are not integers, and neither is true."""
    if type(value) is not int or not -INT64 <= value < INT64:
        raise Mismatch("an integer")
    return value


def number(value: Any) -> float:
    """Any finite number."""
    if type(value) not in (int, float):
        raise Mismatch("a number")
    try:
        result = float(value)
    except OverflowError:
        raise Mismatch("a number") from None
    if result in (float("inf"), float("-inf")):
        raise Mismatch("a number")
    return result


def list_of(element: Shape, null: Any = None) -> Shape:
    """A list; a null element becomes `null`."""

    def read(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise Mismatch("a list")
        result = []
        for index, member in enumerate(value):
            try:
                result.append(null if member is None else element(member))
            except Mismatch as error:
                raise error.below(f"[{index}]") from None
        return result

    return read


def map_of(element: Shape, null: Any) -> Shape:
    """An object whose member names are data."""

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Mismatch("an object")
        result = {}
        for key, member in value.items():
            try:
                result[clean(key)] = null if member is None else element(member)
            except Mismatch as error:
                raise error.below(clean(key)) from None
        return result

    return read


def struct(**members: Shape) -> Shape:
    """An object with a closed set of members."""
    folded = {name.lower(): (name, shape) for name, shape in members.items()}

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Mismatch("an object")
        result: dict[str, Any] = {}
        for key, member in value.items():
            known = folded.get(key.lower())
            if known is None or member is None:
                continue
            name, shape = known
            try:
                result[name] = shape(member)
            except Mismatch as error:
                raise error.below(name) from None
        return result

    return read


strings = list_of(string, "")
string_map = map_of(string, "")
