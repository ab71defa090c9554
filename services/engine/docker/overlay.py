"""Laying the task definition's Docker JSON over the agent's own Config and HostConfig.

The reference decodes `dockerConfig.config` and `.hostConfig` with Go's JSON library into a structure that is already
filled (spec 03 §6.6.1, §6.6.4, trap 10): keys match in any case, unknown keys are ignored, scalars and lists replace,
objects merge key by key, and null clears lists, maps and optional values but leaves plain numbers, texts and switches.
The table below is Docker's own structure (API 1.44): a member's kind decides what null and an empty value mean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from common.wire import gojson
from common.wire.gojson import Number, Pairs, kind_of

TEXT, NUMBER, SWITCH = "text", "number", "switch"

Schema = dict[str, Any]  # member -> kind; a kind is one of the three above, one of the classes below, or a Schema


@dataclass(frozen=True)
class ListOf:
    """A list of one kind of element; Docker's word lists may also be one text alone."""

    element: Any
    or_one: bool = False


@dataclass(frozen=True)
class MapOf:
    """A map with one kind of value."""

    value: Any


@dataclass(frozen=True)
class Optional:
    """A value that may be absent, which is not the same as zero."""

    of: Any


TEXTS, WORDS, NUMBERS = ListOf(TEXT), ListOf(TEXT, or_one=True), ListOf(NUMBER)
NAMED = MapOf(TEXT)
SET = MapOf({})  # Go's map to the structure without members
CLEARED = (ListOf, MapOf, Optional)  # what null takes away


def _members(kind: Any, names: str) -> Schema:
    return dict.fromkeys(names.split(), kind)


CONFIG: Schema = {
    **_members(TEXT, "Hostname Domainname User Image WorkingDir MacAddress StopSignal"),
    **_members(SWITCH, "AttachStdin AttachStdout AttachStderr Tty OpenStdin StdinOnce ArgsEscaped NetworkDisabled"),
    **_members(TEXTS, "Env OnBuild"),
    **_members(WORDS, "Cmd Entrypoint Shell"),
    **_members(SET, "ExposedPorts Volumes"),
    **_members(NAMED, "Labels"),
    **_members(Optional(NUMBER), "StopTimeout"),
    "Healthcheck": Optional(
        {**_members(TEXTS, "Test"), **_members(NUMBER, "Interval Timeout StartPeriod StartInterval Retries")}
    ),
}

MOUNT: Schema = {
    **_members(TEXT, "Type Source Target Consistency"),
    **_members(SWITCH, "ReadOnly"),
    "BindOptions": Optional(
        {
            **_members(TEXT, "Propagation"),
            **_members(SWITCH, "NonRecursive CreateMountpoint ReadOnlyNonRecursive ReadOnlyForceRecursive"),
        }
    ),
    "VolumeOptions": Optional(
        {
            **_members(SWITCH, "NoCopy"),
            **_members(TEXT, "Subpath"),
            **_members(NAMED, "Labels"),
            "DriverConfig": Optional({**_members(TEXT, "Name"), **_members(NAMED, "Options")}),
        }
    ),
    "TmpfsOptions": Optional({**_members(NUMBER, "SizeBytes Mode"), "Options": ListOf(TEXTS)}),
    "ClusterOptions": Optional({}),
}

DEVICE_REQUEST: Schema = {
    **_members(TEXT, "Driver"),
    **_members(NUMBER, "Count"),
    **_members(TEXTS, "DeviceIDs"),
    "Capabilities": ListOf(TEXTS),
    **_members(NAMED, "Options"),
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
        TEXTS,
        "Binds VolumesFrom Dns DnsOptions DnsSearch ExtraHosts GroupAdd Links SecurityOpt DeviceCgroupRules "
        "MaskedPaths ReadonlyPaths",
    ),
    "ConsoleSize": NUMBERS,
    "BlkioWeightDevice": ListOf({**_members(TEXT, "Path"), **_members(NUMBER, "Weight")}),
    **_members(
        ListOf({**_members(TEXT, "Path"), **_members(NUMBER, "Rate")}),
        "BlkioDeviceReadBps BlkioDeviceWriteBps BlkioDeviceReadIOps BlkioDeviceWriteIOps",
    ),
    "Devices": ListOf(_members(TEXT, "PathOnHost PathInContainer CgroupPermissions")),
    "DeviceRequests": ListOf(DEVICE_REQUEST),
    "Ulimits": ListOf({**_members(TEXT, "Name"), **_members(NUMBER, "Hard Soft")}),
    "Mounts": ListOf(MOUNT),
    **_members(WORDS, "CapAdd CapDrop"),
    "PortBindings": MapOf(ListOf(_members(TEXT, "HostIp HostPort"))),
    **_members(NAMED, "Annotations StorageOpt Tmpfs Sysctls"),
    **_members(Optional(NUMBER), "MemorySwappiness PidsLimit"),
    **_members(Optional(SWITCH), "OomKillDisable Init"),
    "LogConfig": {**_members(TEXT, "Type"), **_members(NAMED, "Config")},
    "RestartPolicy": {**_members(TEXT, "Name"), **_members(NUMBER, "MaximumRetryCount")},
}

