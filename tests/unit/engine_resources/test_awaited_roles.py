"""Role credentials that are away for a moment cost no task."""

from __future__ import annotations

import time

import pytest

from common.model.agent import Credentials
from services.engine.resources import roles

FOUND = Credentials(
    credentials_id="c", task_arn="t", role_type="TaskExecution", access_key_id="a", secret_access_key="s"
)


def test_credentials_that_come_back_are_used(monkeypatch: pytest.MonkeyPatch):
    """The volatile Redis has started again and is empty for a moment."""
    answers = iter([None, None, FOUND])
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert roles.awaited(lambda id_: next(answers), "c") is FOUND


def test_a_task_without_credentials_waits_for_none():
    """Nothing is looked up: there is no id."""
    assert roles.awaited(lambda id_: pytest.fail("looked up"), "") is None


def test_the_wait_ends(monkeypatch: pytest.MonkeyPatch):
    """Credentials that never come are a reason for the task, 15 s later."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    assert roles.awaited(lambda id_: None, "c") is None
    assert roles.CREDENTIALS_SECONDS <= clock[0] < roles.CREDENTIALS_SECONDS + 3
