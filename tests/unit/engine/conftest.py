"""A task's decisions, one message after the other, with a clock that a test can move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from common.errors import NamedError
from common.model.messages import ContainerChanged, TaskChanged
from common.model.status import ContainerStatus, TaskStatus
from common.model.task import Container, Task
from services.engine.core.decide import Admitted, Desire, Finished, Happened, Look, Message, decide
from services.engine.core.effects import Action, DockerEvent, Effect, Observation, Outcome
from services.engine.core.states import with_desired
from services.engine.core.turn import Settings, Surroundings

NOW = 1_800_000_000.0


class Brain:
    """Plays the worker without saving or performing anything."""

    def __init__(self, task: Task, settings: Settings, credentials: frozenset[str]) -> None:
        self.task, self.settings, self.credentials = task, settings, credentials
        self.now, self.effects, self.events, self.wake_at = NOW, [], [], 0.0

    def send(self, *messages: Message) -> list[Effect]:
        """Decide; returns the effects of this decision."""
        around = Surroundings(
            now=self.now, settings=self.settings, credentials=self.credentials, new_number=lambda: 7, boot="boot-1"
        )
        decision = decide(self.task, messages or (Look(),), around)
        self.task, self.wake_at = decision.task, decision.wake_at
        self.effects += decision.effects
        self.events += decision.events
        return list(decision.effects)

    def ends(self, action: Action, target: str = "app", error: str = "", **more: Any) -> list[Effect]:
        """The latest effect of that sort comes to its end; `error` is "<name>: <text>"."""
        effect = next(e for e in reversed(self.effects) if (e.action, e.target) == (action, target))
        named = NamedError(*error.split(": ", 1)) if error else None
        return self.send(Finished(effect, Outcome(action=action, target=target, error=named, **more)))

    def event(self, action: str, target: str = "app", seen: Observation | None = None, **more: Any) -> list[Effect]:
        """Docker tells about the container."""
        event = DockerEvent(docker_id=f"id-{target}", action=action, observation=seen, **more)
        return self.send(Happened(target, event))

    def stop(self) -> list[Effect]:
        """ECS wants the task to stop."""
        return self.send(Desire(TaskStatus.STOPPED))

    def make(self, target: str = "app") -> None:
        """Bring the container up to CREATED: its start is asked for."""
        self.ends(Action.RESOLVE_MANIFEST, target)
        self.ends(Action.PULL, target)
        self.ends(Action.CREATE, target, observation=Observation(docker_id=f"id-{target}"))

    def run(self, *targets: str) -> None:
        """Bring the containers (default: app) up to RUNNING."""
        for target in targets or ("app",):
            self.make(target)
            self.ends(Action.START, target, observation=running(target))

    def container(self, name: str = "app") -> Container:
        """As it is by now."""
        found = self.task.container(name)
        assert found is not None
        return found

    def reports(self) -> list[tuple[str, str]]:
        """Task events so far: (status, reason)."""
        return [(e.status.name, e.reason) for e in self.events if isinstance(e, TaskChanged)]

    def container_reports(self, name: str = "app") -> list[ContainerChanged]:
        """Container events so far."""
        return [e for e in self.events if isinstance(e, ContainerChanged) and e.name == name]


def running(target: str = "app", started_at: str = "2026-06-01T10:00:00Z") -> Observation:
    """What inspect says of a running container."""
    return Observation(docker_id=f"id-{target}", status=ContainerStatus.RUNNING, running=True, started_at=started_at)


def exited(code: int, finished_at: str = "2026-06-01T11:00:00Z", **more: Any) -> Observation:
    """What inspect says of a container that has ended."""
    return Observation(
        status=ContainerStatus.STOPPED,
        exit_code=code,
        started_at="2026-06-01T10:00:00Z",
        finished_at=finished_at,
        **more,
    )


@pytest.fixture
def seen() -> Any:
    """Makes observations: seen.running(), seen.exited(code)."""

    class Seen:
        running = staticmethod(running)
        exited = staticmethod(exited)

    return Seen


@pytest.fixture
def make_task() -> Callable[..., Task]:
    """Makes a task of the given containers (default: one essential `app`) with desired statuses in place."""

    def make(*containers: Container, **more: Any) -> Task:
        containers = containers or (Container(name="app", image="busybox", essential=True),)
        more = {"desired": TaskStatus.RUNNING, **more}
        task = Task(arn="arn:aws:ecs:us-west-2:1:task/c/t1", family="web", version="7", containers=containers, **more)
        return with_desired(task)

    return make


@pytest.fixture
def brain(make_task: Callable[..., Task]) -> Callable[..., Brain]:
    """Makes a Brain whose task has been admitted and has taken its first steps."""

    def make(
        *containers: Container, behavior: str = "default", upfront: bool = False, credentials: tuple[str, ...] = (),
        **more: Any,
    ) -> Brain:  # fmt: skip
        settings = Settings(pull_behavior=behavior, pull_upfront=upfront)
        made = Brain(make_task(*containers, **more), settings, frozenset(credentials))
        made.send(Admitted())
        return made

    return make


@pytest.fixture
def altered() -> Callable[..., Any]:
    """msgspec.structs.replace."""
    return replace
