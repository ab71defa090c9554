"""The places a value can come from: environment, JSON file, user data. Each becomes a layer of values and remarks.

Nothing is merged or judged here beyond what one source alone decides (spec 01 §2 and §3.3): the text is parsed, a
malformed one becomes what the reference agent makes of it, and a remark remembers it. Reading never raises for
contents; the functions that fetch texts are handed in, so that tests and tools need no files.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from common.config.declarations import BY_KEY, OBJECT_KEYS, OPTIONS
from common.config.findings import Level
from common.config.grammar import Malformed, Pairs, parse_json, trim
from common.config.kinds import BOOL, INTEGER, WrongType
from common.config.option import Option

ENVIRONMENT = "environment"
USER_DATA = "user data"
USER_DATA_KEY = "ecsagentconfiguration"

Fetch = Callable[[], str | bytes | None]
ReadFile = Callable[[str], str | bytes | None]


class Remark(NamedTuple):
    """A finding in the making: what applies instead is only known after the merge."""

    name: str
    text: str
    problem: str
    where: str
    level: Level = "warning"
    error: str = ""
    stage: str = ""


class Layer:
    """The values of one source by option name, where each came from, and what was odd about them."""

    __slots__ = ("remarks", "values", "where")

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.where: dict[str, str] = {}
        self.remarks: list[Remark] = []


def read_file(path: str) -> bytes | None:
    """Read a whole file. None when it cannot be opened, which counts as "no file"; OSError when reading it fails."""
    try:
        stream = open(path, "rb")  # noqa: SIM115 - only a failed open may be forgiven, not a failed read
    except IsADirectoryError:
        raise
    except OSError:
        return None
    with stream:
        return stream.read()


def as_text(content: str | bytes) -> str:
    """Decode what a source gave; bytes that are not UTF-8 become replacement characters, as in the reference."""
    return content if isinstance(content, str) else content.decode("utf-8", "replace")


def read_environment(environ: Mapping[str, str], origins: Mapping[str, str]) -> Layer:
    """Parse every declared variable. `origins` names the file a variable was taken from, where that is known."""
    layer = Layer()
    for option in OPTIONS.values():
        for variable in option.variables:
            text = environ.get(variable)
            if text is None or _counts_as_unset(option, text):
                continue
            where = origins.get(variable, ENVIRONMENT if variable == option.name else f"{ENVIRONMENT} ({variable})")
            _read_variable(layer, option, text, where)
            break
        else:
            if option.kind is BOOL and option.default == "true":
                # Its parser never yields "not set", so no other source can say false (spec 01 §3.2).
                layer.values[option.name] = True
                layer.where[option.name] = "default"
    return layer


def _counts_as_unset(option: Option, text: str) -> bool:
    if text == "":
        return not option.empty_counts
    return option.kind.blank_is_unset and not trim(text)


def _read_variable(layer: Layer, option: Option, text: str, where: str) -> None:
    kind = option.kind
    try:
        value = kind.from_text(text)
    except Malformed as error:
        value = _kept(option, error)
        layer.remarks.append(_malformed(option, text, error.problem, where))
        if value is None:
            return
    else:
        layer.remarks.extend(_suspicious(option, text, value, where))
    if option.bounds is not None and option.bounds.when in ("environment", "both") and value:
        replaced = option.bounds.replace(value, kind)
        if replaced is not None:
            value, problem = replaced
            layer.remarks.append(Remark(option.name, text, problem, where))
    layer.values[option.name] = value
    layer.where[option.name] = where


def _suspicious(option: Option, text: str, value: Any, where: str) -> Iterator[Remark]:
    """Remark on what is legal and hardly ever meant: quotes and blanks that become part of a text."""
    if not isinstance(value, str):
        return
    if len(text) > 1 and text[0] in ("'", '"') and text[-1] == text[0]:
        yield Remark(option.name, text, "has quotes around it, which become part of it", where)
    elif not option.trim and value != trim(value):
        yield Remark(option.name, text, "begins or ends with white space, which becomes part of it", where)


def _kept(option: Option, error: Malformed) -> Any:
    """What a malformed text leaves behind: usually nothing, sometimes a part of it (spec 01 §1)."""
    if option.kind is BOOL:
        return option.default == "true"
    if not option.json and option.kind is INTEGER:
        return None
    return error.kept


def _malformed(option: Option, text: str, problem: str, where: str) -> Remark:
    if not option.kind.fatal:
        return Remark(option.name, text, problem, where)
    form = "hash" if option.kind.name == "map" else "array of networks"
    error = f"Invalid format for {option.name}. Expected a json {form}: it {problem}"
    return Remark(option.name, text, problem, where, "fatal", error, ENVIRONMENT)


def read_config_file(path: str, read: ReadFile) -> Layer:
    """Read the JSON configuration file. One fault in it discards the file and ends the load (spec 01 §3.3)."""
    where = f"file {path}"
    layer = Layer()

    def fail(name: str, text: str, problem: str) -> None:
        error = f"{path}: {problem}" if name == path else f"{path}: {name} {problem}"
        layer.remarks.append(Remark(name, text, problem, where, "fatal", error, "file"))

    try:
        content = read(path)
    except OSError as error:
        fail(path, "", f"cannot be read: {error.strerror or error}")
        return layer
    text = trim(as_text(content or ""))
    if not text:
        return layer
    try:
        document = parse_json(text)
    except Malformed as error:
        fail(path, "", error.problem)
        return layer
    if document is not None and not isinstance(document, Pairs):
        fail(path, "", "must be one JSON object")
        return layer
    faults = _read_object(layer, document or Pairs(), where)
    for name, shown, problem in faults:
        fail(name, shown, problem)
    if faults:
        layer.values.clear()
    elif layer.values.get("ClusterArn") and not layer.values.get("ECS_CLUSTER"):
        layer.values["ECS_CLUSTER"] = layer.values["ClusterArn"]
        layer.where["ECS_CLUSTER"] = f"{where} (ClusterArn)"
    return layer


def read_user_data(fetch: Fetch) -> Layer:
    """Read the member ECSAgentConfiguration of EC2 user data. Any fault makes the whole of it ignored."""
    layer = Layer()

    def ignore(problem: str, level: Level = "note") -> Layer:
        layer.values.clear()
        layer.remarks.append(Remark(USER_DATA, "", problem, USER_DATA, level))
        return layer

    try:
        content = fetch()
    except Exception as error:  # the function is the caller's; whatever it met, the agent goes on without user data
        return ignore(f"cannot be fetched ({error}), so nothing is taken from it", "warning")
    text = trim(as_text(content or ""))
    if not text:
        return layer
    try:
        document = parse_json(text)
    except Malformed:
        return ignore("is not JSON, so nothing is taken from it")
    section = _member(document, USER_DATA_KEY)
    if section is None:
        return layer
    if not isinstance(section, Pairs):
        return ignore("has a member ECSAgentConfiguration that is not an object, so nothing is taken from it")
    faults = _read_object(layer, section, USER_DATA)
    if faults:
        name, _, problem = faults[0]
        return ignore(f"is ignored as a whole, because {name} {problem}")
    return layer


def _member(document: Any, folded: str) -> Any:
    """Find a member by its folded name; of several the last wins."""
    found = None
    for key, value in document if isinstance(document, Pairs) else ():
        if key.casefold() == folded:
            found = value
    return found


def _read_object(layer: Layer, members: Pairs, where: str) -> list[tuple[str, str, str]]:
    """Take the known keys of a JSON object into the layer; return (key, text, problem) of those of a wrong type."""
    faults: list[tuple[str, str, str]] = []
    for key, value in members:
        folded = key.casefold()
        if folded in OBJECT_KEYS:
            if value is not None and not isinstance(value, Pairs):
                faults.append((key, "", "must be an object"))
            continue
        option = BY_KEY.get(folded)
        if option is None:
            layer.remarks.append(Remark(key, "", "is not a key of the configuration, so it is ignored", where, "note"))
        elif value is not None:
            faults.extend(_read_member(layer, option, value, where))
    return faults


def _read_member(layer: Layer, option: Option, value: Any, where: str) -> Iterator[tuple[str, str, str]]:
    try:
        parsed = option.kind.from_json(value)
    except WrongType as error:
        shown = "" if option.secret or isinstance(value, list) else str(value)
        yield option.json, shown, str(error)
        return
    if option.file_ignored:
        reason = f"has no effect here: {option.name if option.is_variable else 'the check'} decides"
        layer.remarks.append(Remark(option.json, "", reason, where, "note"))
        return
    layer.values[option.name] = parsed
    layer.where[option.name] = where
