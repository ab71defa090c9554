"""Variables that look like options and are none: "did you mean".

Only imported when such a variable is there, because comparing names is slow next to everything else a load does.
The agent ignores such a variable, as the reference does; the difference is that it says so.
"""

import difflib

from common.config.declarations import VARIABLES
from common.config.sources import ENVIRONMENT, Remark

# Named in the manuals of the reference agent, but never read by it (spec 01 §2.9).
_RENAMED = {"ECS_POLL_METRICS_WAIT_DURATION": "ECS_POLLING_METRICS_WAIT_DURATION"}
_CLOSE = 0.8


def judge(name: str, bare: str) -> Remark:
    """Return the remark for one unknown variable; `bare` is its name in capitals, without blanks and `export`."""
    if bare in VARIABLES:
        problem = f"is not read, because the name must be exactly {bare}"
        return Remark(name, "", problem, ENVIRONMENT)
    meant = _RENAMED.get(bare) or nearest(bare)
    if meant:
        return Remark(name, "", f"is not an option, so it is ignored. Did you mean {meant}?", ENVIRONMENT)
    return Remark(name, "", "is not an option, so it is ignored", ENVIRONMENT, "note")


def nearest(name: str) -> str | None:
    """Return the declared variable that a misspelled one most likely stands for."""
    # Almost every name begins with ECS_, which would make everything look alike.
    words = {_without_prefix(known): known for known in VARIABLES if not known.startswith("AWS_")}
    close = difflib.get_close_matches(_without_prefix(name), list(words), n=1, cutoff=_CLOSE)
    return words[close[0]] if close else None


def _without_prefix(name: str) -> str:
    return name.removeprefix("ECS_")
