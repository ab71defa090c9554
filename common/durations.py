"""Durations as ECS reads them: the way Go prints a time.Duration.

Time-out texts on the wire carry durations as `30s`, `1m0s`, `2h0m0s` or `1m0.000412s` (ECS agent behaviour, spec 03,
conventions and trap 2). The grammar itself belongs to the configuration, which also prints durations.
"""

from __future__ import annotations

from common.config.grammar import SECOND, format_duration


def go_duration(seconds: float) -> str:
    """`seconds` as Go prints it: `45s`, `3m0s`, `1h0m0s`, `1.5s`, `100ms`, `0s`; exact to the nanosecond."""
    return format_duration(round(seconds * SECOND))
