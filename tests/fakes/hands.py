"""A Docker made of dictionaries, with the interface of the engine's hands.

`FakeDocker` is the daemon: it outlives the engines that use it, keeps what was created, and writes down every call.
`FakeHands` is one engine's access to it. A test may make any action fail (`fail`), wait (`hold`), or take time; it may
end processes and remove containers as people do. Events come in Docker's order, after a Resync for the open stream.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gevent
import gevent.event
import gevent.queue
from msgspec.structs import replace

from common.errors import NamedError, Temporary
from common.model.agent import DockerFacts
from common.model.status import ContainerStatus
from common.model.task import Container, Resource, Task
from services.engine.core.agents import agent_of
from services.engine.core.effects import Action, DockerEvent, Effect, Observation, Outcome, Resync

STATUS = {
    "created": ContainerStatus.CREATED,
    "running": ContainerStatus.RUNNING,
    "exited": ContainerStatus.STOPPED,
}


@dataclass
class FakeContainer:
    """A container of the daemon."""

    id: str
    name: str
    arn: str
    container_name: str
    image: str
    state: str = "created"
    exit_code: int | None = None
    started_at: str = ""
    finished_at: str = ""
    starts: int = 0


@dataclass
class FakeDocker:
    """The daemon."""

    containers: dict[str, FakeContainer] = field(default_factory=dict)  # by id
    calls: list[tuple[Action, str, str]] = field(default_factory=list)  # action, task id, target
    creations: list[tuple[str, str]] = field(default_factory=list)  # (task ARN, container name) of each success
    listeners: list[gevent.queue.SimpleQueue] = field(default_factory=list)
    answers: bool = True
    seconds: int = 0  # the daemon's clock; every call lets one pass
    ids: Any = field(default_factory=lambda: itertools.count(1))

    def time(self) -> str:
        """A new moment, as Docker writes it."""
        self.seconds += 1
        return f"2026-06-01T{self.seconds // 3600:02}:{self.seconds // 60 % 60:02}:{self.seconds % 60:02}.123456789Z"

    def find(self, id_or_name: str) -> FakeContainer | None:
        """By id or name."""
        return next((c for c in self.containers.values() if id_or_name and id_or_name in (c.id, c.name)), None)

    def of(self, arn: str, name: str) -> FakeContainer:
        """The container of a task; KeyError when there is none."""
        for container in self.containers.values():
            if (container.arn, container.container_name) == (arn, name):
                return container
        raise KeyError(name)

    def tell(self, container: FakeContainer, action: str, exit_code: int | None = None) -> None:
        """Send an event to everyone who listens."""
        event = DockerEvent(docker_id=container.id, action=action, exit_code=exit_code, observation=observe(container))
        for listener in self.listeners:
            listener.put(event)

    def end(self, container: FakeContainer, exit_code: int) -> None:
        """The process ends."""
        container.state, container.exit_code, container.finished_at = "exited", exit_code, self.time()
        self.tell(container, "die", exit_code)

    def start(self, container: FakeContainer) -> None:
        """The process begins."""
        if container.state != "running":
            container.state, container.exit_code, container.started_at = "running", None, self.time()
            container.starts += 1
            self.tell(container, "start")

    def called(self, action: Action, target: str = "") -> int:
        """How often an action was performed."""
        return sum(1 for a, _, t in self.calls if a is action and target in ("", t))


def observe(container: FakeContainer) -> Observation:
    """What inspect says."""
    return Observation(
        docker_id=container.id,
        docker_name=container.name,
        status=STATUS[container.state],
        exit_code=container.exit_code,
        running=container.state == "running",
        started_at=container.started_at,
        finished_at=container.finished_at,
        image_id=f"sha256:{container.image}",
    )


class FakeHands:
    """One engine's hands. `failures` and `holds` are keyed by (action, target)."""

    def __init__(self, docker: FakeDocker | None = None, facts: DockerFacts | None = None) -> None:
        self.docker = docker or FakeDocker()
        self._facts = facts or DockerFacts(server_version="20.10.24", cpu_count=2, memory_bytes=8 << 30)
        self.failures: dict[tuple[Action, str], list[NamedError]] = {}
        self.holds: dict[tuple[Action, str], gevent.event.Event] = {}
        self.exits_at_once: dict[str, int] = {}  # container name -> exit code
        self.resources: dict[str, tuple[Resource, ...]] = {}  # by task ARN
        self.setup_error: Exception | None = None
        self._unseen: set[str] = set()  # containers that an inspect could not tell of

    def fail(self, action: Action, target: str, name: str, text: str, times: int = 1) -> None:
        """Let the next `times` performances fail."""
        self.failures.setdefault((action, target), []).extend([NamedError(name, text)] * times)

    def hold(self, action: Action, target: str) -> gevent.event.Event:
        """Let performances wait until the returned event is set."""
        return self.holds.setdefault((action, target), gevent.event.Event())

    # -- the interface -------------------------------------------------------------------------

    def on_pull_began(self, task_arn: str, at: float) -> None:
        """The engine puts its own here."""

    def cancel(self, task_arn: str, container: str = "") -> None:
        """Nothing here can be cancelled."""

    def forget(self, task: Task) -> None:
        """No secrets are held here."""

    def taken_up(self, container: Container) -> None:
        """Nothing is held here."""

    def ended(self, container: Container) -> None:
        """Nothing is held here."""

    def facts(self) -> DockerFacts:
        """What is known about the daemon."""
        return self._facts

    def load_driver_image(self) -> bool:
        """There is none."""
        return False

    def load_service_connect(self) -> bool:
        """There is none."""
        return False

    def service_connect_stamp(self) -> None:
        """There is none."""

    def forget_instance(self) -> None:
        """Nothing is remembered here."""

    def refresh_facts(self) -> DockerFacts:
        """The same, read again."""
        return self._facts

    def list_containers(self) -> list[tuple[str, str, dict[str, str], str]]:
        """What `docker ps -a` says."""
        if not self.docker.answers:
            raise Temporary("Cannot connect to the Docker daemon")
        return [(c.id, c.name, {}, c.state) for c in self.docker.containers.values()]

    def wait_until_docker_answers(self, stopping: gevent.event.Event) -> None:
        """Until it does, or the engine stops."""
        while not self.docker.answers and not stopping.is_set():
            gevent.sleep(0.01)

    def resources_for(self, task: Task, facts: DockerFacts) -> tuple[Resource, ...]:
        """The resources that the test gave to the task."""
        if self.setup_error is not None:
            raise self.setup_error
        return self.resources.get(task.arn, ())

    def events(self) -> Iterator[DockerEvent | Resync]:
        """The event stream, from now on."""
        queue: gevent.queue.SimpleQueue = gevent.queue.SimpleQueue()
        self.docker.listeners.append(queue)
        yield Resync()
        while True:
            yield queue.get()

    def perform(self, task: Task, effect: Effect) -> Outcome:
        """Do it, or fail as told."""
        key = (effect.action, effect.target)
        if key in self.holds:
            self.holds[key].wait()
        self.docker.calls.append((effect.action, task.id, effect.target))
        outcome = Outcome(action=effect.action, target=effect.target)
        if not self.docker.answers:
            return replace(outcome, error=NamedError("CannotConnect", "Cannot connect to the Docker daemon"))
        failures = self.failures.get(key)
        error = failures.pop(0) if failures else None
        container = task.container(effect.target)
        if container is None:
            return replace(outcome, error=error)
        return self._on_container(task, container, outcome, error)

    def _on_container(self, task: Task, container: Container, outcome: Outcome, error: NamedError | None) -> Outcome:
        action = outcome.action
        if action is Action.PULL:
            found = {} if error else {"image_id": f"sha256:{container.image}", "image_size_bytes": 1234}
            return replace(outcome, error=error, **found)
        if action is Action.CREATE:
            return self._create(task, container, outcome, error)
        if action in (Action.START_AGENT, Action.CHECK_AGENT):
            return self._agent(container, outcome, error)
        found = self.docker.find(container.docker_id) or self.docker.find(container.docker_name)
        if found is None and action in (Action.START, Action.STOP, Action.INSPECT, Action.REMOVE):
            missing = NamedError("NoSuchContainer", f"No such container: {container.docker_id}")
            return replace(outcome, error=error or missing, gone=True)
        if error is not None and action is Action.INSPECT:
            self._unseen.add(container.name)
        if found is None or (error is not None and action is not Action.START):
            told = found is not None and action is not Action.INSPECT
            return replace(outcome, error=error, observation=observe(found) if told else None)
        if action is Action.REMOVE:
            del self.docker.containers[found.id]
            return outcome
        if action is Action.START and error is None:
            self._start(found)
        elif action is Action.STOP and found.state == "running":
            self.docker.end(found, 143)
            self.docker.tell(found, "stop")
        return replace(outcome, error=error, observation=observe(found))

    def _agent(self, container: Container, outcome: Outcome, error: NamedError | None) -> Outcome:
        agent, found = agent_of(container), self.docker.find(container.docker_id)
        if agent is None:
            return outcome
        if error is not None or found is None or found.state != "running":
            return replace(outcome, agent=replace(agent, status="STOPPED", reason=str(error)))
        return replace(outcome, agent=replace(agent, status="RUNNING", started_at=1.0, exec_id=f"exec{found.starts}"))

    def _start(self, found: FakeContainer) -> None:
        self.docker.start(found)
        if found.container_name in self.exits_at_once:
            self.docker.end(found, self.exits_at_once[found.container_name])

    def _create(self, task: Task, container: Container, outcome: Outcome, error: NamedError | None) -> Outcome:
        if error is not None:
            return replace(outcome, error=error)
        taken = self.docker.find(container.docker_name)
        if taken is not None and container.name in self._unseen and not container.docker_id:
            return replace(outcome, observation=observe(taken))  # 409; the engine could not know, and it is its own
        if taken is not None:
            raise AssertionError(f"{container.docker_name} is created a second time")
        id_ = f"{next(self.docker.ids):064x}"
        made = FakeContainer(id_, container.docker_name, task.arn, container.name, container.image)
        self.docker.containers[id_] = made
        self.docker.creations.append((task.arn, container.name))
        self.docker.tell(made, "create")
        return replace(outcome, observation=observe(made))
