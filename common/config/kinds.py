"""The types of options: how a value is read from text and from JSON, when it counts as not set, how it is shown.

A kind is a table row with behaviour, not a place for policy: bounds, defaults and precedence belong to the option and
to the loader. Inside the loader durations are whole nanoseconds and switches are True, False or None; `public` turns
a merged value into what programs see (durations as float seconds). Facts: spec 01 §1 and §3.3.
"""

import json
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from common.config import grammar
from common.config.grammar import Malformed, Pairs

MOST_PIDS = 4194304  # the kernel's limit on 64 bits (proc(5), pid_max)


class PortRange(NamedTuple):
    """Host ports from `start` to `end`, both included; its text is `start-end`."""

    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"


class WrongType(ValueError):
    """A JSON value whose type is not the key's; the configuration file is then refused as a whole (spec 01 §3.3)."""


def _same(value: Any) -> Any:
    return value


class Kind:
    """One type of value.

    `from_text` and `from_json` return the value or raise `Malformed` and `WrongType`; `zero` is the value that counts
    as not set when sources are merged. `blank_is_unset`: a text of white space is like no text. `fatal`: a malformed
    text in the environment ends the load. `expects` says in a few words what to write.
    """

    __slots__ = ("blank_is_unset", "expects", "fatal", "from_json", "from_text", "is_zero", "name", "public", "show",
                 "zero")  # fmt: skip

    def __init__(
        self,
        name: str,
        expects: str,
        from_text: Callable[[str], Any],
        from_json: Callable[[Any], Any],
        zero: Any,
        *,
        public: Callable[[Any], Any] = _same,
        show: Callable[[Any], str] = str,
        blank_is_unset: bool = False,
        fatal: bool = False,
    ) -> None:
        self.name = name
        self.expects = expects
        self.from_text = from_text
        self.from_json = from_json
        self.zero = zero
        self.public = public
        self.show = show
        self.blank_is_unset = blank_is_unset
        self.fatal = fatal
        self.is_zero: Callable[[Any], bool] = lambda value: value is None if zero is None else not value

    def __repr__(self) -> str:
        return f"<kind {self.name}>"


def show_bool(value: Any) -> str:
    """`true`, `false`, or `unset` for the third value of a switch."""
    return "unset" if value is None else ("true" if value else "false")


