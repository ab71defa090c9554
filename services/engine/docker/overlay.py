"""Laying the task definition's Docker JSON over the agent's own Config and HostConfig.

The reference decodes `dockerConfig.config` and `.hostConfig` with Go's JSON library into a structure that is already
filled (spec 03 §6.6.1, §6.6.4, trap 10): keys match in any case, unknown keys are ignored, scalars and lists replace,
objects merge key by key, and null clears lists, maps and optional values but leaves plain numbers, texts and switches.
The table below is Docker's own structure (API 1.44): a member's kind decides what null and an empty value mean.
"""

from __future__ import annotations

import json
from typing import Any

TEXT, NUMBER, SWITCH, LIST, MAP, OPTIONAL, WORDS = "text", "number", "switch", "list", "map", "optional", "words"

Schema = dict[str, Any]  # member -> kind, or the Schema of a structure


def _members(kind: str, names: str) -> Schema:
    return dict.fromkeys(names.split(), kind)


CONFIG: Schema = {
    **_members(TEXT, "Hostname Domainname User Image WorkingDir MacAddress StopSignal"),
    **_members(SWITCH, "AttachStdin AttachStdout AttachStderr Tty OpenStdin StdinOnce ArgsEscaped NetworkDisabled"),
    **_members(LIST, "Env OnBuild"),
    **_members(WORDS, "Cmd Entrypoint Shell"),
    **_members(MAP, "ExposedPorts Volumes Labels"),
    **_members(OPTIONAL, "StopTimeout"),
    "Healthcheck": {
        **_members(LIST, "Test"),
        **_members(NUMBER, "Interval Timeout StartPeriod StartInterval Retries"),
    },
}

HOST_CONFIG: Schema = {
    **_members(
        TEXT,
        "ContainerIDFile NetworkMode VolumeDriver CgroupnsMode IpcMode Cgroup PidMode UTSMode UsernsMode Runtime "
        "Isolation CgroupParent CpusetCpus CpusetMems",
    ),
    **_members(
        NUMBER,
        "OomScoreAdj ShmSize CpuShares Memory NanoCpus BlkioWeight CpuPeriod CpuQuota CpuRealtimePeriod "
        "CpuRealtimeRuntime KernelMemory KernelMemoryTCP MemoryReservation MemorySwap CpuCount CpuPercent "
        "IOMaximumIOps IOMaximumBandwidth",
    ),
    **_members(SWITCH, "AutoRemove Privileged PublishAllPorts ReadonlyRootfs"),
    **_members(
        LIST,
        "Binds VolumesFrom ConsoleSize Dns DnsOptions DnsSearch ExtraHosts GroupAdd Links SecurityOpt "
        "BlkioWeightDevice BlkioDeviceReadBps BlkioDeviceWriteBps BlkioDeviceReadIOps BlkioDeviceWriteIOps Devices "
        "DeviceCgroupRules DeviceRequests Ulimits Mounts MaskedPaths ReadonlyPaths",
    ),
    **_members(WORDS, "CapAdd CapDrop"),
    **_members(MAP, "PortBindings Annotations StorageOpt Tmpfs Sysctls"),
    **_members(OPTIONAL, "MemorySwappiness OomKillDisable PidsLimit Init"),
    "LogConfig": {**_members(TEXT, "Type"), **_members(MAP, "Config")},
    "RestartPolicy": {**_members(TEXT, "Name"), **_members(NUMBER, "MaximumRetryCount")},
}

# An empty list is not the same as none: it takes away what the image or the daemon would supply.
EMPTY_MATTERS = frozenset({"Entrypoint", "Cmd", "Shell", "MaskedPaths", "ReadonlyPaths"})

_GO_TYPES = {TEXT: "string", NUMBER: "int64", SWITCH: "bool", LIST: "[]string", MAP: "map[string]string"}
_ACCEPTED = {TEXT: str, NUMBER: int, SWITCH: bool, LIST: list, MAP: dict}


class BadOverlay(ValueError):
    """The JSON cannot be laid over; the text reads like the error of Go's JSON library."""


def overlay(base: dict[str, Any], text: str, schema: Schema, struct: str) -> dict[str, Any]:
    """`base` with the JSON object `text` laid over it; `base` is left alone. Raises BadOverlay."""
    if not text:
        return dict(base)
    document = decode(text)
    if document is None:
        return dict(base)
    if not isinstance(document, Pairs):
        raise BadOverlay(f"json: cannot unmarshal {_kind_of(document)} into Go value of type container.{struct}")
    return _merge(base, document, schema, struct)


