"""Reads JSON as Go's decoder does: the same values, and the same words for what is wrong (spec 03 §6.6.1, 06 §17.2).

ECS and clients see these words. Differs from Python's reader in what shows: members keep their order and may be
repeated, numbers keep their spelling, NaN and Infinity are refused, and an error names a byte, not a character.
"""

from __future__ import annotations

import re
from typing import Any

from msgspec import Struct

DEPTH = 200  # Go stops at 10,000; no document that means anything has more than ten levels
KINDS = {bool: "bool", str: "string", list: "array"}

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_RAW = re.compile("[\udc80-\udcff]")  # a byte that is no UTF-8, as surrogateescape decodes it
_HEX = frozenset("0123456789abcdefABCDEF")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_LITERALS = (("true", True), ("false", False), ("null", None))
_NAMED = {"'": r"\'", '"': '"', "\\": r"\\", "\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r",
          "\t": r"\t", "\v": r"\v"}  # fmt: skip


class NotJson(ValueError):
    """The text is no JSON; the message is that of Go's decoder."""


class Number(Struct, frozen=True):
    """A number as it was spelled."""

    text: str


class Pairs(list[tuple[str, Any]]):
    """An object: its members in order, repeated ones included, keys as spelled."""


def kind_of(value: Any) -> str:
    """`string`, `number`, `bool`, `array`, `object`, `null`: the word in error texts."""
    if isinstance(value, Number):
        return "number"
    return "object" if isinstance(value, Pairs) else KINDS.get(type(value), "null")


def first_value(data: bytes) -> Any:
    """The first value in `data`, whatever follows it: None, bool, str, Number, list or Pairs. Raises NotJson."""
    reader = _Reader(data, "unexpected EOF")
    start = reader.space(0)
    if start == len(data):
        raise NotJson("EOF")
    return reader.value(start, 0)[0]


def whole_value(text: str) -> Any:
    """The one value that `text` is: None, bool, str, Number, list or Pairs. Raises NotJson."""
    reader = _Reader(whole_characters(text).encode(), "unexpected end of JSON input")
    value, at = reader.value(reader.space(0), 0)
    at = reader.space(at)
    if at < len(reader.text):
        raise reader.fail(at, "after top-level value")
    return value


def whole_characters(text: str) -> str:
    """Halves of a character joined, or replaced where the other half is missing."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _quoted(byte: str) -> str:
    """A byte as Go names it: as if it were the character of this number."""
    if byte in _NAMED:
        return f"'{_NAMED[byte]}'"
    if byte.isprintable():
        return f"'{byte}'"
    return f"'\\x{ord(byte):02x}'" if byte.isascii() else f"'\\u{ord(byte):04x}'"


class _Reader:
    """`text` has one character for each byte."""

    def __init__(self, data: bytes, end: str) -> None:
        self.text, self._end = data.decode("latin-1"), end

    def space(self, at: int) -> int:
        match = _SPACE.match(self.text, at)
        return match.end() if match else at

    def fail(self, at: int, context: str) -> NotJson:
        if at >= len(self.text):
            return NotJson(self._end)
        return NotJson(f"invalid character {_quoted(self.text[at])} {context}")

    def value(self, at: int, depth: int) -> tuple[Any, int]:
        char = self.text[at : at + 1]
        if depth >= DEPTH and char in ("{", "["):
            raise NotJson("exceeded max depth")
        if char == "{":
            return self._object(at + 1, depth)
        if char == "[":
            return self._array(at + 1, depth)
        if char == '"':
            return self._string(at + 1)
        if char == "-" or (char.isascii() and char.isdigit()):
            return self._number(at)
        for word, value in _LITERALS:
            if char == word[0]:
                return self._literal(at, word, value)
        raise self.fail(at, "looking for beginning of value")

    def _literal(self, at: int, word: str, value: bool | None) -> tuple[bool | None, int]:
        for offset, expected in enumerate(word):
            if self.text[at + offset : at + offset + 1] != expected:
                raise self.fail(at + offset, f"in literal {word} (expecting '{expected}')")
        return value, at + len(word)

    def _number(self, at: int) -> tuple[Number, int]:
        match = _NUMBER.match(self.text, at)
        if match is None:
            raise self.fail(at + 1, "in numeric literal")
        found, end = match.group(), match.end()
        rest, has_exponent = self.text[end : end + 1], "e" in found.lower()
        if rest == "." and "." not in found and not has_exponent:
            raise self.fail(end + 1, "after decimal point in numeric literal")
        if rest in ("e", "E") and not has_exponent:
            signed = self.text[end + 1 : end + 2] in ("+", "-")
            raise self.fail(end + 1 + signed, "in exponent of numeric literal")
        return Number(found), end

    def _string(self, at: int) -> tuple[str, int]:
        parts = []
        while True:
            match = _PLAIN.match(self.text, at)
            end = match.end() if match else at
            raw = self.text[at:end].encode("latin-1")
            parts.append(_RAW.sub("\ufffd", raw.decode("utf-8", "surrogateescape")))
            char = self.text[end : end + 1]
            if char == '"':
                return whole_characters("".join(parts)), end + 1
            if char != "\\":
                raise self.fail(end, "in string literal")
            escape = self.text[end + 1 : end + 2]
            if escape == "u":
                parts.append(self._unicode(end + 2))
                at = end + 6
            elif escape in _ESCAPES:
                parts.append(_ESCAPES[escape])
                at = end + 2
            else:
                raise self.fail(end + 1, "in string escape code")

    def _unicode(self, at: int) -> str:
        for offset in range(4):
            if self.text[at + offset : at + offset + 1] not in _HEX:
                raise self.fail(at + offset, "in \\u hexadecimal character escape")
        return chr(int(self.text[at : at + 4], 16))

    def _array(self, at: int, depth: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        at = self.space(at)
        if self.text[at : at + 1] == "]":
            return items, at + 1
        while True:
            item, at = self.value(self.space(at), depth + 1)
            items.append(item)
            more, at = self._more(at, "]", "after array element")
            if not more:
                return items, at

    def _object(self, at: int, depth: int) -> tuple[Pairs, int]:
        members = Pairs()
        at = self.space(at)
        if self.text[at : at + 1] == "}":
            return members, at + 1
        while True:
            at = self.space(at)
            if self.text[at : at + 1] != '"':
                raise self.fail(at, "looking for beginning of object key string")
            key, at = self._string(at + 1)
            at = self.space(at)
            if self.text[at : at + 1] != ":":
                raise self.fail(at, "after object key")
            item, at = self.value(self.space(at + 1), depth + 1)
            members.append((key, item))
            more, at = self._more(at, "}", "after object key:value pair")
            if not more:
                return members, at

    def _more(self, at: int, end: str, context: str) -> tuple[bool, int]:
        """Whether another one follows, and the place behind the comma or the end."""
        at = self.space(at)
        char = self.text[at : at + 1]
        if char != end and char != ",":
            raise self.fail(at, context)
        return char == ",", at + 1
