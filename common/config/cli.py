"""`ecs-agent config show` and `ecs-agent config check`: the effective configuration, and what is wrong with it.

Plain text for people, `--json` for programs. Where the service is installed both commands see what it would see, with
the environment of the caller as that of its launcher: its defaults, its `ecs.config` files, what it forces. Elsewhere
the agent is run by hand, and knows the environment alone. Secrets are never printed.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from common.config import service_host
from common.config.declarations import OPTIONS
from common.config.effective import Config, shorten
from common.config.findings import REDACTED, Finding
from common.config.kinds import DURATION
from common.config.loading import load
from common.config.service_view import SERVICE_FILES, Composed, compose

_WIDEST_VALUE = 72
_NO_CONTENT = "-"


def main(argv: Sequence[str]) -> int:
    """Run the command of `argv` (with or without the word `config` in front) and return the exit status.

    0: fine; 1: `check` found something wrong; 2: the command line cannot be understood.
    """
    words = list(argv[1:] if argv[:1] == ["config"] else argv)
    try:
        arguments = _parser().parse_args(words)
    except SystemExit as end:  # argparse has printed its message
        return end.code if isinstance(end.code, int) else 2
    if not arguments.no_files and (arguments.file or service_host.installed()):
        composed = compose(os.environ, arguments.file or SERVICE_FILES, service_host.foresee)
    else:
        composed = Composed(dict(os.environ))
    config = load(composed.environ, origins=composed.origins)
    if arguments.command == "show":
        text, status = _show(config, composed, arguments.all, arguments.json), 0
    else:
        text, status = _check(config, composed, arguments.notes, arguments.json)
    try:
        # A value may hold bytes that are no text in the caller's locale; showing it escaped beats a traceback.
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ecs-agent config", description="Show or check the configuration of the agent on this machine."
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print JSON")
    shared.add_argument(
        "--file", action="append", metavar="PATH",
        help=f"read this file of NAME=value lines instead of {' and '.join(SERVICE_FILES)}; may be repeated",
    )  # fmt: skip
    shared.add_argument("--no-files", action="store_true", help="look at the environment alone")
    commands = parser.add_subparsers(dest="command", required=True, metavar="show|check")
    show = commands.add_parser("show", parents=[shared], help="print the effective values and where they come from")
    show.add_argument("--all", action="store_true", help="also the options that nobody set")
    check = commands.add_parser("check", parents=[shared], help="print every fault; exit status 1 when there is one")
    check.add_argument("--notes", action="store_true", help="also what is not wrong but worth knowing")
    return parser


def _show(config: Config, composed: Composed, everything: bool, as_json: bool) -> str:
    names = [name for name in config if everything or config.source(name) != "default"]
    if as_json:
        return _json({"files": composed.files, "options": [_as_json(config, name) for name in names]})
    rows = [("OPTION", "VALUE", "FROM")]
    for name in names:
        rows.append((name, shorten(config.shown(name), _WIDEST_VALUE) or _NO_CONTENT, config.source(name)))
    hidden = len(config) - len(names)
    table = _table(rows) if names else "Every option has its default.\n"
    ending = f"\n{hidden} more options have their defaults; --all shows them.\n" if hidden else ""
    faults = len(config.findings) + len(composed.findings)
    if faults:
        ending += f"{_count(faults, 'fault')} in the configuration; ecs-agent config check explains.\n"
    return table + ending


def _as_json(config: Config, name: str) -> dict[str, Any]:
    option, value = OPTIONS[name], config[name]
    if option.secret:
        value = REDACTED if value else ""
    elif isinstance(value, str):
        value = config.shown(name)
    entry = {"name": name, "value": value, "source": config.source(name)}
    return entry | ({"unit": "seconds"} if option.kind is DURATION else {})


def _check(config: Config, composed: Composed, with_notes: bool, as_json: bool) -> tuple[str, int]:
    faults = composed.findings + config.findings
    notes = config.notes
    status = 1 if faults else 0
    if as_json:
        listed = faults + (notes if with_notes else ())
        return _json({"faults": len(faults), "findings": [_finding_as_json(finding) for finding in listed]}), status
    text = ""
    if faults:
        text = f"{_count(len(faults), 'fault')} in the configuration:\n{_listed(faults)}"
    else:
        more = f"; {_count(len(notes), 'note')}, --notes shows them" if notes and not with_notes else ""
        text = f"The configuration is fine ({_origin(composed)}{more}).\n"
    if with_notes and notes:
        text += f"\n{_count(len(notes), 'note')}:\n{_listed(notes)}"
    if config.load_error is not None:
        text += "\nThe agent does not start with this configuration.\n"
    return text, status


def _origin(composed: Composed) -> str:
    return ", ".join(("environment", *composed.files))


def _finding_as_json(finding: Finding) -> dict[str, str]:
    keys = ("name", "value", "reason", "where", "level")
    return {key: getattr(finding, key) for key in keys}


def _listed(findings: Iterable[Finding]) -> str:
    lines = []
    for finding in findings:
        written = f" = {finding.value}" if finding.value else ""
        lines.append(f"\n  {finding.name}{written}   [{finding.where}]\n      {finding.reason}\n")
    return "".join(lines)


def _table(rows: Sequence[tuple[str, str, str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "".join(
        f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}".rstrip() + "\n" for name, value, source in rows
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
