"""What the result of each effect, and each Docker event, means for the task.

Calls and events race: Docker's `start` event often arrives before the start call returns, and a process that exits at
once has sent `die` by then. Whatever comes first moves the container, what comes later only adds what it knows; a
container that ran is announced as RUNNING before it is announced as STOPPED (ECS agent behaviour, spec 03 §6.12).
"""

from __future__ import annotations

from collections.abc import Callable

from common.errors import NamedError
from common.model.status import ContainerStatus, ContainerType, HealthStatus, ResourceStatus, TaskStatus
from common.model.task import Container
from services.engine.core import agents
from services.engine.core.effects import Action, DockerEvent, Effect, HealthReport, Observation, Outcome
from services.engine.core.observe import health, may_run, merge, observed
from services.engine.core.states import LEADS_TO
from services.engine.core.status import set_desired, set_terminal_reason
from services.engine.core.times import is_never
from services.engine.core.turn import Turn

C, R, T = ContainerStatus, ResourceStatus, TaskStatus

EVENT_STATUS = {"create": C.CREATED, "start": C.RUNNING, "stop": C.STOPPED, "die": C.STOPPED}
HEALTH_EVENT = "health_status"
HEALTH_TOLD = {"healthy": HealthStatus.HEALTHY, "unhealthy": HealthStatus.UNHEALTHY}
VANISHED = NamedError("ContainerVanishedError", "No container matching saved ID found")
ENDINGS = ("DockerStateError", "OutOfMemoryError")  # how a process ended; they do not undo that it started


def finished(turn: Turn, effect: Effect, outcome: Outcome) -> None:
    """An effect has come to its end."""
    if outcome.skipped:
        _idle(turn, effect.target, LEADS_TO[effect.action])
        return
    handler = OUTCOMES.get(effect.action)
    if handler is not None:
        handler(turn, effect, outcome)


def _idle(turn: Turn, name: str, status: ContainerStatus) -> Container:
    container = turn.container(name)
    return turn.change_container(name, applied=C.NONE) if container.applied == status else container


def _manifest(turn: Turn, effect: Effect, outcome: Outcome) -> None:
    _idle(turn, effect.target, C.MANIFEST_PULLED)
    if outcome.image_digest:
        turn.change_container(effect.target, image_digest=outcome.image_digest)
    observed(turn, effect.target, C.MANIFEST_PULLED, error=outcome.error)


def _pull(turn: Turn, effect: Effect, outcome: Outcome) -> None:
    container = _idle(turn, effect.target, C.PULLED)
    pull_began(turn, outcome.registry_pull_began_at)
    if outcome.registry_pull_ended_at:
        turn.change_task(pull_stopped_at=outcome.registry_pull_ended_at)
    turn.change_container(
        effect.target,
        pulled=container.pulled or outcome.error is None or bool(outcome.image_id),
        image_id=outcome.image_id or container.image_id,
        image_digest=container.image_digest or outcome.image_digest,
    )
    observed(turn, effect.target, C.PULLED, error=outcome.error)
    if outcome.stop_task:
        set_desired(turn, T.STOPPED, f"the image of {effect.target} cannot be pulled: {outcome.error}")


def pull_began(turn: Turn, at: float) -> None:
    """The first real pull of the task began at `at` (Unix seconds; 0 = there was none)."""
    if at and not turn.task.pull_started_at:
        turn.change_task(pull_started_at=at)


def _create(turn: Turn, effect: Effect, outcome: Outcome) -> None:
    container = _idle(turn, effect.target, C.CREATED)
    seen = outcome.observation
    # Also for a container that was stopped meanwhile: without the id it could never be removed.
    if seen is not None and seen.docker_id:
        turn.change_container(effect.target, docker_id=seen.docker_id)
    agents.created(turn, effect.target, outcome.agent)
    if outcome.port_ranges:
        turn.change_container(effect.target, port_ranges=container.port_ranges | outcome.port_ranges)
    observed(turn, effect.target, C.CREATED, seen, error=outcome.error)
    if outcome.stop_task:
        set_desired(turn, T.STOPPED, f"the container {effect.target} cannot be created: {outcome.error}")


def _start(turn: Turn, effect: Effect, outcome: Outcome) -> None:
    container = _idle(turn, effect.target, C.RUNNING)
    error = outcome.error
    if error is not None and error.name in ENDINGS and _ran(outcome.observation):
        error = None  # the die event tells the rest
    if effect.after is None:
        observed(turn, effect.target, C.RUNNING, outcome.observation, error=error)
    elif error is None:
        _repeated_start(turn, container, outcome.observation)
    elif container.known.is_running:
        turn.say(f"{effect.target}: the restart failed: {error}")
        if may_run(error, outcome.observation):
            # As after a first start: it is reported as STOPPED when this stop has shown that nothing runs.
            turn.change_container(
                container.name, desired=C.STOPPED, applied=C.STOPPED, error=container.error or effect.after.error
            )
            turn.do(Action.STOP, effect.target, "the restart failed, but the process may run")
        else:
            observed(turn, effect.target, C.STOPPED, effect.after, error=effect.after.error, may_restart=False)


def _repeated_start(turn: Turn, container: Container, seen: Observation | None) -> None:
    if container.known == C.STOPPED:
        observed(turn, container.name, C.RUNNING, seen)
    else:
        merge(turn, container.name, seen, None)
        agents.container_runs(turn, container.name)


def _ran(seen: Observation | None) -> bool:
    return seen is not None and not is_never(seen.started_at)


