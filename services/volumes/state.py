"""Volumes and their state file, which either edition of the plugin can read and write (spec 09 §14.7).

The file is JSON as Go indents it: tabs, empty fields left out, names sorted, "<", ">" and "&" escaped, no newline at
the end. It is replaced as a whole: temporary file, fsync, rename, fsync of the directory.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from common import wholefile
from services.volumes import decoding
from services.volumes.errors import StateError

FILE = Path("/var/lib/ecs/data/ecs_volume_plugin.json")
TYPES = ("", "efs", "s3files")  # the empty one means efs
_PREFIX = "tmp_ecs_volume_plugin"
_ESCAPES = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


@dataclass(eq=False)
class Volume:
    """One volume. `mounts` counts per mount id; `lock` is held while the volume is mounted, unmounted or removed."""

    name: str
    type: str
    path: str
    options: dict[str, str]
    created_at: str
    mounts: dict[str, int] = field(default_factory=dict)
    mounted: bool = False
    lock: Lock = field(default_factory=Lock, repr=False)

    def as_json(self) -> dict[str, Any]:
        """The fields in the file's order, without the empty ones."""
        fields = {
            "type": self.type,
            "path": self.path,
            "options": dict(sorted(self.options.items())),
            "createdAt": self.created_at,
            "mounts": dict(sorted(self.mounts.items())),
        }
        return {name: value for name, value in fields.items() if value}


def escape(text: str) -> str:
    """JSON text with the signs escaped that Go's encoder escapes."""
    return text.translate(_ESCAPES)


def timestamp(now_ns: int | None = None) -> str:
    """RFC 3339 with nanoseconds (trailing zeros left out) and the local offset."""
    seconds, fraction = divmod(time.time_ns() if now_ns is None else now_ns, 1_000_000_000)
    local = time.localtime(seconds)
    digits = f"{fraction:09d}".rstrip("0")
    minutes = local.tm_gmtoff // 60
    zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}" if minutes else "Z"
    return time.strftime("%Y-%m-%dT%H:%M:%S", local) + (f".{digits}" if digits else "") + zone


def encode(volumes: Iterable[Volume]) -> bytes:
    """The content of the file."""
    known = {volume.name: volume.as_json() for volume in sorted(volumes, key=lambda volume: volume.name)}
    document = {"volumes": known} if known else {}
    return escape(json.dumps(document, indent="\t", ensure_ascii=False)).encode("utf-8", "surrogateescape")


def decode(data: bytes) -> list[Volume]:
    """The volumes of a file's content. Raises ValueError, with what is wrong."""
    document = _object(json.loads(data), "the file")
    volumes = _object(_member(document, "volumes"), "volumes")
    return [_volume(name, _object(value, f"volume {name}")) for name, value in volumes.items()]


def _volume(name: str, value: Mapping[str, Any]) -> Volume:
    kind = _text(_member(value, "type"), f"type of volume {name}")
    if kind not in TYPES:
        raise ValueError(f"volume {kind} type not supported (volume {name})")
    options = _object(_member(value, "options"), f"options of volume {name}")
    mounts = _object(_member(value, "mounts"), f"mounts of volume {name}")
    return Volume(
        name=name,
        type=kind,
        path=_text(_member(value, "path"), f"path of volume {name}"),
        options={key: _text(item, f"option {key} of volume {name}") for key, item in options.items()},
        created_at=_text(_member(value, "createdAt"), f"createdAt of volume {name}"),
        mounts={key: _count(item, f"mount {key} of volume {name}") for key, item in mounts.items()},
    )


def _member(value: Mapping[str, Any], name: str) -> Any:
    """A field by its name without regard to case, as Go's decoder finds it; the last one counts."""
    found = None
    for key, item in value.items():
        if key.lower() == name.lower():
            found = item
    return found


def _object(value: Any, what: str) -> dict[str, Any]:
    return decoding.mapping(value, _refusal(what, "an object"))


def _text(value: Any, what: str) -> str:
    return decoding.text(value, _refusal(what, "a string"))


def _refusal(what: str, wanted: str) -> decoding.Fault:
    return lambda value: ValueError(f"{what} must be {wanted}, not {type(value).__name__}")


def _count(value: Any, what: str) -> int:
    """None and 0 are of an older format, which had no counts: they mean one."""
    if value is None:
        return 1
    if not isinstance(value, int) or isinstance(value, bool):
        raise _refusal(what, "a number")(value)
    return value or 1


class StateFile:
    """The file on the disk."""

    def __init__(self, path: Path = FILE) -> None:
        self.path = path

    def load(self) -> list[Volume]:
        """The volumes in the file, none when there is no file. Raises StateError."""
        try:
            return decode(self.path.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise StateError(
                f"the state file {self.path} cannot be used: {error}. Repair it, or remove it when no task uses a "
                "volume of this plugin"
            ) from error

    def written_before_boot(self) -> bool:
        """Whether the file is of an earlier boot, after which nothing is mounted any more."""
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        try:
            return self.path.stat().st_mtime < booted - 1.0
        except OSError:
            return False

    def save(self, volumes: Iterable[Volume]) -> None:
        """Replace the file. Raises StateError; the old file is whole then."""
        try:
            wholefile.replace(self.path, encode(volumes), durable=True, prefix=_PREFIX)
        except OSError as error:
            raise StateError(f"cannot write {self.path}: {error.strerror or error}") from error