def show_json(value: Any) -> str:
    """One line of JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def json_string(value: Any) -> str:
    """Accept a JSON string."""
    if not isinstance(value, str):
        raise WrongType("must be a string")
    return grammar.clean_string(value)


def json_integer(low: int, high: int) -> Callable[[Any], int]:
    """Accept a JSON integer; `22.0` and `true` are none."""

    def read(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise WrongType(f"must be a whole number from {low} to {high}")
        return value

    return read


_json_int64 = json_integer(grammar.INT64_MIN, grammar.INT64_MAX)
_json_port = json_integer(0, grammar.PORT_MAX)


def _json_nanoseconds(value: Any) -> int:
    if type(value) is not int or not grammar.INT64_MIN <= value <= grammar.INT64_MAX:
        raise WrongType("must be a whole number of nanoseconds (1 s is 1000000000)")
    return value


def _json_plain_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise WrongType("must be true or false")
    return value


def _json_switch(value: Any) -> bool:
    if isinstance(value, bool) or (type(value) is int and value in (0, 1)):
        return bool(value)
    raise WrongType("must be true or false, without quotes")


def _json_list(element: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or isinstance(value, Pairs):
            raise WrongType("must be an array")
        return tuple(element(member) for member in value)

    return read


def _null_is(zero: Any, element: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: zero if value is None else element(value)


def _lenient_list(element: Callable[[Any], Any], zero: Any, what: str) -> Callable[[str], tuple[Any, ...]]:
    """Read a JSON array with a stream decoder; a member of the wrong type becomes `zero` in place (spec 01 §1)."""

    def read(text: str) -> tuple[Any, ...]:
        value = grammar.parse_json_prefix(text)
        if value is None:
            return ()
        if not isinstance(value, list) or isinstance(value, Pairs):
            raise Malformed(f"is not a JSON array of {what}")
        members, wrong = [], 0
        for member in value:
            try:
                members.append(zero if member is None else element(member))
            except WrongType:
                members.append(zero)
                wrong += 1
        if wrong:
            raise Malformed(f"has {wrong} element{'s' if wrong > 1 else ''} that cannot be used", tuple(members))
        return tuple(members)

    return read


def _not_blank(read: Callable[[str], tuple[Any, ...]]) -> Callable[[str], tuple[Any, ...]]:
    def parse(text: str) -> tuple[Any, ...]:
        if not grammar.trim(text):
            raise Malformed("is blank, which is no JSON array", ())
        return read(text)

    return parse


def _json_map(value: Any) -> dict[str, str]:
    if not isinstance(value, Pairs):
        raise WrongType("must be an object")
    result: dict[str, str] = {}
    for key, member in value:
        if member is not None and not isinstance(member, str):
            raise WrongType(f"must have strings as values, but that of {key!r} is none")
        result[grammar.clean_string(key)] = grammar.clean_string(member or "")
    return result


def _strict_text(read: Callable[[Any], Any], empty: Any) -> Callable[[str], Any]:
    """Read a text that must be one JSON value as a whole; `null` is the same as nothing."""

    def parse(text: str) -> Any:
        value = grammar.parse_json(text)
        if value is None:
            return empty
        try:
            return read(value)
        except WrongType as error:
            raise Malformed(str(error)) from None

    return parse


def _loose_map(text: str) -> dict[str, str]:
    """Read a JSON object of which only members with the wrong type are dropped (ECS_LOG_OPTS)."""
    value = grammar.parse_json(text)
    if not isinstance(value, Pairs):
        raise Malformed("is not a JSON object")
    usable = {key: member for key, member in value if isinstance(member, str)}
    if len(usable) < len(value):
        raise Malformed("has members that are not strings", usable)
    return usable


def check_cidr(value: Any) -> str:
    """Accept `address/prefix length`, IPv4 or IPv6; host bits may be set."""
    text = json_string(value)
    address, _, prefix = text.partition("/")
    family, longest = (socket.AF_INET6, 128) if ":" in address else (socket.AF_INET, 32)
    try:
        socket.inet_pton(family, address)
        grammar.parse_unsigned(prefix, longest)
    except (OSError, ValueError):
        raise WrongType(f"must hold networks such as 10.0.0.0/16, and {text!r} is none") from None
    return text


def _integer_text(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = grammar.parse_integer(text)
        if not low <= value <= high:
            raise Malformed(f"is not a whole number from {low} to {high}", 0)
        return value

    return read


def _pids(text: str) -> int:
    try:
        value = grammar.parse_integer(grammar.trim(text))
    except Malformed as error:
        raise Malformed(error.problem, 0) from None
    if not 1 <= value <= MOST_PIDS:
        raise Malformed(f"is not a number from 1 to {MOST_PIDS}", 0)
    return value


def _rate_pair(text: str) -> tuple[int, int]:
    fields = text.split(",")
    if len(fields) != 2:
        raise Malformed("is not two numbers: write steady,burst such as 40,60", (0, 0))
    try:
        return grammar.parse_integer(grammar.trim(fields[0])), grammar.parse_integer(grammar.trim(fields[1]))
    except Malformed:
        raise Malformed("is not two whole numbers: write steady,burst such as 40,60", (0, 0)) from None


def _go_bool(text: str) -> bool:
    return grammar.parse_bool(text)


def _trimmed_bool(text: str) -> bool:
    return grammar.parse_bool(grammar.trim(text))


def _exactly_true(text: str) -> bool:
    if text != "true" and text not in grammar.FALSE_WORDS:
        raise Malformed("is not exactly true, the only text that switches it on", False)
    return text == "true"


def _any_case_true(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise Malformed("is neither true nor false", False)
    return text.lower() == "true"


def _one_of(members: tuple[str, ...], fold: bool, otherwise: str | None) -> Callable[[str], str]:
    def read(text: str) -> str:
        word = grammar.trim(text).lower() if fold else text
        if word not in members:
            raise Malformed(f"is none of {', '.join(members)}", otherwise)
        return word

    return read


def choice(*members: str, numbered: bool = False, fold: bool = False, otherwise: str | None = None) -> Kind:
    """A word out of a few.

    numbered   the first member is the zero value, and JSON holds the position
    fold       any letter case
    otherwise  what every other word means
    """

    def by_number(value: Any) -> str:
        number = json_integer(-128, 127)(value)
        return members[number] if 0 <= number < len(members) else members[0]

    zero = members[0] if numbered else ""
    kind = Kind(
        "choice",
        ", ".join(f"`{member}`" for member in members),
        _one_of(members, fold, otherwise),
        by_number if numbered else json_string,
        zero,
    )
    kind.is_zero = lambda value: value == zero
    return kind


def integer(low: int, high: int = grammar.INT64_MAX) -> Kind:
    """A whole number between two bounds, for the options that are this product's own."""
    return Kind("integer", f"a whole number from {low} to {high}", _integer_text(low, high), _json_int64, 0)


