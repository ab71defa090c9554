"""What one option is: its name, type, defaults, bounds, readers and one paragraph for its users.

`show`, `check`, the loader and the manual are all made from these declarations; nothing about an option is written
down twice. An option with an environment variable is named after it; a key that only the JSON sources know is named
after the key.
"""

from typing import Any, NamedTuple

from common.config.grammar import parse_duration
from common.config.kinds import DURATION, Kind

# Variables with these beginnings are meant for the agent, so a misspelled one is worth a word.
OPTION_PREFIXES = ("ECS_", "NON_ECS_", "NONECS_", "CREDENTIALS_FETCHER_")
# What the process tree tells its own children; no options.
TREE_PREFIX = "ECS_TREE_"


class Bounds(NamedTuple):
    """The values an option may have, and what replaces one outside; durations as Go texts.

    `when` is the moment of the test: "environment" (only what the environment says, and zero is not tested, because
    it means "not set"), "merged" (what all sources together say) or "both". Spec 01 §2.5 and §3.4.
    """

    low: str | int
    below: str | int
    high: str | int | None = None
    above: str | int | None = None
    when: str = "merged"

    def replace(self, value: Any, kind: Kind) -> tuple[Any, str] | None:
        """Return the replacement and the reason for a value outside the bounds, or None for one inside."""
        low = _number(self.low, kind)
        if value < low:
            return _number(self.below, kind), f"is below the minimum of {kind.show(low)}"
        if self.high is None:
            return None
        high = _number(self.high, kind)
        if value > high:
            instead = self.below if self.above is None else self.above
            return _number(instead, kind), f"is above the maximum of {kind.show(high)}"
        return None


def _number(limit: str | int, kind: Kind) -> int:
    return parse_duration(str(limit)) if kind is DURATION else int(limit)


class Option:
    """The declaration of one option.

    default, windows   texts in the option's own grammar; `windows` only for the manual, where it differs
    default_text       what the manual prints when the default is not a constant
    json               key in the JSON file and in user data; "" when there is none
    bounds             see `Bounds`
    installed          what the service puts into the environment when nobody sets the option (spec 09 §8.3)
    installed_text     the same for the manual, when it is not a constant
    used_by            the programs that act on it
    aliases            further variables, read in this order when the first is not set
    trim               white space is removed after the sources were merged (five keys, spec 01 §1)
    file_ignored       the key is accepted in the JSON sources, but its value never wins (spec 01 §3.2)
    keeps_unset        programs see None when nobody decided; elsewhere "not set" becomes the default
    empty_counts       an empty variable differs from an absent one
    secret             never shown
    reference          False for an option that only this product has
    no_effect          accepted for compatibility; says why nothing follows
    """

    __slots__ = ("aliases", "bounds", "default", "default_text", "doc", "empty_counts", "file_ignored", "installed",
                 "installed_text", "json", "keeps_unset", "kind", "name", "no_effect", "reference", "secret", "trim",
                 "used_by", "windows")  # fmt: skip

    def __init__(
        self,
        name: str,
        kind: Kind,
        default: str = "",
        *,
        doc: str,
        used_by: str,
        windows: str | None = None,
        default_text: str = "",
        json: str = "",
        bounds: Bounds | None = None,
        installed: str = "",
        installed_text: str = "",
        aliases: tuple[str, ...] = (),
        trim: bool = False,
        file_ignored: bool = False,
        keeps_unset: bool = False,
        empty_counts: bool = False,
        secret: bool = False,
        reference: bool = True,
        no_effect: str = "",
    ) -> None:
        self.name = name
        self.kind = kind
        self.default = default
        self.doc = doc
        self.used_by = used_by
        self.windows = windows
        self.default_text = default_text
        self.json = json
        self.bounds = bounds
        self.installed = installed
        self.installed_text = installed_text
        self.aliases = aliases
        self.trim = trim
        self.file_ignored = file_ignored
        self.keeps_unset = keeps_unset
        self.empty_counts = empty_counts
        self.secret = secret
        self.reference = reference
        self.no_effect = no_effect

    def __repr__(self) -> str:
        return f"<option {self.name}>"

    @property
    def is_variable(self) -> bool:
        """Whether the environment can set it; the other options are keys of the JSON sources only."""
        return self.name != self.json

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables to read, in order."""
        return (self.name, *self.aliases) if self.is_variable else ()

    def default_value(self) -> Any:
        """The built-in default on Linux, as the loader holds it."""
        return self.kind.from_text(self.default) if self.default else self.kind.zero
