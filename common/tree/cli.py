"""The command `ecs-agent`: no argument runs the whole tree; flags and sub-commands print and end.

Flags follow the reference's (Go's) syntax: -f, --f, -f=v, --f v; parsing stops at the first word that is no flag;
an unknown flag or a bad value prints the usage on stderr and ends with 5 (ECS agent behaviour, spec 01 §4).
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from dataclasses import dataclass, field

from common.tree.user_data import BLACKHOLE
from common.version import COMMIT, VERSION

USAGE_STATUS = 5
HEALTH_SECONDS = 25.0
TRUE = ("1", "t", "T", "TRUE", "true", "True")
FALSE = ("0", "f", "F", "FALSE", "false", "False")
LICENSE_FILES = ("LICENSE", "NOTICE", "THIRD-PARTY")

FLAGS = {
    # name: (takes a value, usage)
    "license": (False, "Print the LICENSE and NOTICE files and exit"),
    "version": (False, "Print the agent version information and exit"),
    "healthcheck": (False, "Run the agent healthcheck"),
    "ecs-attributes": (False, "Print the Agent's ECS Attributes based on its environment"),
    "windows-service": (False, "Run the ECS agent as a Windows Service"),
    "k": (False, "Whether to use insecure HTTPS; disables certificate verification"),
    "blackhole-ec2-metadata": (False, "Blackhole the EC2 Metadata requests"),
    "loglevel": (True, "Log level of both sinks: crit, error, warn, info or debug; beats the next two"),
    "loglevel-driver": (True, "Loglevel for docker logging driver or container stdout"),
    "loglevel-on-instance": (True, "Loglevel for the log file on the instance"),
}  # fmt: skip

COMMANDS = """commands:
  ecs-agent                     run the agent and everything it needs in the foreground
  ecs-agent config show         every option, its value and where that came from
  ecs-agent config check        every fault of the configuration; status 1 when there is one
  ecs-agent healthcheck         whether the agent works, and what does not
"""


class UsageError(Exception):
    """The text is what Go's flag package would print first."""


@dataclass
class Flags:
    """What was given on the command line."""

    switches: set[str] = field(default_factory=set)
    values: dict[str, str] = field(default_factory=dict)
    help: bool = False
    rest: list[str] = field(default_factory=list)


def parse(argv: list[str]) -> Flags:
    """Parse as Go's flag package does; raises UsageError."""
    flags = Flags()
    words = list(argv)
    while words and words[0].startswith("-") and len(words[0]) > 1:
        word = words.pop(0)
        if word == "--":
            break
        name, equals, value = word.lstrip("-").partition("=")
        if not name or word.startswith("---"):
            raise UsageError(f"bad flag syntax: {word}")
        if name in ("h", "help"):
            flags.help = True
            continue
        if name not in FLAGS:
            raise UsageError(f"flag provided but not defined: -{name}")
        if FLAGS[name][0]:
            if not equals and not words:
                raise UsageError(f"flag needs an argument: -{name}")
            flags.values[name] = value if equals else words.pop(0)
        else:
            _switch(flags, name, value if equals else "true")
    flags.rest = words
    return flags


def _switch(flags: Flags, name: str, value: str) -> None:
    if value in TRUE:
        flags.switches.add(name)
    elif value in FALSE:
        flags.switches.discard(name)
    else:
        raise UsageError(f'invalid boolean value "{value}" for -{name}: parse error')


def usage() -> str:
    """The usage text."""
    lines = ["Usage of ecs-agent:"]
    for name in sorted(FLAGS):
        takes_value, text = FLAGS[name]
        lines.append(f"  -{name} string\n    \t{text}" if takes_value else f"  -{name}\n    \t{text}")
    return "\n".join(lines) + "\n\n" + COMMANDS


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        flags = parse(argv)
    except UsageError as error:
        sys.stderr.write(f"{error}\n{usage()}")
        return USAGE_STATUS
    if flags.help:
        sys.stderr.write(usage())
        return USAGE_STATUS
    if "license" in flags.switches:
        return print_license()
    if "version" in flags.switches:
        sys.stdout.write(f"Amazon ECS Agent:\n\tVersion: {VERSION}\n\tCommit: {COMMIT}\n")
        return 0
    if "healthcheck" in flags.switches:
        return probe()
    apply(flags)
    if "ecs-attributes" in flags.switches:
        return print_attributes()
    if "windows-service" in flags.switches:
        sys.stderr.write("-windows-service works on Windows only\n")
        return 1
    return command(flags.rest)


