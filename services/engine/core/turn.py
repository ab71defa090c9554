"""One decision while it is being made, and what it yields.

A Turn starts from the task as it is and collects: the task as it shall be, effects to perform, events for the outbox,
sentences that say why, and the time at which to look again. The functions of this package take a Turn and change only
it; `decision()` freezes the result. Nothing here touches Docker, Redis or the clock.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from common.model.messages import Event
from common.model.task import Container, Resource, Task
from services.engine.core.effects import Action, Effect

SAVED_FIRST = (Action.CREATE, Action.START, Action.PROVISION)  # what must be on disk before Docker is asked


class Settings(Struct, frozen=True, kw_only=True):
    """The options that decisions depend on."""

    pull_behavior: str = "default"  # ECS_IMAGE_PULL_BEHAVIOR
    pull_upfront: bool = False  # ECS_PULL_DEPENDENT_CONTAINERS_UPFRONT
    cleanup_wait_seconds: float = 3 * 3600.0  # ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION
    cleanup_jitter_seconds: float = 0.0


class Surroundings(Struct, frozen=True, kw_only=True):
    """What a decision may know besides the task and the message."""

    now: float  # Unix seconds
    boot: str = ""  # another one after each start of the machine; "" = unknown
    settings: Settings = Settings()
    credentials: frozenset[str] = frozenset()  # ids of role credentials that are there
    new_number: Callable[[], int] = lambda: random.getrandbits(63)  # for Docker names, chosen once


class Decision(Struct, frozen=True):
    """What a turn came to. `wake_at` (Unix seconds, 0 = never) is when time alone may change the answer."""

    task: Task
    effects: tuple[Effect, ...] = ()
    events: tuple[Event, ...] = ()
    reasons: tuple[str, ...] = ()
    wake_at: float = 0.0


def must_save(before: Task, decision: Decision) -> bool:
    """Whether the task must be saved before the effects are performed; otherwise it may wait for what follows.

    Lost without harm: a resolved manifest, a cached image, what a repeated inspect would tell again.
    """
    return bool(
        decision.events
        or before.desired != decision.task.desired
        or before.unexpected_start_handled != decision.task.unexpected_start_handled
        or any(e.action in SAVED_FIRST for e in decision.effects)
    )


class Turn:
    """A decision in the making."""

    def __init__(self, task: Task, around: Surroundings) -> None:
        self.task, self.around = task, around
        self.effects: list[Effect] = []
        self.events: list[Event] = []
        self.reasons: list[str] = []
        self.wake_at = 0.0

    def container(self, name: str) -> Container:
        """The container as it is by now; KeyError when the task has none of that name."""
        found = self.task.container(name)
        if found is None:
            raise KeyError(name)
        return found

    def change_task(self, **changes: Any) -> None:
        """Set fields of the task."""
        self.task = replace(self.task, **changes)

    def change_container(self, name: str, **changes: Any) -> Container:
        """Set fields of one container; returns it."""
        changed = replace(self.container(name), **changes)
        self.task = replace(self.task, containers=tuple(changed if c.name == name else c for c in self.task.containers))
        return changed

    def change_resource(self, resource: Resource, **changes: Any) -> None:
        """Set fields of one resource, found by kind and name."""
        identity = (resource.kind, resource.name)
        self.task = replace(
            self.task,
            resources=tuple(replace(r, **changes) if (r.kind, r.name) == identity else r for r in self.task.resources),
        )

    def do(self, action: Action, target: str, reason: str, **more: Any) -> None:
        """Ask for an effect."""
        self.effects.append(Effect(action=action, target=target, reason=reason, **more))

    def emit(self, event: Event) -> None:
        """Put an event into the outbox, together with the task's new state."""
        self.events.append(event)

    def say(self, sentence: str) -> None:
        """Record why; the worker logs it."""
        self.reasons.append(sentence)

    def wake(self, at: float) -> None:
        """Look again at `at` (Unix seconds) at the latest."""
        self.wake_at = at if not self.wake_at else min(self.wake_at, at)

    def decision(self) -> Decision:
        """The result."""
        return Decision(self.task, tuple(self.effects), tuple(self.events), tuple(self.reasons), self.wake_at)
