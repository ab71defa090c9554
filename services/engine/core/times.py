"""Docker's times: RFC 3339 with up to nine fractional digits; year 1 stands for "never" (spec 03 §17, traps 8, 9)."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_FORM = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)$")


def unix_seconds(text: str) -> float:
    """Seconds since 1970, 0.0 for "never" and for anything that is not a time."""
    match = _FORM.match(text)
    if match is None or text.startswith("0001-"):
        return 0.0
    whole, fraction, zone = match.groups()
    moment = datetime.fromisoformat(whole + ("+00:00" if zone == "Z" else zone))
    return moment.astimezone(UTC).timestamp() + float(fraction or 0)


def is_never(text: str) -> bool:
    """True for an empty time and for Docker's zero time."""
    return not text or text.startswith("0001-")
