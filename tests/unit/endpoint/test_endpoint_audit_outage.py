"""The audit log when its file or its reader cannot take a line."""

from __future__ import annotations

import logging

from services.endpoint.audit import Audit, told_once


def test_an_outage_is_told_at_its_begin_and_at_its_end(caplog):
    """Once each, however many lines are lost; the other sinks have them all."""
    full, written, other = [True], list[str](), list[str]()

    def write(text: str) -> None:
        if full[0]:
            raise OSError(28, "No space left on device")
        written.append(text)

    audit = Audit([told_once("/log/audit.log (ECS_AUDIT_LOGFILE)", write), other.append], now=lambda: 0.0)
    with caplog.at_level(logging.INFO):
        for path in "a", "b", "c", "d":
            full[0] = path in "ab"
            audit.add(200, "1.2.3.4:5", path, "curl", "-")
            audit.flush()
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "lines of the audit log are lost: /log/audit.log (ECS_AUDIT_LOGFILE) cannot be written: "
                    "[Errno 28] No space left on device"),
        ("INFO", "the audit log is written again: /log/audit.log (ECS_AUDIT_LOGFILE)"),
    ]  # fmt: skip
    assert len(written) == 2 and len(other) == 4
