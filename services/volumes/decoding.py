"""What Go's JSON decoder makes of a value: null is the empty one, and another type than the expected is a fault.

Requests and the state file are read by the same rules; only what a fault is called differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Fault = Callable[[Any], Exception]


def text(value: Any, fault: Fault) -> str:
    """A string. Raises fault(value)."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise fault(value)
    return value


def mapping(value: Any, fault: Fault) -> dict[str, Any]:
    """An object. Raises fault(value)."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise fault(value)
    return value
