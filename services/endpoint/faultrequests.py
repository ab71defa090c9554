"""Fault requests: their bodies, what makes one valid, and the words for what does not (spec 06 §17.2). Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from services.endpoint import gojson

BLACKHOLE, LATENCY, LOSS = "network-blackhole-port", "network-latency", "network-packet-loss"
UINT16, UINT64, INT = (0, (1 << 16) - 1), (0, (1 << 64) - 1), (-(1 << 63), (1 << 63) - 1)
DEFAULT_FLOWS_PERCENT = 100
METADATA_ADDRESS = "169.254.170.2"
PREFIX = re.compile(r"[0-9]+")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Invalid(Exception):
    """A request that the task's state has no say in: 400 with this text."""


@dataclass(frozen=True)
class Blackhole:
    """Drop the packets of one port, but for some addresses."""

    port: int
    protocol: Literal["tcp", "udp"]
    traffic: Literal["ingress", "egress"]
    filtered: tuple[str, ...] = ()

    @property
    def chain(self) -> str:
        """The name of the netfilter chain."""
        return f"{self.traffic}-{self.protocol}-{self.port}"


@dataclass(frozen=True)
class Netem:
    """Delay or lose packets to some addresses; `arguments` are those of tc's netem."""

    arguments: tuple[str, ...]
    sources: tuple[str, ...] = ()
    filtered: tuple[str, ...] = ()
    flows_percent: int = DEFAULT_FLOWS_PERCENT


@dataclass
class Fields:
    """The members of a body by lower-case name, None where missing or null."""

    values: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name.lower())


Reader = Callable[[Any, str, str], Any]


def _integer(type_: str, bounds: tuple[int, int]) -> Reader:
    return lambda value, struct, name: gojson.integer(value, struct, name, type_, *bounds)


def _string(value: Any, struct: str, name: str) -> str:
    if not isinstance(value, str):
        raise gojson.wrong(value, struct, name, "string")
    return value


def _strings(value: Any, struct: str, name: str) -> tuple[str, ...]:
    if gojson.kind_of(value) != "array":
        raise gojson.wrong(value, struct, name, "[]*string")
    return tuple("" if item is None else _string(item, struct, name) for item in value)


_LISTS: dict[str, Reader] = {"Sources": _strings, "SourcesToFilter": _strings}
STRUCTS: dict[str, tuple[str, dict[str, Reader]]] = {
    BLACKHOLE: ("NetworkBlackholePortRequest", {
        "Port": _integer("uint16", UINT16), "Protocol": _string, "TrafficType": _string, "SourcesToFilter": _strings}),
    LATENCY: ("NetworkLatencyRequest", {
        "DelayMilliseconds": _integer("uint64", UINT64), "JitterMilliseconds": _integer("uint64", UINT64), **_LISTS,
        "FlowsPercent": _integer("int", INT)}),
    LOSS: ("NetworkPacketLossRequest", {
        "LossPercent": _integer("uint64", UINT64), **_LISTS, "FlowsPercent": _integer("int", INT)}),
}  # fmt: skip


def parse(fault: str, data: bytes) -> Blackhole | Netem:
    """The request in `data`. Raises Invalid with the reference's text."""
    try:
        fields = decode(fault, data)
    except (gojson.NotJson, gojson.WrongType) as error:
        raise Invalid("required request body is missing" if str(error) == "EOF" else str(error)) from error
    if fault == BLACKHOLE:
        return _blackhole(fields)
    return _latency(fields) if fault == LATENCY else _loss(fields)


def decode(fault: str, data: bytes) -> Fields:
    """The members of the body. Unknown ones are ignored; the first wrong type is raised as WrongType."""
    struct, readers = STRUCTS[fault]
    value = gojson.first_value(data)
    if value is None:
        return Fields()
    if not isinstance(value, gojson.Pairs):
        raise gojson.WrongType(f"json: cannot unmarshal {gojson.kind_of(value)} into Go value of type types.{struct}")
    names = {name.lower(): name for name in readers}
    fields = Fields()
    for key, member in value:
        name = names.get(key.casefold())
        if name is not None:
            fields.values[name.lower()] = None if member is None else readers[name](member, struct, name)
    return fields


def _required(fields: Fields, *names: str) -> None:
    for name in names:
        # An empty text counts as missing, the number 0 does not.
        if fields[name] is None or fields[name] in ("", ()):
            raise Invalid(f"required parameter {name} is missing")


def _blackhole(fields: Fields) -> Blackhole:
    _required(fields, "Port", "Protocol", "TrafficType")
    for name, known in (("Protocol", ("tcp", "udp")), ("TrafficType", ("ingress", "egress"))):
        if fields[name] not in known:
            raise Invalid(f"invalid value {fields[name]} for parameter {name}")
    filtered = _addresses(fields, "SourcesToFilter")
    if fields["TrafficType"] == "egress" and fields["Port"] == 80 and METADATA_ADDRESS not in filtered:
        filtered += (METADATA_ADDRESS,)
    return Blackhole(fields["Port"], fields["Protocol"], fields["TrafficType"], filtered)


def _latency(fields: Fields) -> Netem:
    _required(fields, "DelayMilliseconds", "JitterMilliseconds")
    delay, jitter = fields["DelayMilliseconds"], fields["JitterMilliseconds"]
    if not delay and not jitter:
        raise Invalid("required either DelayMilliseconds or JitterMilliseconds to be non-zero")
    return _netem(fields, ("delay", f"{delay}ms", f"{jitter}ms"))


def _loss(fields: Fields) -> Netem:
    _required(fields, "LossPercent")
    percent = fields["LossPercent"]
    if not 1 <= percent <= 100:
        signed = percent - (1 << 64) if percent >= 1 << 63 else percent
        raise Invalid(f"invalid value {signed} for parameter LossPercent")
    return _netem(fields, ("loss", f"{percent}%"))


def _netem(fields: Fields, arguments: tuple[str, ...]) -> Netem:
    _required(fields, "Sources")
    sources, filtered = _addresses(fields, "Sources"), _addresses(fields, "SourcesToFilter")
    flows = DEFAULT_FLOWS_PERCENT if fields["FlowsPercent"] is None else fields["FlowsPercent"]
    if not 1 <= flows <= 100:
        raise Invalid(f"invalid value {flows} for parameter flowsPercent")
    return Netem(arguments, sources, filtered, flows)


def _addresses(fields: Fields, name: str) -> tuple[str, ...]:
    values: Sequence[str] = fields[name] or ()
    for value in values:
        if is_ipv6(value) is None:
            raise Invalid(f"invalid value {value} for parameter {name}")
    return tuple(values)


def is_ipv6(text: str) -> bool | None:
    """Whether `text` is an IPv6 address or CIDR block; None when it is no address. IPv4-mapped ones are IPv4."""
    address, slash, prefix = text.partition("/")
    if "%" in address or not address.isascii() or (slash and PREFIX.fullmatch(prefix) is None):
        return None
    try:
        parsed: Address = ipaddress.ip_address(address)
    except ValueError:
        return None
    if slash and (len(prefix) > 3 or int(prefix) > parsed.max_prefixlen):
        return None
    return isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None
