"""Everything of the engine that touches Docker. `Hands` is the way in; see hands.py.

The names are loaded when they are used, so that importing a light module of this package does not load the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.engine.core.effects import SetupError as SetupError
    from services.engine.docker.events import RESYNC as RESYNC
    from services.engine.docker.hands import Hands as Hands

__all__ = ["RESYNC", "Hands", "SetupError"]

_HOMES = {
    "Hands": "services.engine.docker.hands",
    "RESYNC": "services.engine.docker.events",
    "SetupError": "services.engine.core.effects",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
