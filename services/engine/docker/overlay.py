"""Laying the task definition's Docker JSON over the agent's own Config and HostConfig.

The reference decodes `dockerConfig.config` and `.hostConfig` with Go's JSON library into a structure that is already
filled (spec 03 §6.6.1, §6.6.4, trap 10): keys match in any case, unknown keys are ignored, scalars and lists replace,
objects merge key by key, and null clears lists, maps and optional values but leaves plain numbers, texts and switches.
The table below is Docker's own structure (API 1.44): a member's kind decides what null and an empty value mean.
"""

from __future__ import annotations

import math
import re
from typing import Any

from common.wire import gojson
from common.wire.gojson import Number, Pairs, kind_of

TEXT, NUMBER, SWITCH, LIST, MAP, OPTIONAL, WORDS = "text", "number", "switch", "list", "map", "optional", "words"
TEXTS = "texts"  # a map of texts

Schema = dict[str, Any]  # member -> kind, or the Schema of a structure


def _members(kind: str, names: str) -> Schema:
    return dict.fromkeys(names.split(), kind)


CONFIG: Schema = {
    **_members(TEXT, "Hostname Domainname User Image WorkingDir MacAddress StopSignal"),
    **_members(SWITCH, "AttachStdin AttachStdout AttachStderr Tty OpenStdin StdinOnce ArgsEscaped NetworkDisabled"),
    **_members(LIST, "Env OnBuild"),
    **_members(WORDS, "Cmd Entrypoint Shell"),
    **_members(MAP, "ExposedPorts Volumes"),
    **_members(TEXTS, "Labels"),
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
    **_members(MAP, "PortBindings"),
    **_members(TEXTS, "Annotations StorageOpt Tmpfs Sysctls"),
    **_members(OPTIONAL, "MemorySwappiness OomKillDisable PidsLimit Init"),
    "LogConfig": {**_members(TEXT, "Type"), **_members(TEXTS, "Config")},
    "RestartPolicy": {**_members(TEXT, "Name"), **_members(NUMBER, "MaximumRetryCount")},
}

# An empty list is not the same as none: it takes away what the image or the daemon would supply.
EMPTY_MATTERS = frozenset({"Entrypoint", "Cmd", "Shell", "MaskedPaths", "ReadonlyPaths"})

_GO_TYPES: dict[str, str] = {TEXT: "string", NUMBER: "int64", SWITCH: "bool", LIST: "[]string"}
_GO_TYPES |= dict.fromkeys((MAP, TEXTS), "map[string]string")
_ACCEPTED: dict[str, type[Any]] = {TEXT: str, NUMBER: Number, SWITCH: bool, LIST: list, MAP: Pairs, TEXTS: Pairs}
_INTEGER = re.compile(r"-?[0-9]{1,19}")


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
        raise BadOverlay(f"json: cannot unmarshal {kind_of(document)} into Go value of type container.{struct}")
    return _merge(base, document, schema, struct)


def decode(text: str) -> Any:
    """JSON with objects as Pairs and numbers as they were spelled. Raises BadOverlay."""
    try:
        return gojson.whole_value(text)
    except gojson.NotJson as error:
        raise BadOverlay(str(error)) from error


def plain(value: Any) -> Any:
    """Pairs turned into dictionaries and numbers into Python's, recursively. Raises BadOverlay."""
    if isinstance(value, Number):
        return _number(value)
    if isinstance(value, Pairs):
        return {key: plain(member) for key, member in value}
    return [plain(member) for member in value] if isinstance(value, list) else value


def _number(value: Number) -> int | float:
    number = int(value.text) if _INTEGER.fullmatch(value.text) else float(value.text)
    if not math.isfinite(number):
        raise BadOverlay(f"json: cannot unmarshal number {value.text} into Go value of type float64")
    return number


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
        if not isinstance(value, str) and kind_of(value) != "array":
            raise BadOverlay(f"json: cannot unmarshal {kind_of(value)} into Go value of type string")
        return [value] if isinstance(value, str) else plain(value)
    if kind == OPTIONAL:
        return plain(value)
    if not isinstance(value, _ACCEPTED[kind]) or (kind == LIST and isinstance(value, Pairs)):
        raise _mismatch(value, path, _GO_TYPES[kind])
    if kind == NUMBER:
        number = _number(value)
        if not isinstance(number, int) or not -(1 << 63) <= number < 1 << 63:
            raise BadOverlay(f"json: cannot unmarshal number {value.text} into Go struct field {path} of type int64")
        return number
    if kind == TEXTS:
        return {**(have or {}), **{key: _text(member, path) for key, member in value}}
    return {**(have or {}), **plain(value)} if kind == MAP else plain(value)


def _text(value: Any, path: str) -> str:
    """A member of a map of texts, where null is "" as in every new text."""
    if value is not None and not isinstance(value, str):
        raise _mismatch(value, path, "string")
    return value or ""


def _mismatch(value: Any, path: str, wanted: str) -> BadOverlay:
    return BadOverlay(f"json: cannot unmarshal {kind_of(value)} into Go struct field {path} of type {wanted}")


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
