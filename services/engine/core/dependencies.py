"""Whether a container may take its next step, and if not, why.

Asked before every step. The order is: credentials, dependsOn (with what links, volumesFrom and firelens imply), the
transition's own dependencies, and the shutdown order (ECS agent behaviour, spec 03 §4). A terminal answer means that
the container can never start; its text goes onto the wire and must not be altered.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum, auto

from msgspec import Struct
from msgspec.structs import replace

from common.model.status import ContainerStatus, HealthStatus, TaskStatus
from common.model.task import Container, Dependency, Task
from services.engine.core.names import printed
from services.engine.core.states import natural_next
from services.engine.core.times import unix_seconds
from services.engine.core.turn import Surroundings

C = ContainerStatus
GRAPH = "dependency graph: "
TIMED_CONDITIONS = ("SUCCESS", "COMPLETE", "HEALTHY")


class Answer(Enum):
    """What stands in the way of a step."""

    GO = auto()
    BLOCKED = auto()  # something else in the task must happen first
    IN_TURN = auto()  # others must stop first; they are on their way, unless they wait for one another
    NO_CREDENTIALS = auto()  # execution role credentials have not arrived
    NEVER = auto()  # terminal


class Verdict(Struct, frozen=True):
    """The answer, the sentence, and when time alone may turn it into NEVER (Unix seconds, 0 = never)."""

    answer: Answer
    text: str = ""
    wake_at: float = 0.0


GO = Verdict(Answer.GO)


def evaluate(task: Task, container: Container, around: Surroundings) -> Verdict:
    """The first thing that stands in the way of the container's next step."""
    for check in (_credentials, _ordering, _transition, _shutdown_order):
        verdict = check(task, container, around)
        if verdict.answer is not Answer.GO:
            return verdict
    return GO


def needs_execution_credentials(container: Container) -> bool:
    """True when the image comes from ECR by the task's execution role."""
    auth = container.registry_auth
    return auth is not None and auth.type == "ecr" and auth.use_execution_role


def _credentials(task: Task, container: Container, around: Surroundings) -> Verdict:
    if container.known >= C.PULLED or container.desired >= C.STOPPED or not needs_execution_credentials(container):
        return GO
    if task.execution_credentials_id in around.credentials:
        return GO
    return Verdict(Answer.NO_CREDENTIALS, "the execution role credentials of the task have not arrived")


# -- dependsOn -------------------------------------------------------------------------------------


def _ordering(task: Task, container: Container, around: Surroundings) -> Verdict:
    if container.desired not in (container.steady, C.CREATED):
        return GO
    blocked, wake_at = GO, 0.0
    for entry in container.depends_on:
        verdict = _entry(task, container, entry, around)
        if verdict.answer is Answer.NEVER:
            return verdict
        wake_at = min(filter(None, (wake_at, verdict.wake_at)), default=0.0)
        if verdict.answer is not Answer.GO:
            blocked = verdict
    return replace(blocked, wake_at=wake_at)


def _entry(task: Task, target: Container, entry: Dependency, around: Surroundings) -> Verdict:
    dependency = task.container(entry.container_name)
    if dependency is None:
        return _never(f"container ordering dependency [<nil>] for target [{printed(target)}] does not exist.")
    on, for_ = printed(dependency), printed(target)
    deadline = _deadline(target, dependency, entry.condition)
    if deadline and around.now > deadline:
        return _never(f"container ordering dependency [{on}] for target [{for_}] has timed out.")
    failed = f"failed to resolve container ordering dependency [{on}] for target [{for_}]"
    if entry.condition == "SUCCESS" and dependency.known == C.STOPPED and dependency.exit_code != 0:
        return _never(f"{failed} as dependency did not exit successfully.")
    if dependency.known < C.RUNNING and dependency.desired == C.STOPPED and dependency.applied == C.NONE:
        return _never(f"{failed} because dependency will never start")
    if is_met(target, dependency, entry.condition, around.settings.pull_upfront):
        return Verdict(Answer.GO, wake_at=deadline)  # what was met is looked at again as long as another one is not
    return Verdict(Answer.BLOCKED, f"{GRAPH}{failed}: condition {entry.condition} is not met", deadline)


