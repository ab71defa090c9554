"""Reads the first JSON value of a body as the reference's decoder does (spec 06 §16.1, §17.2).

Differs from Python's reader where clients can see it: text after the value is ignored, keys are matched without regard
to case, numbers keep their spelling, NaN and Infinity are refused, and errors have the reference's words.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

SPACE = re.compile(r"[ \t\r\n]*")
NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
HEX4 = re.compile(r"[0-9A-Fa-f]{4}")
ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
DEPTH = 100  # the deepest body that means anything has two levels
KINDS = {bool: "bool", str: "string", list: "array"}


class NotJson(Exception):
    """The body has no first value; the text is the decoder's."""


class WrongType(Exception):
    """A field's value does not fit; the text is the decoder's."""


class Number(str):
    """A number as it was spelled."""


class Pairs(NamedTuple):
    """An object: its members in order, keys as spelled."""

    members: list[tuple[str, Any]]


def kind_of(value: Any) -> str:
    """`string`, `number`, `bool`, `array`, `object`: the word in error texts."""
    if isinstance(value, Number):
        return "number"
    if isinstance(value, Pairs):
        return "object"
    return KINDS.get(type(value), "null")


def first_value(data: bytes) -> Any:
    """The first value in `data`: None, bool, str, Number, list or Pairs. Raises NotJson."""
    text = data.decode("utf-8", "replace")
    reader = _Reader(text)
    start = reader.space(0)
    if start == len(text):
        raise NotJson("EOF")
    return reader.value(start, "looking for beginning of value", 0)[0]


def quoted(char: str) -> str:
    """A character as the decoder names it."""
    if char == "'":
        return "'\\''"
    if char == '"':
        return "'\"'"
    if char.isprintable():
        return f"'{char}'"
    return "'" + char.encode("unicode_escape").decode() + "'"


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text

    def space(self, at: int) -> int:
        match = SPACE.match(self.text, at)
        return match.end() if match else at

    def fail(self, at: int, context: str) -> NotJson:
        if at >= len(self.text):
            return NotJson("unexpected EOF")
        return NotJson(f"invalid character {quoted(self.text[at])} {context}")

    def value(self, at: int, context: str, depth: int) -> tuple[Any, int]:
        if depth > DEPTH:
            raise NotJson("exceeded max depth")
        char = self.text[at : at + 1]
        if char == "{":
            return self.object(at + 1, depth)
        if char == "[":
            return self.array(at + 1, depth)
        if char == '"':
            return self.string(at + 1)
        for word, value in (("true", True), ("false", False), ("null", None)):
            if char == word[0]:
                return self.literal(at, word, value)
        if char == "-" or (char.isascii() and char.isdigit()):
            return self.number(at)
        raise self.fail(at, context)

    def literal(self, at: int, word: str, value: Any) -> tuple[Any, int]:
        for offset, expected in enumerate(word):
            if self.text[at + offset : at + offset + 1] != expected:
                raise self.fail(at + offset, f"in literal {word} (expecting {quoted(expected)})")
        return value, at + len(word)

    def number(self, at: int) -> tuple[Number, int]:
        match = NUMBER.match(self.text, at)
        if match is None:
            raise self.fail(at + 1, "in numeric literal")
        end = match.end()
        rest = self.text[end : end + 1]
        if rest == "." and "." not in match.group() and "e" not in match.group().lower():
            raise self.fail(end + 1, "after decimal point in numeric literal")
        if rest in ("e", "E") and "e" not in match.group().lower():
            end += 1 + (self.text[end + 1 : end + 2] in ("+", "-") and end + 1 < len(self.text))
            raise self.fail(end, "in exponent of numeric literal")
        return Number(match.group()), end

    def string(self, at: int) -> tuple[str, int]:
        parts = []
        while True:
            match = PLAIN.match(self.text, at)
            end = match.end() if match else at
            parts.append(self.text[at:end])
            char = self.text[end : end + 1]
            if char == '"':
                return "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16", "replace"), end + 1
            if char != "\\":
                raise self.fail(end, "in string literal")
            escape = self.text[end + 1 : end + 2]
            if escape == "u":
                parts.append(self.unicode(end + 2))
                at = end + 6
            elif escape in ESCAPES:
                parts.append(ESCAPES[escape])
                at = end + 2
            else:
                raise self.fail(end + 1, "in string escape code")

    def unicode(self, at: int) -> str:
        match = HEX4.match(self.text, at)
        if match is not None:
            return chr(int(match.group(), 16))
        for offset in range(4):
            if self.text[at + offset : at + offset + 1] not in tuple("0123456789abcdefABCDEF"):
                raise self.fail(at + offset, "in \\u hexadecimal character escape")
        raise self.fail(at, "in \\u hexadecimal character escape")

    def array(self, at: int, depth: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        at = self.space(at)
        if self.text[at : at + 1] == "]":
            return items, at + 1
        while True:
            item, at = self.value(self.space(at), "looking for beginning of value", depth + 1)
            items.append(item)
            at = self.space(at)
            char = self.text[at : at + 1]
            if char == "]":
                return items, at + 1
            if char != ",":
                raise self.fail(at, "after array element")
            at += 1

    def object(self, at: int, depth: int) -> tuple[Pairs, int]:
        members: list[tuple[str, Any]] = []
        at = self.space(at)
        if self.text[at : at + 1] == "}":
            return Pairs(members), at + 1
        while True:
            at = self.space(at)
            if self.text[at : at + 1] != '"':
                raise self.fail(at, "looking for beginning of object key string")
            key, at = self.string(at + 1)
            at = self.space(at)
            if self.text[at : at + 1] != ":":
                raise self.fail(at, "after object key")
            item, at = self.value(self.space(at + 1), "looking for beginning of value", depth + 1)
            members.append((key, item))
            at = self.space(at)
            char = self.text[at : at + 1]
            if char == "}":
                return Pairs(members), at + 1
            if char != ",":
                raise self.fail(at, "after object key:value pair")
            at += 1


def integer(value: Any, struct: str, field: str, type_: str, low: int, high: int) -> int:
    """`value` as an integer of Go's `type_`. Raises WrongType with the decoder's text."""
    if isinstance(value, Number) and len(value) < 25 and re.fullmatch(r"-?\d+", value):
        parsed = int(value)
        if low <= parsed <= high and not (low == 0 and value.startswith("-")):
            return parsed
    word = f"number {value}" if isinstance(value, Number) else kind_of(value)
    raise WrongType(f"json: cannot unmarshal {word} into Go struct field {struct}.{field} of type {type_}")


def wrong(value: Any, struct: str, field: str, type_: str) -> WrongType:
    """The decoder's text for a value of another kind than a string, boolean or list."""
    return WrongType(f"json: cannot unmarshal {kind_of(value)} into Go struct field {struct}.{field} of type {type_}")
