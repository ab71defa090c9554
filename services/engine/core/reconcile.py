"""Taking a task up again after the engine was away: what the document says against what Docker says.

Exits that happened meanwhile are handled as if they had been seen live, restart policy included. A container that
Docker does not know is gone only if Docker said so (404); no answer is no finding (ECS agent behaviour, spec 03 §11.4).
"""

from __future__ import annotations

from common.model.status import ContainerStatus, ResourceStatus, TaskStatus
from common.model.task import Container, Task
from services.engine.core import agents, restart
from services.engine.core.decide import Decision
from services.engine.core.effects import Action, Effect, Outcome
from services.engine.core.emission import emit_container, emit_task
from services.engine.core.observe import observed
from services.engine.core.outcomes import VANISHED, found
from services.engine.core.progress import advance, renew
from services.engine.core.turn import Surroundings, Turn

C, R, T = ContainerStatus, ResourceStatus, TaskStatus

# Their values live in memory only and are fetched again, unless the task is past the status at which they are used.
REFETCHED: dict[str, TaskStatus] = {
    "asm-auth": T.PULLED,
    "ssmsecret": T.CREATED,
    "asmsecret": T.CREATED,
    "envfile": T.CREATED,
}


def to_inspect(task: Task) -> tuple[Effect, ...]:
    """What must be asked of Docker before the task can go on.

    A stopped container is looked at only if its end was never seen, or if one of the task was seen running after it:
    a stop may have been cut off.
    """
    return tuple(
        Effect(action=Action.INSPECT, target=c.name, reason="the engine was away")
        for c in task.containers
        if (c.docker_id or c.docker_name) and (c.known != C.STOPPED or (c.docker_id and _may_run_on(task, c)))
    )


def _may_run_on(task: Task, stopped: Container) -> bool:
    return stopped.exit_code is None or task.unexpected_start_handled


def restored(task: Task, answers: dict[str, Outcome], around: Surroundings) -> Decision:
    """The task as it is now. `answers` has the inspect of each container that `to_inspect` named."""
    turn = Turn(task, around)
    _refetch(turn)
    for container in task.containers:
        answer = answers.get(container.name)
        if answer is None:
            turn.change_container(container.name, applied=C.NONE)
        else:
            _reconcile(turn, container, answer)
    for container in turn.task.containers:
        emit_container(turn, container.name)
        agents.taken_up(turn, container.name)
    emit_task(turn)
    advance(turn)
    return turn.decision()


def _refetch(turn: Turn) -> None:
    cut_off = [r for r in turn.task.resources if r.known == r.applied == R.CREATED]
    for resource in turn.task.resources:
        changes = {"applied": R.NONE}
        before = REFETCHED.get(resource.kind)
        if before is not None and turn.task.known < before and turn.task.desired <= T.RUNNING:
            changes["known"] = R.NONE
        turn.change_resource(resource, **changes)
    renew(turn, cut_off, "the engine ended before it was done")


def _reconcile(turn: Turn, container: Container, answer: Outcome) -> None:
    name, seen = container.name, answer.observation
    interrupted = seen is not None and restart.was_interrupted(container, seen)
    turn.change_container(name, applied=C.NONE)
    if seen is None:
        if answer.gone and container.docker_id and container.known != C.STOPPED:
            _vanished(turn, container)
        elif not answer.gone and container.docker_id and _was_starting(container):
            # Its process may run, and whether it does is not told: only a stop makes sure.
            turn.change_container(name, desired=C.STOPPED, applied=C.STOPPED, error=container.error or answer.error)
            turn.do(Action.STOP, name, "its start was cut off, and Docker does not tell of it")
        return
    if not container.docker_id:
        turn.say(f"{name}: found by its name {container.docker_name}; it was created before the engine ended")
        container = turn.change_container(name, docker_id=seen.docker_id)
    if interrupted and restart.is_of_an_earlier_boot(container, turn.around.boot):
        observed(turn, name, C.STOPPED, seen, may_restart=False)
        return
    if interrupted:
        turn.change_container(name, applied=C.RUNNING)
        turn.do(Action.START, name, "the restart by policy was interrupted", after=seen)
        return
    if container.known == C.STOPPED:
        if seen.running:
            turn.do(Action.STOP, name, "a stopped container still runs: its stop was cut off")
        return
    if seen.error is not None and not seen.running:
        turn.change_container(name, error=seen.error)
    found(turn, name, seen)


def _was_starting(container: Container) -> bool:
    return container.known < C.RUNNING and container.applied in (C.RUNNING, C.STOPPED)


def _vanished(turn: Turn, container: Container) -> None:
    # Straight to STOPPED: this error replaces an earlier one, as at the reference's start.
    turn.change_container(container.name, error=VANISHED)
    observed(turn, container.name, C.STOPPED, error=VANISHED, may_restart=False)


def republish(task: Task, around: Surroundings) -> Decision:
    """For a store that lost its data: everything is announced again; acs drops what ECS knows already."""
    turn = Turn(task, around)
    for container in task.containers if not task.rejected else ():
        turn.change_container(container.name, emitted=C.NONE)
        emit_container(turn, container.name)
    turn.change_task(emitted=T.NONE, credentials_released=False)
    emit_task(turn)
    advance(turn)
    return turn.decision()
