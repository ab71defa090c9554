"""`ecs.config` files, read the way the service reads them: literally (spec 09 §4.2).

No quotes, no comments, no expansion, no `export`: a reading by the shell or by dotenv would show other values than the
agent gets. A person who runs `ecs-agent config show` has none of these lines in the environment of the shell, so the
command puts them there, together with what the installed service sets by itself.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from common.config.declarations import installed_defaults
from common.config.findings import Finding
from common.config.grammar import trim

SERVICE_FILES = ("/var/lib/ecs/ecs.config", "/etc/ecs/ecs.config")
SERVICE_DEFAULT = "set by the service"


class Composed(NamedTuple):
    """An environment, the file each variable came from, the files that were read, and what was wrong with them."""

    environ: dict[str, str]
    origins: dict[str, str]
    files: tuple[str, ...]
    findings: tuple[Finding, ...]


def parse(text: str) -> tuple[dict[str, str], list[int]]:
    """Return the variables and the numbers of lines that are neither an assignment, nor a comment, nor empty."""
    values: dict[str, str] = {}
    skipped: list[int] = []
    for number, line in enumerate(text.split("\n"), 1):
        name, equals, value = trim(line).partition("=")
        if name.startswith(("#", ";")):
            continue
        if equals:
            values[name] = value
        elif name:
            skipped.append(number)
    return values, skipped


def compose(environ: Mapping[str, str], paths: Iterable[str]) -> Composed:
    """Put the files over the environment, later files over earlier ones.

    When there is at least one file the machine has the service, and what it sets by itself goes underneath. A file
    that does not exist is skipped; one that cannot be read is a finding.
    """
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    files: list[str] = []
    findings: list[Finding] = []
    for path in paths:
        try:
            with open(path, encoding="utf-8", errors="replace", newline="\n") as stream:
                lines, skipped = parse(stream.read())
        except FileNotFoundError:
            continue
        except OSError as error:
            findings.append(Finding(path, "", f"cannot be read: {error.strerror}; its lines are missing here", path))
            continue
        files.append(path)
        values.update(lines)
        origins.update(dict.fromkeys(lines, f"file {path}"))
        findings.extend(
            Finding(path, "", f"line {number} is not NAME=value, so it is skipped", f"file {path}")
            for number in skipped
        )
    if not files:
        return Composed(dict(environ), {}, (), tuple(findings))
    beneath = {name: value for name, value in installed_defaults().items() if name not in environ}
    origins = dict.fromkeys(beneath, SERVICE_DEFAULT) | origins
    return Composed(beneath | dict(environ) | values, origins, tuple(files), tuple(findings))
