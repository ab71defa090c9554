"""The environment that the service would have on this host, and where each of its variables comes from.

A person who runs `ecs-agent config show` has none of the lines of `ecs.config` in the environment of the shell, and
nothing of what the service sets by itself. Both come from the same functions as in the service (service_env.py); here
they are kept apart, so that the command can name the file of a value and the line that is none.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from common.config.findings import Finding
from common.config.service_env import (
    INSTANCE_FILE,
    SWITCHES,
    USER_FILE,
    Host,
    of_instance,
    parse,
    settle,
    unquoted,
)
from common.host_paths import host_path

SERVICE_FILES = (INSTANCE_FILE, USER_FILE)
SERVICE_DEFAULT = "set by the service"


class Composed(NamedTuple):
    """An environment, the file each variable came from, the files that were read, and what was wrong with them."""

    environ: dict[str, str]
    origins: dict[str, str] = {}
    files: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def compose(
    environ: Mapping[str, str], paths: Iterable[str], look: Callable[[Mapping[str, str], Mapping[str, str]], Host]
) -> Composed:
    """The service's environment with these files, later ones over earlier ones, and `environ` as its launcher's.

    A file that does not exist is skipped; one that cannot be read is a finding. `look` tells the facts of the host.
    """
    read, findings = _read(paths)
    host = look(environ, {name: value for lines in read.values() for name, value in lines.items()})
    files: dict[str, str] = {}
    origins: dict[str, str] = {}
    for path, lines in read.items():
        counting = of_instance(lines, host.gpu_devices) if path == INSTANCE_FILE else lines
        files.update(counting)
        origins.update(dict.fromkeys(counting, f"file {path}"))
    values, _ = settle(environ, files, host)
    for name, value in values.items():
        if name in SWITCHES and name in environ:  # the file's line does not count
            origins.pop(name, None)
        given = environ.get(name) if name not in origins else files[name]
        if given is None or value not in (given, host_path(given), unquoted(given)):
            origins[name] = SERVICE_DEFAULT
    # Misspelt names never reach the service; they are here for whoever looks for what is wrong.
    return Composed(files | values, origins, tuple(read), tuple(findings))


def _read(paths: Iterable[str]) -> tuple[dict[str, dict[str, str]], list[Finding]]:
    """The lines of each file that can be read, and what is wrong with the files."""
    read: dict[str, dict[str, str]] = {}
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
        read[path] = lines
        findings.extend(
            Finding(path, "", f"line {number} is not NAME=value, so it is skipped", f"file {path}")
            for number in skipped
        )
    return read, findings
