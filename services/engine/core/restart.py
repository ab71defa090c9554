"""The restart policy of a container: whether an exit is answered by a start of the same Docker container.

Nothing of an answered exit is reported; only the count shows in the metadata (ECS agent behaviour, spec 03 §7).
"""

from __future__ import annotations

from common.model.status import ContainerStatus
from common.model.task import Container
from services.engine.core.effects import Observation
from services.engine.core.times import is_never, unix_seconds


def has_policy(container: Container) -> bool:
    """True when the task definition enables the policy."""
    return container.restart_policy is not None and container.restart_policy.enabled


def refusal(container: Container, exit_code: int | None, now: float) -> str:
    """Why this exit is final; empty when the container shall be started again. `now` in Unix seconds."""
    policy = container.restart_policy
    if policy is None or not policy.enabled:
        return "restart policy is not enabled"
    if container.desired == ContainerStatus.STOPPED:
        return "container's desired status is stopped"
    if exit_code is None:
        return "exit code is nil"
    if exit_code in policy.ignored_exit_codes:
        return f"exit code {exit_code} should be ignored"
    since = container.last_restart_at or unix_seconds(container.started_at)
    if now - since < policy.restart_attempt_period_seconds:
        return "attempt reset period has not elapsed"
    return ""


def is_of_an_earlier_boot(container: Container, boot: str) -> bool:
    """True when the machine has been started anew since the container was.

    What was prepared for the container on the host (the task's cgroup with its limits, mounts) is gone then, and the
    instance may have been away for long: its end is reported, as the reference reports it, and ECS decides.
    """
    return bool(container.boot and boot) and container.boot != boot


def is_stale(container: Container, seen: Observation | None, at: float) -> bool:
    """True when a stop tells of an exit that a restart has already answered.

    `docker stop` yields die and stop; the inspect behind the second may still show the first exit, or the process
    that the restart has brought up meanwhile. `at` is the event's own time, 0 = unknown; a new exit is later than the
    restart before it.
    """
    if not container.last_restart_at:
        return False
    if at and at < container.last_restart_at:
        return True
    if seen is not None and seen.running:
        return True
    if seen is None or is_never(seen.finished_at):
        return False
    return seen.finished_at == container.restarted_exit


def was_interrupted(container: Container, seen: Observation) -> bool:
    """True when the agent ended between the decision to restart and Docker's start of the container."""
    return (
        container.known.is_running
        and container.applied == ContainerStatus.RUNNING
        and bool(container.restarted_exit)
        and seen.finished_at == container.restarted_exit
        and not seen.running
    )