# An empty list is not the same as none: it takes away what the image or the daemon would supply.
EMPTY_MATTERS = frozenset({"Entrypoint", "Cmd", "Shell", "MaskedPaths", "ReadonlyPaths"})

_GO_TYPES = {TEXT: "string", NUMBER: "int64", SWITCH: "bool"}
_ACCEPTED: dict[str, type[Any]] = {TEXT: str, NUMBER: Number, SWITCH: bool}
_ZERO = {TEXT: "", NUMBER: 0, SWITCH: False}
_INTEGER = re.compile(r"-?[0-9]{1,19}")


class BadOverlay(ValueError):
    """The JSON cannot be laid over; the text reads like the error of Go's JSON library."""


def overlay(base: dict[str, Any], text: str | None, schema: Schema, struct: str) -> dict[str, Any]:
    """`base` with the JSON object `text` laid over it; `base` is left alone. Raises BadOverlay.

    Without a text there is nothing to lay; an empty one is broken JSON like any other (spec 03 §1.1).
    """
    if text is None:
        return dict(base)
    document = decode(text)
    if document is None:
        return dict(base)
    if not isinstance(document, Pairs):
        raise BadOverlay(f"json: cannot unmarshal {kind_of(document)} into Go value of type container.{struct}")
    return _merge(base, document, schema, struct)


def decode(text: str) -> Any:
    """JSON with objects as Pairs and numbers as they were spelled. Raises BadOverlay."""
    try:
        return gojson.whole_value(text)
    except gojson.NotJson as error:
        raise BadOverlay(str(error)) from error


def _merge(base: dict[str, Any], document: Pairs, schema: Schema, path: str) -> dict[str, Any]:
    names = {name.casefold(): name for name in schema}
    merged = dict(base)
    for key, value in document:
        name = key if key in schema else names.get(key.casefold())
        if name is None:
            continue
        kind = schema[name]
        if value is not None:
            merged[name] = _value(merged.get(name), value, kind, f"{path}.{name}")
        elif isinstance(kind, CLEARED):
            merged.pop(name, None)
    return merged


def _value(have: Any, value: Any, kind: Any, path: str) -> Any:
    """`value`, which is not null, as a value of this kind over what is there already."""
    if isinstance(kind, Optional):
        return _value(have, value, kind.of, path)
    if isinstance(kind, ListOf):
        return _list(value, kind, path)
    if isinstance(kind, str):
        return _scalar(value, kind, path)
    if not isinstance(value, Pairs):
        raise _mismatch(value, path, _go_type(kind))
    if isinstance(kind, MapOf):
        return {**(have or {}), **{key: _element(member, kind.value, path) for key, member in value}}
    return _merge(have or {}, value, kind, path)


def _list(value: Any, kind: ListOf, path: str) -> list[Any]:
    if kind.or_one and isinstance(value, str):
        return [value]
    if isinstance(value, Pairs) or not isinstance(value, list):
        raise _mismatch(value, path, _go_type(kind))
    return [_element(element, kind.element, path) for element in value]


def _element(value: Any, kind: Any, path: str) -> Any:
    """A member of a list or map; null is the zero of a new scalar, and of the rest what Docker itself reads it as."""
    if value is None:
        return _ZERO[kind] if isinstance(kind, str) else None
    return _value(None, value, kind, path)


def _scalar(value: Any, kind: str, path: str) -> Any:
    if not isinstance(value, _ACCEPTED[kind]):
        raise _mismatch(value, path, _GO_TYPES[kind])
    if kind != NUMBER:
        return value
    number = int(value.text) if _INTEGER.fullmatch(value.text) else None
    if number is None or not -(1 << 63) <= number < 1 << 63:
        raise BadOverlay(f"json: cannot unmarshal number {value.text} into Go struct field {path} of type int64")
    return number


def _go_type(kind: Any) -> str:
    if isinstance(kind, ListOf):
        return "string" if kind.or_one else f"[]{_go_type(kind.element)}"
    if isinstance(kind, MapOf):
        return f"map[string]{_go_type(kind.value)}"
    return _GO_TYPES[kind] if isinstance(kind, str) else "struct"


def _mismatch(value: Any, path: str, wanted: str) -> BadOverlay:
    return BadOverlay(f"json: cannot unmarshal {kind_of(value)} into Go struct field {path} of type {wanted}")


def compact(document: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """Without members that are empty or zero, for which the daemon supplies its own defaults."""
    kept = {}
    for name, value in document.items():
        kind = schema.get(name)
        optional = kind is None or isinstance(kind, Optional)
        structure = kind.of if isinstance(kind, Optional) else kind
        if isinstance(value, dict) and isinstance(structure, dict):
            value = compact(value, structure)
        if value is None or (not optional and not value and not (value == [] and name in EMPTY_MATTERS)):
            continue
        kept[name] = value
    return kept
