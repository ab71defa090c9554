"""What AWS's error codes mean for the person who runs the agent: which permission, which role, which clock.

A denied call or a wrong clock is no fault that time mends, so the sentence must say what to do: it is what
`ecs-agent healthcheck` shows.
"""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime

SKEW_CODES = frozenset(("RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"))
MAYBE_SKEW_CODES = frozenset(("InvalidSignatureException", "SignatureDoesNotMatch", "AuthFailure"))
SKEW_SECONDS = 240.0
DENIED_CODES = frozenset(("AccessDeniedException", "AccessDenied", "UnauthorizedOperation"))
STALE_KEYS = frozenset(("ExpiredTokenException", "ExpiredToken", "UnrecognizedClientException", "InvalidClientTokenId"))
CODES = DENIED_CODES | SKEW_CODES | MAYBE_SKEW_CODES | STALE_KEYS
# "User: arn:aws:sts::1:assumed-role/NAME/SESSION is not authorized to perform: ..." (IAM User Guide, "Access denied")
PRINCIPAL = re.compile(r"arn:[\w-]+:(?:sts|iam)::\d*:(?P<kind>assumed-role|user)/(?P<path>[^\s,;]+)")


def explain(operation: str, code: str, text: str, service: str = "ecs", skew_seconds: float = 0.0) -> str:
    """What went wrong in plain words, with what to do about permissions and clocks.

    `skew_seconds` is what the server's clock is ahead of ours, 0 when that is not known.
    """
    cause = f"{code}: {text}" if code else text
    advice = advise(operation, code, text, service, skew_seconds)
    return f"{cause} ({advice})" if advice else cause


def advise(operation: str, code: str, text: str, service: str = "ecs", skew_seconds: float = 0.0) -> str:
    """What to do about an error code, "" when there is nothing special to say."""
    if code in DENIED_CODES:
        return f"{principal(text)} needs the permission {service}:{operation}: add it to its policy in IAM"
    if code in SKEW_CODES | MAYBE_SKEW_CODES:
        return skewed(skew_seconds)
    if code in STALE_KEYS:
        return "the access key is unknown or has expired; see where this agent takes its credentials from"
    return ""


def principal(text: str) -> str:
    """Who was refused, from the service's sentence about it."""
    found = PRINCIPAL.search(text)
    if found is None:
        return "the role that this agent signs with"
    parts = found["path"].split("/")
    return f"the role {parts[0]}" if found["kind"] == "assumed-role" else f"the user {parts[-1]}"


def skewed(seconds: float) -> str:
    """How far the clock of this machine is off; `seconds` is what must be added to it."""
    if abs(seconds) < SKEW_SECONDS:
        return "if the clock of this machine is wrong, set it: signatures are valid for five minutes"
    off = f"{abs(seconds):.0f} s {'behind' if seconds > 0 else 'ahead of'} the clock of AWS"
    return f"the clock of this machine is {off}: set it, for example with chrony; signatures are valid for five minutes"


def skew_of(date: str) -> float:
    """Seconds that a server with this Date header is ahead of our clock; 0 when it says nothing readable."""
    try:
        return parsedate_to_datetime(date).timestamp() - time.time()
    except (TypeError, ValueError):
        return 0.0


def code_in(text: str) -> str:
    """The first code of those explained here that a text names, "" when it names none."""
    return next((word for word in re.findall(r"\w+", text) if word in CODES), "")