def _never(text: str) -> Verdict:
    return Verdict(Answer.NEVER, GRAPH + text)


def _deadline(target: Container, dependency: Container, condition: str) -> float:
    """When `target` gives up waiting: the dependency's startTimeout after it started. 0 = no limit applies."""
    if target.known >= C.CREATED or dependency.known == C.STOPPED or condition not in TIMED_CONDITIONS:
        return 0.0
    started = unix_seconds(dependency.started_at)
    return started + dependency.start_timeout_seconds if started and dependency.start_timeout_seconds > 0 else 0.0


def is_met(target: Container, dependency: Container, condition: str, pull_upfront: bool) -> bool:
    """Whether the condition lets `target` take its next step."""
    if target.known < C.MANIFEST_PULLED or (pull_upfront and target.known < C.PULLED):
        return True
    rule = CONDITIONS.get(condition)
    return rule is not None and rule(target, dependency)


def _started(target: Container, dependency: Container) -> bool:
    if dependency.known == C.STOPPED:
        return True
    at_steady = dependency.known == dependency.steady  # exactly: beyond it is not "started"
    if target.desired == C.CREATED:
        return at_steady or dependency.known == C.CREATED
    return target.desired == target.steady and at_steady


CONDITIONS = {
    "CREATE": lambda target, on: on.known >= C.CREATED,
    "START": _started,
    "SUCCESS": lambda target, on: on.known == C.STOPPED and on.exit_code == 0,
    "COMPLETE": lambda target, on: on.known == C.STOPPED and on.exit_code is not None,
    "HEALTHY": lambda target, on: on.health_check_type == "docker" and on.health.status == HealthStatus.HEALTHY,
}


# -- the transition's own dependencies, and the way down -------------------------------------------


def _transition(task: Task, container: Container, around: Surroundings) -> Verdict:
    needed = container.transition_dependencies.get(int(natural_next(container)))
    if needed is None:
        return GO
    for wanted in needed.containers:
        other = task.container(wanted.target)
        if other is None or other.known < wanted.status:
            return Verdict(Answer.BLOCKED, f"waits for container {wanted.target} to be {C(wanted.status).name}")
    for wanted in needed.resources:
        resource = next((r for r in task.resources if r.name == wanted.target), None)
        if resource is None or resource.known < wanted.status:
            return Verdict(Answer.BLOCKED, f"waits for resource {wanted.target}")
    return GO


def _shutdown_order(task: Task, container: Container, around: Surroundings) -> Verdict:
    if container.desired != C.STOPPED or container.known == C.STOPPED:
        return GO
    others = [
        f"[{c.name}]"
        for c in task.containers
        if c.known != C.STOPPED and any(d.container_name == container.name for d in c.depends_on)
    ]
    if not others:
        return GO
    listed = ", ".join(others)
    text = f"{GRAPH}target {container.name} needs other containers stopped before it can stop: {listed}"
    return Verdict(Answer.IN_TURN, text)


# -- at the door -----------------------------------------------------------------------------------


def is_satisfiable(task: Task) -> bool:
    """Whether the containers can be put in an order that their dependsOn entries allow (spec 03 §4.5)."""
    if task.desired == TaskStatus.STOPPED:
        return True
    left, picked = list(task.containers), set[str]()
    while left:
        ready = [c for c in left if all(_could_be_met(task, c, d, picked) for d in c.depends_on)]
        if not ready:
            return False
        picked.update(c.name for c in ready)
        left = [c for c in left if c.name not in picked]
    return True


def _could_be_met(task: Task, target: Container, entry: Dependency, picked: Collection[str]) -> bool:
    if target.desired not in (target.steady, C.CREATED):
        return True  # what is not to run waits for nobody
    on = task.container(entry.container_name)
    if on is None or on.name not in picked:
        return False
    if entry.condition == "START":
        if target.desired == C.CREATED:
            return on.desired in (C.CREATED, on.steady)
        return on.desired == on.steady
    reachable = on.desired in (C.CREATED, C.STOPPED, on.steady)
    if entry.condition == "HEALTHY":
        return reachable and on.health_check_type == "docker"
    return reachable and entry.condition in ("CREATE", "COMPLETE", "SUCCESS")
