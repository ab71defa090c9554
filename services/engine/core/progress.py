"""What the task does next: called after every message, until nothing changes any more.

Resources first, then containers in their order. Steps that need no Docker (a container that never ran and shall stop,
a resource that is no longer wanted) are taken at once and everything is looked at again; the others become effects.
Their target is marked as applied, so that no second call is made for it (ECS agent behaviour, spec 03 §3.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from common.errors import NamedError
from common.model.status import ContainerStatus, ResourceStatus, TaskStatus
from common.model.task import Container, Resource, Task
from services.engine.core import agents
from services.engine.core.dependencies import Answer, evaluate
from services.engine.core.effects import Action
from services.engine.core.emission import emit_awaited
from services.engine.core.names import docker_name
from services.engine.core.observe import observed
from services.engine.core.states import Step, is_steady, next_step
from services.engine.core.status import give_up, refresh
from services.engine.core.turn import Turn

C, R, T = ContainerStatus, ResourceStatus, TaskStatus

DEPENDENCY_EXIT_CODE = 143  # of a container that never started because of a dependency
CREDENTIALS_ROUND_SECONDS = 60.0


@dataclass
class Pass:
    """What one look at all resources and containers found."""

    changed: bool = False  # something moved without Docker: look again
    moving: bool = False  # a call is under way
    blocked: bool = False
    no_credentials: bool = False
    ended: list[tuple[str, NamedError | None]] = field(default_factory=list)  # containers that stop without Docker


def needs_admission(task: Task) -> bool:
    """Whether the task must be given host resources before it may begin (spec 03 §5.2)."""
    exempt = task.is_internal or task.launch_type.upper() == "FARGATE"
    return not (task.admitted or exempt or task.known == T.STOPPED or task.desired == T.STOPPED)


def advance(turn: Turn) -> None:
    """Take every step that can be taken now."""
    refresh(turn)
    agents.watch(turn)
    emit_awaited(turn)
    while turn.task.known != T.STOPPED and not needs_admission(turn.task):
        found = Pass()
        _resources(turn, found)
        _containers(turn, found)
        refresh(turn)
        if found.changed:
            continue
        if found.no_credentials:
            turn.wake(turn.around.now + CREDENTIALS_ROUND_SECONDS)
        if found.moving or found.blocked or found.no_credentials or is_steady(turn.task):
            return
        before = turn.task
        give_up(turn)
        if turn.task == before:
            return  # nothing to do but to wait for a message


# -- resources -------------------------------------------------------------------------------------


def _resources(turn: Turn, found: Pass) -> None:
    for resource in turn.task.resources:
        if resource.known >= resource.desired:
            continue
        if resource.desired == R.REMOVED:
            # The sweep removes what exists; "removed" counts as "created" for those that wait for it.
            turn.change_resource(resource, known=R.REMOVED)
            found.changed = True
        elif resource.applied != R.NONE:
            found.moving = True
        elif _lacks_credentials(turn, resource):
            found.no_credentials = True
        elif any(_below(turn.task, d.target, d.status) for d in resource.depends_on):
            found.blocked = True
        else:
            turn.change_resource(resource, applied=R.CREATED)
            turn.do(Action.CREATE_RESOURCE, resource.name, f"the task needs {resource.kind} {resource.name}")
            found.moving = True


def renew(turn: Turn, resources: Iterable[Resource], why: str) -> None:
    """Create these resources again, as long as they are there. A renewal that is cut off is found by `applied`."""
    for resource in resources:
        if resource.known == R.CREATED and turn.task.known < T.STOPPED:
            turn.change_resource(resource, applied=R.CREATED)
            turn.do(Action.CREATE_RESOURCE, resource.name, f"{resource.kind} is renewed: {why}")


def _lacks_credentials(turn: Turn, resource: Resource) -> bool:
    return resource.needs_execution_credentials and turn.task.execution_credentials_id not in turn.around.credentials


def _below(task: Task, name: str, status: int) -> bool:
    container = task.container(name)
    return container is None or container.known < status


# -- containers ------------------------------------------------------------------------------------


def _containers(turn: Turn, found: Pass) -> None:
    for name in [c.name for c in turn.task.containers]:
        container = turn.container(name)
        step = next_step(container)
        if step is None:
            found.moving |= container.applied != C.NONE
        else:
            _consider(turn, container, step, found)
    _end(turn, found)


def _consider(turn: Turn, container: Container, step: Step, found: Pass) -> None:
    verdict = evaluate(turn.task, container, turn.around)
    if step.action is not None and container.applied != C.NONE:
        found.moving = True
        # A pull need not end before its container is given up; a process that starts must be seen first.
        if verdict.answer is not Answer.NEVER or container.applied >= C.RUNNING:
            return
    if verdict.answer is Answer.GO:
        _take(turn, container, step, found)
    elif verdict.answer in (Answer.BLOCKED, Answer.IN_TURN):
        found.blocked |= verdict.answer is Answer.BLOCKED
        turn.say(f"{container.name} waits: {verdict.text}")
        if verdict.wake_at:
            turn.wake(verdict.wake_at + 0.01)
    elif verdict.answer is Answer.NO_CREDENTIALS:
        found.no_credentials = True
        turn.say(f"{container.name} waits: {verdict.text}")
    else:
        turn.change_container(container.name, desired=C.STOPPED, exit_code=DEPENDENCY_EXIT_CODE)
        found.ended.append((container.name, NamedError("CannotStartContainerError", verdict.text)))


def _end(turn: Turn, found: Pass) -> None:
    """Only now, when all containers were looked at: what one brings about must not hide the reason of the next."""
    for name, error in found.ended:
        observed(turn, name, C.STOPPED, error=error, may_restart=False)
    found.changed |= bool(found.ended)


def _take(turn: Turn, container: Container, step: Step, found: Pass) -> None:
    if step.action is None:
        found.ended.append((container.name, None))
        return
    changes: dict[str, object] = {"applied": step.status}
    if step.action is Action.CREATE and not container.docker_name:
        changes["docker_name"] = docker_name(turn.task, container, turn.around.new_number())
    if step.action is Action.CREATE and container.managed_agents:
        changes["managed_agents"] = agents.named(container, turn)
    turn.change_container(container.name, **changes)
    turn.do(step.action, container.name, f"{container.known.name} -> {step.status.name}")
    found.moving = True
