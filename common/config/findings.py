"""What is worth telling a person about a configuration.

The loader never raises for a bad value: it applies what the reference agent applies and makes a finding of it. The
process that loads warns about `Config.findings` once; `ecs-agent config check` prints them together with the notes.
"""

from typing import Literal, NamedTuple

REDACTED = "<redacted>"

Level = Literal["fatal", "warning", "note"]


class Finding(NamedTuple):
    """One fault or oddity.

    name    option, key or file
    value   the text as it was written, `<redacted>` for a secret, "" when there is none to show
    reason  a sentence: what is wrong and what applies instead
    where   the source: `environment`, `file /etc/ecs/ecs.config.json`, `user data`
    level   `fatal`: the agent does not start; `warning`: something else than written applies; `note`: nothing is wrong
    error   for fatal findings, the text of the error as the reference agent logs it (spec 01 §3.4)
    stage   for fatal findings, where the load failed: `external`, `environment`, `file`, `region` or `validation`
    """

    name: str
    value: str
    reason: str
    where: str
    level: Level = "warning"
    error: str = ""
    stage: str = ""

    def __str__(self) -> str:
        written = f"={self.value}" if self.value else ""
        return f"{self.name}{written} ({self.where}): {self.reason}"
