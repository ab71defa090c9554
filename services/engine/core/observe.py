"""What an observation of a container changes: results of transitions and Docker's events alike.

The first error of a container's life is the one that is reported. Setting the known status first and rolling it back
after an error follows the reference: the status in the report is the one that was reached (spec 03 §2.6).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from common.errors import NamedError
from common.model.status import ContainerStatus, TaskStatus
from common.model.task import Container, Health, PortBinding
from services.engine.core import restart
from services.engine.core.effects import Action, HealthReport, Observation
from services.engine.core.status import reached, set_desired
from services.engine.core.times import is_never, unix_seconds
from services.engine.core.turn import Turn

C, T = ContainerStatus, TaskStatus

STOPPING_PULL_BEHAVIORS = ("always", "once")  # a failed pull ends the task; the others go on with the cached image
# Of starts and of what follows them: the process may run nevertheless.
UNCERTAIN_STARTS = ("DockerTimeoutError", "CannotInspectContainerError", "ContainerNetworkingError")

# Values that replace what is known only when Docker told something: an event without inspect data must not wipe
# the addresses of a stopped container (spec 03 §15, W16).
REPLACED_WHEN_TOLD = ("network_mode", "ip_address", "ipv6_address", "networks")
FIRST_VALUE_STAYS = ("docker_id", "docker_name", "image_id", "labels", "port_bindings")


def observed(
    turn: Turn,
    name: str,
    status: ContainerStatus,
    seen: Observation | None = None,
    *,
    error: NamedError | None = None,
    exit_code: int | None = None,
    at: float = 0.0,
    may_restart: bool = True,
) -> None:
    """The container was found in `status`. `at` is the time of a Docker event (Unix seconds), 0 = now."""
    before = turn.container(name)
    if status <= before.known:
        _repeated(turn, before, status, seen)
        return
    if exit_code is None and seen is not None:
        exit_code = seen.exit_code
    if status == C.STOPPED and restart.has_policy(before) and may_restart:
        if restart.is_stale(before, seen, at):
            turn.say(f"{name}: an old exit is told again; the container has been restarted since")
            return
        if _restarted(turn, before, seen, exit_code, error):
            return
    turn.change_container(name, known=status)
    if status.is_running and before.applied <= status:
        turn.change_container(name, applied=C.NONE)  # an event may be here before the result, which may take long
    turn.say(f"{name}: {before.known.name} -> {status.name}" + (f" ({error})" if error else ""))
    merge(turn, name, seen, exit_code)
    if error is not None and not _on_error(turn, before, status, error, seen):
        return
    reached(turn, name)


def _repeated(turn: Turn, container: Container, status: ContainerStatus, seen: Observation | None) -> None:
    runs = status.is_running and (seen is None or seen.running) and not _is_past(container, seen)
    if container.known == C.STOPPED and runs and not turn.task.unexpected_start_handled:
        turn.change_task(unexpected_start_handled=True)
        turn.do(Action.STOP, container.name, "a stopped container was seen running")
    if status == container.known == C.RUNNING or (status == container.known and status == C.CREATED):
        merge(turn, container.name, seen, None)


def _is_past(container: Container, seen: Observation | None) -> bool:
    """True when what was seen running is the process whose end is known already: a late result or inspect."""
    if seen is None or is_never(seen.started_at) or is_never(container.finished_at):
        return False
    return unix_seconds(seen.started_at) <= unix_seconds(container.finished_at)


def _restarted(
    turn: Turn, container: Container, seen: Observation | None, exit_code: int | None, error: NamedError | None
) -> bool:
    refusal = restart.refusal(container, exit_code, turn.around.now)
    if restart.is_of_an_earlier_boot(container, turn.around.boot):
        refusal = "the machine was restarted since it began"
    if refusal:
        turn.say(f"{container.name}: not restarted: {refusal}")
        return False
    count = container.restart_count + 1
    finished_at = seen.finished_at if seen else ""
    turn.change_container(
        container.name,
        restart_count=count,
        last_restart_at=turn.around.now,
        restarted_exit=finished_at,
        applied=C.RUNNING,
    )
    answered = seen or Observation()
    answered = answered if answered.exit_code is not None else Observation(status=C.STOPPED, exit_code=exit_code)
    answered = replace(answered, error=error)  # which is reported should the restart fail
    turn.do(Action.START, container.name, f"restart {count} by policy after exit code {exit_code}", after=answered)
    return True


def _on_error(
    turn: Turn, before: Container, status: ContainerStatus, error: NamedError, seen: Observation | None
) -> bool:
    """Record the error and what follows from it; False when the transition did not happen after all."""
    name = before.name
    turn.change_container(name, error=before.error or error)
    if status in (C.MANIFEST_PULLED, C.PULLED):
        if turn.around.settings.pull_behavior in STOPPING_PULL_BEHAVIORS:
            set_desired(turn, T.STOPPED, f"{name} has no image, and cached images are not used: {error}")
            return False
        return True
    if status == C.STOPPED:
        turn.change_container(name, desired=C.STOPPED)
        return True
    turn.change_container(name, known=before.known, desired=C.STOPPED)
    if status.is_running and may_run(error, seen):
        # Marked as applied: the container is reported as STOPPED when this stop has shown that nothing runs.
        turn.change_container(name, applied=C.STOPPED)
        turn.do(Action.STOP, name, f"it did not come to be {status.name}, and its process may run")
    return False


def may_run(error: NamedError, seen: Observation | None) -> bool:
    """True when a failed start may have left a running process behind, or `seen` shows it."""
    if error.name in UNCERTAIN_STARTS or (seen is not None and seen.running):
        return True
    return error.name == "CannotStartContainerError" and error.text.endswith("EOF")


def merge(turn: Turn, name: str, seen: Observation | None, exit_code: int | None) -> None:
    """Take over what Docker told about the container, its health included: a restart begins with UNKNOWN."""
    container = turn.container(name)
    changes: dict[str, Any] = {}
    if exit_code is not None:
        changes["exit_code"] = exit_code
    if seen is not None:
        changes |= _told(container, seen)
    changes = {field: value for field, value in changes.items() if getattr(container, field) != value}
    if changes:
        turn.change_container(name, **changes)
    health(turn, name, seen.health if seen else None)


def _told(container: Container, seen: Observation) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for field in ("created_at", "finished_at"):
        if not is_never(getattr(seen, field)):
            changes[field] = getattr(seen, field)
    if not container.started_at and not is_never(seen.started_at):
        changes["started_at"] = seen.started_at  # for ever, also across restarts
    for field in FIRST_VALUE_STAYS:
        if not getattr(container, field) and getattr(seen, field):
            changes[field] = getattr(seen, field)
    for field in REPLACED_WHEN_TOLD:
        if getattr(seen, field):
            changes[field] = getattr(seen, field)
    if seen.mounts is not None:
        changes["mounts"] = seen.mounts
    if "port_bindings" in changes:
        changes["port_ranges"] = container.port_ranges | _published_ranges(container, seen.port_bindings)
    return changes


def _published_ranges(container: Container, bindings: Iterable[PortBinding]) -> dict[str, str]:
    """Host port ranges as Docker tells them: a container that was adopted after a crash has no others."""
    host_ports = {(b.container_port, b.protocol): b.host_port for b in bindings}
    found = {}
    for mapping in container.port_mappings:
        first, _, last = mapping.container_port_range.partition("-")
        host_port = host_ports.get((int(first), mapping.protocol)) if first.isdigit() and last.isdigit() else None
        if host_port:
            found[mapping.container_port_range] = f"{host_port}-{host_port + int(last) - int(first)}"
    return found


def health(turn: Turn, name: str, report: HealthReport | None) -> None:
    """Take over the state of Docker's health check, if it has changed (spec 03 §8.4)."""
    container = turn.container(name)
    if report is None or container.health_check_type != "docker" or report.status == container.health.status:
        return
    exit_code = container.health.exit_code if report.exit_code is None else report.exit_code
    now = Health(status=report.status, since=turn.around.now, output=report.output, exit_code=exit_code)
    turn.change_container(name, health=now)
    turn.say(f"{name}: health is {report.status.value}")