def command(words: list[str]) -> int:
    """A sub-command, or the whole tree. Words that are no command are ignored, as the reference does."""
    if words[:1] == ["config"]:
        from common.config.cli import main as config_main

        return config_main(words[1:])
    if words[:1] == ["healthcheck"]:
        from common.tree.health import report

        return report()
    from common.tree.run import run_tree

    return run_tree()


def apply(flags: Flags) -> None:
    """Put what the flags say into the environment, where every process of the tree reads it."""
    _apply_levels(flags.values)
    if "k" in flags.switches:
        os.environ["ECS_TREE_ACCEPT_INSECURE_CERT"] = "true"
    if "blackhole-ec2-metadata" in flags.switches:
        os.environ[BLACKHOLE] = "true"


def _apply_levels(values: dict[str, str]) -> None:
    """The levels of standard output and of the file; a flag for one leaves the other as it was (spec 01 §9.1)."""
    from common.logs import LEVELS

    def level(*names: str) -> str:
        name = next((name for name in names if values.get(name)), "")
        if name and values[name].lower() not in LEVELS:
            sys.stderr.write(f"-{name} {values[name]}: no log level; it stays as it was. Levels: {', '.join(LEVELS)}\n")
            return ""
        return values[name] if name else ""

    def known(variable: str) -> str:
        word = os.environ.get(variable, "")
        return word if word.lower() in LEVELS else ""

    out, file = level("loglevel", "loglevel-driver"), level("loglevel", "loglevel-on-instance")
    if out and not file and not known("ECS_LOGLEVEL_ON_INSTANCE") and not os.environ.get("ECS_LOG_DRIVER"):
        file = known("ECS_LOGLEVEL") or "info"  # the file follows ECS_LOGLEVEL, which is about to change
    if out:
        os.environ["ECS_LOGLEVEL"] = out
    if file:
        os.environ["ECS_LOGLEVEL_ON_INSTANCE"] = file


def print_license() -> int:
    """The three files of the working directory, each but the last followed by a rule; status 1 when one is missing."""
    texts = []
    for name in LICENSE_FILES:
        try:
            with open(name, encoding="utf-8") as file:
                texts.append(file.read())
        except OSError as error:
            sys.stderr.write(f"open {name}: {(error.strerror or 'error').lower()}\n")
            return 1
    sys.stdout.write(f"\n{'=' * 80}\n".join(texts) + "\n")
    return 0


def probe() -> int:
    """HEAD the introspection endpoint; any HTTP answer means that the agent is there (spec 01 §4)."""
    host = os.environ.get("ECS_AGENT_HEALTHCHECK_HOST") or "localhost"
    connection = http.client.HTTPConnection(host, 51678, timeout=HEALTH_SECONDS)
    try:
        connection.request("HEAD", "/v1/metadata")
        connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f'level=error msg="health check of http://{host}:51678/v1/metadata failed: {error}"\n')
        return 1
    finally:
        connection.close()
    return 0


def print_attributes() -> int:
    """One line per capability, as registration would send them: the engine tells of Docker, acs makes the table."""
    module = [sys.executable, "-P", "-m"]
    try:
        facts = subprocess.run([*module, "services.engine", "--facts"], capture_output=True, timeout=60)
        if facts.returncode:
            sys.stderr.buffer.write(facts.stderr)
            return 1
        return subprocess.run([*module, "services.acs", "--attributes"], input=facts.stdout, timeout=60).returncode
    except subprocess.TimeoutExpired as error:
        sys.stderr.write(f"no answer of {error.cmd[3]} within {error.timeout:.0f} s; does Docker answer?\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
