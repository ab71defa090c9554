"""The configuration as programs see it: immutable, typed, and able to say where each value came from.

A `Config` holds an effective value for every declared option, so reading never falls back and a misspelled name is an
error at once. Values that only become known later (the region from instance metadata, the cluster after registration)
are put in with `with_values`, which returns a new object. Secrets are values like others, but `repr`, `shown` and the
findings never print them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from common.config.declarations import OPTIONS
from common.config.findings import REDACTED, Finding
from common.config.grammar import SECOND
from common.config.kinds import DURATION, SWITCH_ON, show_bool
from common.config.option import Option


def without_password(text: str) -> str:
    """Blank out `user:password@` in a URL or a `host:port`; the rest stays readable."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    if "@" not in rest:
        return text
    # A password may hold any character, a slash too, so everything up to the last @ may be part of it.
    return f"{scheme}{separator}{REDACTED}@{rest.rpartition('@')[2]}"


def show_text(option: Option, text: str) -> str:
    """A text somebody wrote for an option, fit to be printed."""
    if option.secret and text:
        return REDACTED
    return one_line(without_password(text) if "@" in text else text)


def one_line(text: str) -> str:
    """Escape line ends and other characters that are not for printing: a value must not look like a second line."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def shorten(text: str, longest: int = 200) -> str:
    """Cut a long text, for messages."""
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text)} characters)"


class Config(Mapping[str, Any]):
    """Effective values by option name. `[]` raises KeyError with advice for a name that is not declared."""

    __slots__ = ("_findings", "_sources", "_values")

    def __init__(self, values: Mapping[str, Any], sources: Mapping[str, str], findings: tuple[Finding, ...]) -> None:
        self._values = dict(values)
        self._sources = dict(sources)
        self._findings = findings

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise KeyError(f"{name} is not an option: declare it in common/config/declarations") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def source(self, name: str) -> str:
        """Where the value came from: `environment`, `file /etc/ecs/ecs.config.json`, `user data`, `default`, …"""
        self[name]
        return self._sources.get(name, "default")

    def enabled(self, name: str) -> bool:
        """A switch as plain true or false: one that nobody set and that defaults to true is enabled."""
        value = self[name]
        return OPTIONS[name].kind is SWITCH_ON if value is None else bool(value)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the loading process logs once: fatal findings and warnings."""
        return tuple(finding for finding in self._findings if finding.level != "note")

    @property
    def notes(self) -> tuple[Finding, ...]:
        """What is only of interest to somebody who looks: nothing in here is wrong."""
        return tuple(finding for finding in self._findings if finding.level == "note")

    @property
    def load_error(self) -> str | None:
        """The text after `Error loading config: ` when the agent must not start with this configuration, or None.

        Format: spec 01 §3.4. The processes that own the start exit with 1 on it; a service manager may try again.
        """
        fatal = [finding for finding in self._findings if finding.level == "fatal"]
        alone = [finding.error for finding in fatal if finding.stage == "external"]
        if alone:
            return alone[0]
        environment = [finding.error for finding in fatal if finding.stage == "environment"]
        errors = [_multiple(environment)] if environment else []
        errors += [finding.error for finding in fatal if finding.stage == "file"][:1]
        # Validation stops at its first error, and the region is its first test.
        errors += [finding.error for finding in fatal if finding.stage in ("region", "validation")][:1]
        return _multiple(errors) if errors else None

    def with_values(self, values: Mapping[str, Any], source: str = "set by the program") -> "Config":
        """Return a copy in which some options have other effective values (typed, as `config[name]` gives them)."""
        for name in values:
            self[name]
        merged = self._values | {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return Config(merged, self._sources | dict.fromkeys(values, source), self._findings)

    def shown(self, name: str) -> str:
        """The value as a text fit to be printed: secrets redacted, durations as `1h30m0s`."""
        option, value = OPTIONS[name], self[name]
        if option.secret:
            return REDACTED if value else ""
        if value is None:
            return show_bool(None) if option.keeps_unset else ""
        if option.kind is DURATION:
            return option.kind.show(round(value * SECOND))
        return show_text(option, option.kind.show(value))

    def __repr__(self) -> str:
        changed = (name for name in self if self.source(name) != "default")
        return f"Config({', '.join(f'{name}={self.shown(name)!r}' for name in changed)})"


def _multiple(errors: list[str]) -> str:
    """Join errors the way the reference agent does: one per line, numbered from 0, also when there is only one."""
    return "Multiple error:" + "".join(f"\n\t{number}: {error}" for number, error in enumerate(errors))