class Pairs(list[tuple[str, Any]]):
    """A JSON object with its members in order, repeated ones included."""


def decode(text: str) -> Any:
    """JSON with objects as Pairs. Raises BadOverlay."""
    try:
        return json.loads(text, object_pairs_hook=Pairs)
    except RecursionError as error:
        raise BadOverlay("exceeded max depth") from error
    except ValueError as error:
        raise BadOverlay(go_json_error(text, error)) from error


def plain(value: Any) -> Any:
    """Pairs turned into dictionaries, recursively."""
    if isinstance(value, Pairs):
        return {key: plain(member) for key, member in value}
    return [plain(member) for member in value] if isinstance(value, list) else value


def _merge(base: dict[str, Any], document: Pairs, schema: Schema, struct: str) -> dict[str, Any]:
    names = {name.casefold(): name for name in schema}
    merged = dict(base)
    for key, value in document:
        name = key if key in schema else names.get(key.casefold())
        if name is None:
            continue
        kind = schema[name]
        if isinstance(kind, dict):
            _merge_struct(merged, name, value, kind, struct)
        elif value is None:
            if kind not in (TEXT, NUMBER, SWITCH):
                merged.pop(name, None)
        else:
            merged[name] = _value(merged.get(name), value, kind, f"{struct}.{name}")
    return merged


def _merge_struct(merged: dict[str, Any], name: str, value: Any, schema: Schema, struct: str) -> None:
    if value is None:
        if name == "Healthcheck":  # optional in Docker's structure; the others are plain parts of it
            merged.pop(name, None)
        return
    if not isinstance(value, Pairs):
        raise _mismatch(value, f"{struct}.{name}", f"container.{name}")
    merged[name] = _merge(merged.get(name) or {}, value, schema, f"{struct}.{name}")


def _value(have: Any, value: Any, kind: str, path: str) -> Any:
    if kind == WORDS:
        if not isinstance(value, (str, list)):
            raise BadOverlay(f"json: cannot unmarshal {_kind_of(value)} into Go value of type string")
        return [value] if isinstance(value, str) else [plain(v) for v in value]
    if kind == OPTIONAL:
        return plain(value)
    is_object = isinstance(value, Pairs)
    is_bool = isinstance(value, bool)
    fits = is_object if kind == MAP else isinstance(value, _ACCEPTED[kind]) and not (is_object and kind == LIST)
    if not fits or (is_bool and kind == NUMBER):
        raise _mismatch(value, path, _GO_TYPES[kind])
    return {**(have or {}), **plain(value)} if kind == MAP else plain(value)


def _mismatch(value: Any, path: str, wanted: str) -> BadOverlay:
    return BadOverlay(f"json: cannot unmarshal {_kind_of(value)} into Go struct field {path} of type {wanted}")


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number" if isinstance(value, int) else f"number {value}"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, (Pairs, dict)) else "array"


def compact(document: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """Without members that are empty or zero, for which the daemon supplies its own defaults."""
    kept = {}
    for name, value in document.items():
        kind = schema.get(name, OPTIONAL)
        if isinstance(value, dict) and isinstance(kind, dict):
            value = compact(value, kind)
            if not value and name != "Healthcheck":
                continue
        elif value is None or (kind != OPTIONAL and not value and not (value == [] and name in EMPTY_MATTERS)):
            continue
        kept[name] = value
    return kept


def go_json_error(text: str, error: ValueError) -> str:
    """The sentence of Go's JSON library for the commonest mistakes; only the part before it is ever matched."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    stripped = text.rstrip()
    at = error.pos
    if at >= len(stripped) or "Unterminated" in error.msg:
        return "unexpected end of JSON input"
    character = repr(stripped[at]) if stripped[at] != "'" else "'\\''"
    where = "looking for beginning of value"
    if "property name" in error.msg:
        where = "looking for beginning of object key string"
    elif "':'" in error.msg:
        where = "after object key"
    elif "','" in error.msg:
        where = "after object key:value pair" if _inside_object(stripped[:at]) else "after array element"
    elif "Extra data" in error.msg:
        where = "after top-level value"
    return f"invalid character {character} {where}"


def _inside_object(text: str) -> bool:
    depth: list[str] = []
    quoted = escaped = False
    for character in text:
        if quoted:
            quoted, escaped = escaped or character != '"', character == "\\" and not escaped
        elif character == '"':
            quoted = True
        elif character in "{[":
            depth.append(character)
        elif character in "}]" and depth:
            depth.pop()
    return bool(depth) and depth[-1] == "{"