def _seconds(nanoseconds: int) -> float:
    return nanoseconds / grammar.SECOND


_BOOLEAN = "`true` or `false` (also `1 t T TRUE True`, `0 f F FALSE False`)"

STRING = Kind("string", "any text", str, json_string, "")
URL = Kind("url", "a URL", str, json_string, "")
RAW_JSON = Kind("json", "JSON", str, lambda value: show_json(grammar.plain_json(value)), "")
# Two kinds for one grammar, because "not set" means false for the first and true for the second (spec 01 §1).
SWITCH = Kind("switch", _BOOLEAN, _trimmed_bool, _json_switch, None, show=show_bool, blank_is_unset=True)
SWITCH_ON = Kind("switch", _BOOLEAN, _trimmed_bool, _json_switch, None, show=show_bool, blank_is_unset=True)
BOOL = Kind("boolean", _BOOLEAN, _trimmed_bool, _json_plain_bool, False, show=show_bool, blank_is_unset=True)
GO_BOOL = Kind("boolean", _BOOLEAN + ", no blanks", _go_bool, _json_plain_bool, False, show=show_bool)
EXACT_TRUE = Kind("boolean", "`true`, anything else is false", _exactly_true, _json_plain_bool, False, show=show_bool)
SDK_BOOL = Kind("boolean", "`true` or `false`, in any case", _any_case_true, _json_plain_bool, False, show=show_bool)
DURATION = Kind(
    "duration", "a duration such as `90s` or `1h30m`", grammar.parse_duration, _json_nanoseconds, 0,
    public=_seconds, show=grammar.format_duration,
)  # fmt: skip
MIB = Kind("MiB", "a whole number from 0 to 65535", lambda text: grammar.parse_unsigned(text, 65535), _json_port, 0)
INTEGER = Kind("integer", "a whole number", grammar.parse_integer, _json_int64, 0)
PIDS = Kind("integer", f"a whole number from 1 to {MOST_PIDS}", _pids, _json_int64, 0)
DECIMAL = Kind("number", "a decimal number", grammar.parse_decimal, _json_int64, 0.0, show=lambda value: f"{value:g}")
PORTS = Kind(
    "ports", "a JSON array of ports, such as `[22,80]`", _lenient_list(_json_port, 0, "ports"),
    _json_list(_null_is(0, _json_port)), (), show=show_json,
)  # fmt: skip
STRINGS = Kind(
    "strings", 'a JSON array of strings, such as `["a","b"]`', _lenient_list(json_string, "", "strings"),
    _json_list(_null_is("", json_string)), (), show=show_json,
)  # fmt: skip
SOME_STRINGS = Kind(  # blanks are no list here, as in the reference (spec 01 §1)
    "strings", STRINGS.expects, _not_blank(STRINGS.from_text), STRINGS.from_json, (), show=show_json,
)  # fmt: skip
MAP = Kind(
    "map", 'a JSON object of strings, such as `{"stack":"prod"}`', _strict_text(_json_map, {}), _json_map, {},
    show=show_json, fatal=True,
)  # fmt: skip
LENIENT_MAP = Kind(
    "map", 'a JSON object of strings, such as `{"team":"web"}`', _strict_text(_json_map, {}), _json_map, {},
    show=show_json,
)  # fmt: skip
OPTIONS_MAP = Kind(
    "map", 'a JSON object of strings, such as `{"max-size":"16m"}`', _loose_map, _json_map, None,
    show=lambda value: "" if value is None else show_json(value),
)  # fmt: skip
CIDRS = Kind(
    "networks", 'a JSON array of networks, such as `["10.0.0.0/16"]`', _strict_text(_json_list(check_cidr), ()),
    _json_list(check_cidr), (), show=show_json, fatal=True,
)  # fmt: skip
CIDR = Kind("network", "a network such as `169.254.172.2/22`", str, check_cidr, "")
COMMA_LIST = Kind(
    "comma list", "names separated by commas, without blanks", lambda text: tuple(text.split(",")),
    _json_list(_null_is("", json_string)), (), show=",".join,
)  # fmt: skip
PORT_RANGE = Kind(
    "port range", "`start-end` or one port", lambda text: PortRange(*grammar.parse_port_range(text)), json_string, None,
    show=lambda value: "" if value is None else str(value),
)  # fmt: skip
RATES = Kind(
    "two integers", "`steady,burst`, such as `40,60`", _rate_pair, json_string, (0, 0),
    show=lambda pair: f"{pair[0]},{pair[1]}",
)  # fmt: skip
