"""Whether tasks can have limits of their own here, and what follows when they cannot (spec 01 §6.5, spec 03 §9)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from common.errors import Temporary, Terminal
from services.engine.docker import facts

OLD, NEW = ("1.17", "1.21"), ("1.24", "1.44")


@dataclass
class Settings:
    """What the decision looks at."""

    limits: bool | None
    cgroup_path: str = "/sys/fs/cgroup"


@pytest.mark.parametrize(
    ("limits", "usable", "root_fails", "outcome"),
    [
        (None, NEW, False, True),
        (True, NEW, False, True),
        (False, NEW, False, False),
        (None, OLD, False, False),
        (None, NEW, True, False),
        (True, OLD, False, (Temporary, "Docker lacks API 1.22")),
        (True, NEW, True, (Terminal, "the root cgroup of ECS cannot be made")),
    ],
)
def test_limits_that_nobody_asked_for_may_be_missing_and_demanded_ones_may_not(
    monkeypatch, limits, usable, root_fails, outcome
):
    """Case 61 of spec 01: unset degrades with a warning, true waits for another Docker, or ends the service."""

    def initialise(path: str) -> None:
        if root_fails:
            raise OSError("read-only")

    monkeypatch.setattr(facts.cgroup, "initialise_root", initialise)
    settings = Settings(limits)
    if isinstance(outcome, tuple):
        failure, text = outcome
        with pytest.raises(failure, match=text):
            facts._limits(settings, usable)  # type: ignore[arg-type]
    else:
        assert facts._limits(settings, usable) is outcome  # type: ignore[arg-type]
