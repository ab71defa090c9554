"""Protobuf's wire format, as much of it as small messages written by hand need.

A message is a row of fields: (number << 3 | type), then a varint (type 0) or a length and bytes (type 2). Used by the
callers of gRPC services with a handful of messages, where a compiler and its run-time library would be the larger part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping


def number(field: int, value: int) -> bytes:
    """An integer or an enumeration's value, not negative."""
    return _varint(field << 3) + _varint(value)


def message(field: int, value: bytes) -> bytes:
    """A message inside another; an empty one is not the same as none."""
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def text(field: int, value: str) -> bytes:
    """A string. An empty one is left out, which means the same."""
    return message(field, value.encode()) if value else b""


def texts(field: int, values: Iterable[str]) -> bytes:
    """A repeated string, empty ones included."""
    return b"".join(message(field, value.encode()) for value in values)


def pairs(field: int, values: Mapping[str, str]) -> bytes:
    """A map of strings."""
    return b"".join(message(field, text(1, name) + text(2, value)) for name, value in values.items())


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Each field's number and value. Raises ValueError for what is no message."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _read_varint(data, at)
            yield key >> 3, value
            continue
        size, at = _read_varint(data, at) if kind == 2 else ({1: 8, 5: 4}.get(kind, -1), at)
        if size < 0 or at + size > len(data):
            raise ValueError("a broken protobuf message")
        yield key >> 3, data[at : at + size]
        at += size


def strings(data: bytes, field: int) -> list[str]:
    """The values of one (repeated) string. Raises ValueError for what is no message."""
    return [value.decode() for key, value in fields(data) if key == field and isinstance(value, bytes)]


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a broken protobuf message")
