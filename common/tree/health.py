"""`ecs-agent healthcheck`: which programs of the tree work, and in plain words what does not.

Reads what each program says of itself in the run directory, so it answers also while Redis is away. Status 0 when acs,
engine and endpoint are ready, 1 otherwise.
"""

from __future__ import annotations

import os
import sys
import time

from common.config import load
from common.readiness import State, read_all

NEEDED = ("acs", "engine", "endpoint")
STALE_SECONDS = 30.0


def report() -> int:
    """Print one line per program; returns the exit status."""
    run_dir = load(os.environ)["ECS_RUN_DIR"]
    try:
        states = {state.program: state for state in read_all(run_dir)}
    except OSError as error:
        sys.stdout.write(f"the agent does not run in {run_dir}: {error.strerror}\n")
        return 1
    faults = 0
    for name in sorted({*states, *NEEDED}):
        fault, text = describe(states.get(name), time.time())
        faults += fault and name in NEEDED
        sys.stdout.write(f"{name:10} {text}\n")
    return 1 if faults else 0


def describe(state: State | None, now: float) -> tuple[bool, str]:
    """Whether this program is at fault, and the sentence about it."""
    if state is None:
        return True, "has not started"
    silent = now - state.at
    if silent > STALE_SECONDS:
        return True, f"has been silent for {silent:.0f} s"
    detail = f": {state.detail}" if state.detail else ""
    if state.ready:
        return False, f"ready{detail}"
    return True, f"not ready for {spoken(now - state.since)}{detail}"


def spoken(seconds: float) -> str:
    """A length of time as a person says it, in two units at most: 12 s, 3 min 5 s, 2 h 10 min, 3 d 4 h."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
