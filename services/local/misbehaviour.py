"""What the control plane does wrong on demand, and for how long.

A misbehaviour is asked for with EcsLocal.Misbehave (docs/local-control-plane.md). Those of API calls and handshakes are
rules: each ends after `count` uses or `seconds`, whichever comes first, and none survives the process. Those of a
session happen at once. Chance is seeded, so that a run can be repeated. Nothing here does anything by itself.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct, field

from services.local.core.errors import ApiError

Json = dict[str, Any]
MAX_RULES, MAX_COUNT, MAX_SECONDS, MAX_DELAY = 100, 100_000, 3600.0, 120.0
# What a rule without an operation is about: the agent's calls, never a client's.
AGENT_OPERATIONS = (
    "RegisterContainerInstance",
    "DiscoverPollEndpoint",
    "SubmitTaskStateChange",
    "SubmitContainerStateChange",
    "SubmitAttachmentStateChanges",
)
OF_CALLS = {
    "error": "answer with an error; the call has no effect",
    "throttle": "answer with a ThrottlingException; the call has no effect",
    "delay": "hold the call back for delaySeconds, then do it",
    "cut": "end the connection instead of doing the call",
    "lose": "do the call, then end the connection instead of answering",
}
OF_HANDSHAKES = {"refuse": "refuse the next ACS handshakes with status and message"}
OF_SESSIONS = {
    "drop": "end the connection without a close frame",
    "reset": "reset the TCP connection",
    "close": "send a close frame with code and message",
    "stall": "neither read nor send for `seconds`",
    "garbage": "send a frame that is no message: see `garbage`",
    "redeliver": "send the last `count` payloads again, acknowledged or not",
}
GARBAGE = ("text", "unknown", "shape", "binary", "empty", "fragment", "reserved")


class Demand(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """The body of EcsLocal.Misbehave."""

    do: str
    container_instance: str = ""  # default: the connected one
    session: str = "acs"  # acs or tcs
    operation: str = ""
    count: int = 1
    seconds: float = 60.0
    chance: float = 1.0
    seed: int = 0
    delay_seconds: float = 1.0
    code: str | int | None = None
    message: str = ""
    status: int = 0
    garbage: str = "text"


class Rule(Struct):
    """A demand about calls or handshakes, as long as it holds."""

    demand: Demand
    left: int
    until: float
    chance: random.Random = field(default_factory=random.Random)

    @property
    def error(self) -> ApiError:
        """The answer of `error` and `throttle`."""
        asked = self.demand
        if asked.do == "throttle":
            return ApiError("ThrottlingException", asked.message or "Rate exceeded", asked.status or 400)
        code = str(asked.code or "ServerException")
        return ApiError(code, asked.message or "made to fail", asked.status or (500 if "Server" in code else 400))


class Misbehaviour:
    """The rules that hold now, oldest first, and how often each kind was used."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._rules: list[Rule] = []
        self.used: dict[str, int] = {}

    def read(self, body: object) -> Demand:
        """Check a demand. Raises ApiError naming what is wrong with it."""
        try:
            demand = msgspec.convert(body, Demand, strict=False)
        except msgspec.ValidationError as error:
            raise ApiError("ClientException", f"Misbehave: {error}.") from None
        known = {**OF_CALLS, **OF_HANDSHAKES, **OF_SESSIONS}
        faults = [
            (demand.do not in known, f"'do' must be one of {', '.join(known)}"),
            (not 1 <= demand.count <= MAX_COUNT, f"'count' must be 1 to {MAX_COUNT}"),
            (not 0 < demand.seconds <= MAX_SECONDS, f"'seconds' must be above 0 and at most {MAX_SECONDS:.0f}"),
            (not 0 <= demand.delay_seconds <= MAX_DELAY, f"'delaySeconds' must be 0 to {MAX_DELAY:.0f}"),
            (
                demand.do == "close" and not (demand.code in (None, "") or str(demand.code).isdigit()),
                "'code' of a close frame must be a number, or empty for a frame without one",
            ),
            (not 0 < demand.chance <= 1, "'chance' must be above 0 and at most 1"),
            (demand.session not in ("acs", "tcs"), "'session' must be acs or tcs"),
            (demand.garbage not in GARBAGE, f"'garbage' must be one of {', '.join(GARBAGE)}"),
            (demand.session == "tcs" and demand.do in ("stall", "redeliver"), f"'{demand.do}' is for acs only"),
        ]
        wrong = [text for is_wrong, text in faults if is_wrong]
        if wrong:
            raise ApiError("ClientException", f"Misbehave: {'; '.join(wrong)}.")
        return demand

    def add(self, demand: Demand) -> None:
        """Let a demand about calls or handshakes hold from now on."""
        if len(self.active()) >= MAX_RULES:
            raise ApiError("ClientException", f"{MAX_RULES} misbehaviours hold already; EcsLocal.Behave ends them.")
        until = self._monotonic() + demand.seconds
        self._rules.append(Rule(demand, demand.count, until, random.Random(demand.seed)))

    def clear(self) -> None:
        """Behave."""
        self._rules.clear()

    def active(self) -> list[Json]:
        """The rules that hold, as they were asked for, with what is left of each."""
        now = self._monotonic()
        self._rules = [rule for rule in self._rules if rule.left > 0 and rule.until > now]
        return [
            {"do": r.demand.do, "operation": r.demand.operation, "left": r.left, "seconds": round(r.until - now, 1)}
            for r in self._rules
        ]

    def note(self, what: str) -> None:
        """Count a use."""
        self.used[what] = self.used.get(what, 0) + 1

    def for_call(self, operation: str) -> Rule | None:
        """The rule that a call of `operation` meets; one use of it is gone."""
        return self._take(
            lambda d: (
                d.do in OF_CALLS and (d.operation == operation or (not d.operation and operation in AGENT_OPERATIONS))
            )
        )

    def for_handshake(self) -> Rule | None:
        """The rule that a handshake meets; one use of it is gone."""
        return self._take(lambda d: d.do in OF_HANDSHAKES)

    def _take(self, fits: Callable[[Demand], bool]) -> Rule | None:
        if not self._rules:
            return None
        self.active()
        for rule in self._rules:
            if fits(rule.demand) and rule.chance.random() < rule.demand.chance:
                rule.left -= 1
                self.note(rule.demand.do)
                return rule
        return None
