"""What the engine's side of the store says in the log."""

from __future__ import annotations

from typing import Any

from common.errors import Temporary
from common.memory import MemoryBus
from services.engine.records import Records


def test_the_log_never_has_the_whole_id_of_credentials(monkeypatch, caplog):
    """Who knows it can fetch the role's keys from the endpoint."""

    def away(*_: Any, **__: Any) -> None:
        raise Temporary("Redis does not answer")

    bus: Any = MemoryBus()
    monkeypatch.setattr(bus.volatile, "get", away)
    caplog.set_level("DEBUG")
    assert Records(bus, lambda: False).has_credentials("0123456789abcdef") is False
    assert "01234567" in caplog.text
    assert "012345678" not in caplog.text
