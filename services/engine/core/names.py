"""Names and sentences that others read: Docker container names, the printed form of a container, terminal reasons."""

from __future__ import annotations

import re

from common.model.task import Container, Task

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9-]")
_VARINT_BYTES = 10


def docker_name(task: Task, container: Container, number: int) -> str:
    """ecs-<family>-<version>-<container>-<20 hex digits>, of a random non-negative 63-bit number (spec 03 §6.5)."""
    plain = _NOT_IN_NAMES.sub("", container.name)
    return f"ecs-{task.family}-{task.version}-{plain}-{_varint(number << 1)}"


def _varint(value: int) -> str:
    """Base-128 varint of `value` in a zero-filled buffer, as hex; the caller has zig-zagged it."""
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data).ljust(_VARINT_BYTES, b"\0").hex()


def printed(container: Container) -> str:
    """`name(image) (KNOWN->DESIRED)`, with the exit code when it is known: the form in dependency errors."""
    text = f"{container.name}({container.image}) ({container.known.name}->{container.desired.name})"
    return text if container.exit_code is None else f"{text} - Exit: {container.exit_code}"


def terminal_reason(text: str) -> str:
    """White space collapsed; in the first word every letter that begins a run of letters is raised (spec 03 §1.2)."""
    words = text.split()
    if not words:
        return ""
    words[0] = re.sub(r"(?<!\w)[^\W\d_]", lambda m: m.group().upper(), words[0])
    return " ".join(words)