def _provision(turn: Turn, effect: Effect, outcome: Outcome) -> None:
    _idle(turn, effect.target, C.RESOURCES_PROVISIONED)
    observed(turn, effect.target, C.RESOURCES_PROVISIONED, outcome.observation, error=outcome.error)


def _stop(turn: Turn, effect: Effect, outcome: Outcome) -> None:
    """The container counts as stopped when its process is gone, whatever the stop call said; else it is repeated."""
    container = _idle(turn, effect.target, C.STOPPED)
    seen, error = outcome.observation, outcome.error
    if outcome.gone or (seen is not None and not seen.running):
        observed(turn, container.name, C.STOPPED, seen, error=error or _end_of(seen), may_restart=False)
    elif error is None and (seen is None or container.known == C.STOPPED):
        observed(turn, container.name, C.STOPPED, seen, may_restart=False)
    else:
        _stop_again(turn, container, outcome)


def _end_of(seen: Observation | None) -> NamedError | None:
    """What Docker says of how the process ended (spec 03 §6.9), whoever tells it first: this stop or the die event."""
    error = seen.error if seen is not None else None
    return error if error is not None and error.name in ENDINGS else None


def _stop_again(turn: Turn, container: Container, outcome: Outcome) -> None:
    cause = str(outcome.error) if outcome.error else "Docker took the stop, but the process runs"
    away = "" if outcome.docker_answers else "; Docker does not answer"
    turn.say(f"{container.name} could not be stopped and is stopped again: {cause}{away}")
    turn.change_container(
        container.name,
        error=container.error or outcome.error,
        desired=C.STOPPED,
        applied=C.NONE if container.known == C.STOPPED else C.STOPPED,
    )
    turn.do(Action.STOP, container.name, "the stop before failed")


def _inspect(turn: Turn, effect: Effect, outcome: Outcome) -> None:
    """A poll. It changes nothing while a call for the same container is under way, whose result knows better."""
    container = turn.container(effect.target)
    if container.applied != C.NONE:
        return
    seen = outcome.observation
    if outcome.gone and container.docker_id and container.known in (C.CREATED, C.RUNNING, C.RESOURCES_PROVISIONED):
        observed(turn, container.name, C.STOPPED, error=VANISHED, may_restart=False)
    elif outcome.error is None and seen is not None:
        found(turn, container.name, seen)


def found(turn: Turn, name: str, seen: Observation) -> None:
    """The container was inspected outside of any transition."""
    if seen.status == C.STOPPED and not seen.running:
        stopped(turn, name, seen, seen.error, seen.exit_code)
    elif seen.status != C.NONE:
        observed(turn, name, C.RUNNING if seen.running else seen.status, seen)


def stopped(
    turn: Turn,
    name: str,
    seen: Observation | None,
    error: NamedError | None,
    exit_code: int | None,
    at: float = 0.0,
) -> None:
    """The container's process has ended; one that ran without being noticed is announced as RUNNING first."""
    container = turn.container(name)
    if container.type == ContainerType.MANAGED_DAEMON and seen is not None and seen.running:
        turn.say(f"{name}: its process ended; Docker starts it again")
        return
    if container.known < C.RUNNING:
        if seen is not None and not _ran(seen) and container.applied == C.RUNNING:
            return  # the start failed; its own result says why
        if _ran(seen):
            observed(turn, name, C.RUNNING, seen)
    observed(turn, name, C.STOPPED, seen, error=error, exit_code=exit_code, at=at)


def _told_health(action: str) -> HealthReport | None:
    """The status in the event's own name: Docker tells a change once, and the inspect behind it may have failed."""
    told = HEALTH_TOLD.get(action.removeprefix(HEALTH_EVENT).strip(": "))
    return HealthReport(status=told) if told is not None else None


def docker_event(turn: Turn, name: str, event: DockerEvent) -> None:
    """One event of Docker's stream about the container."""
    seen = event.observation
    if event.action.startswith(HEALTH_EVENT):
        health(turn, name, (seen.health if seen else None) or _told_health(event.action))
        return
    status = EVENT_STATUS.get(event.action, C.NONE)
    if status == C.STOPPED:
        exit_code = event.exit_code if seen is None or seen.exit_code is None else seen.exit_code
        error = event.error or (seen.error if seen is not None and not seen.running else None)
        stopped(turn, name, seen, None if event.gone else error, exit_code, event.at)
    elif status != C.NONE:
        observed(turn, name, status, seen)


def _resource(turn: Turn, effect: Effect, outcome: Outcome) -> None:
    resource = next((r for r in turn.task.resources if r.name == effect.target), None)
    if resource is None:
        return
    detail = {**resource.detail, **outcome.detail}
    turn.change_resource(resource, applied=R.NONE, detail=detail)
    if resource.known != R.NONE:
        return  # given up meanwhile; the sweep removes what was made
    if outcome.error is None:
        turn.change_resource(resource, known=R.CREATED)
        turn.say(f"resource {resource.name} is there")
        return
    text = outcome.reason or outcome.error.text
    set_terminal_reason(turn, text)
    set_desired(turn, T.STOPPED, f"resource {resource.name} cannot be created: {text}")


Handler = Callable[[Turn, Effect, Outcome], None]
OUTCOMES: dict[Action, Handler] = {
    Action.RESOLVE_MANIFEST: _manifest,
    Action.PULL: _pull,
    Action.CREATE: _create,
    Action.START: _start,
    Action.PROVISION: _provision,
    Action.STOP: _stop,
    Action.INSPECT: _inspect,
    Action.CREATE_RESOURCE: _resource,
    Action.START_AGENT: agents.told,
    Action.CHECK_AGENT: agents.told,
}
