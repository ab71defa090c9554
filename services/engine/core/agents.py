"""ECS Exec: the managed agent that runs beside a container's process (ECS agent behaviour, spec 05 §12).

The agent's id is chosen and saved before the container is created, because its binds carry it. The agent is started
after each start of the container and looked at every quarter of an hour; what becomes of it is told to ECS and never
stops the container. ECS hears that a container runs together with what became of its agent's first start, for which
it is held back a little; `next_check_at` is the end of that time until there is a status.
"""

from __future__ import annotations

import uuid

from msgspec.structs import replace

from common.model.messages import ManagedAgentChanged
from common.model.status import ContainerStatus
from common.model.task import Container, ManagedAgent
from services.engine.core.effects import Action, Effect, Outcome
from services.engine.core.turn import Turn

EXEC_AGENT = "ExecuteCommandAgent"
RUNNING, STOPPED = "RUNNING", "STOPPED"
CHECK_SECONDS, CHECK_JITTER_SECONDS = 900.0, 450.0
FIRST_START_SECONDS = 15.0  # five attempts with their pauses take about ten
STOPPED_REASON = "Received Container Stopped event"


def agent_of(container: Container) -> ManagedAgent | None:
    """The container's ECS Exec agent, if the task has one for it."""
    return next((a for a in container.managed_agents if a.name == EXEC_AGENT), None)


def named(container: Container, turn: Turn) -> tuple[ManagedAgent, ...]:
    """The container's agents as they must be saved before the container is created."""
    number = (turn.around.new_number() << 64) | turn.around.new_number()
    return tuple(
        replace(a, id=str(uuid.UUID(int=number & (2**128 - 1), version=4))) if a.name == EXEC_AGENT and not a.id else a
        for a in container.managed_agents
    )


def created(turn: Turn, name: str, found: ManagedAgent | None) -> None:
    """The container was created; `found` tells that it had to be without the agent's files."""
    if found is not None and found.init_failed:
        _keep(turn, name, found)
        _tell(turn, name, STOPPED, f"{EXEC_AGENT} Initialization failed - {found.reason}")


def container_runs(turn: Turn, name: str) -> None:
    """The container's process has begun: so shall the agent."""
    container = turn.container(name)
    agent = agent_of(container)
    if agent is None or not agent.id or agent.init_failed or agent.starting is not None:
        return  # a start under way tells when it is over that it was for an earlier process
    if not agent.status and container.emitted < ContainerStatus.RUNNING:
        agent = replace(agent, next_check_at=turn.around.now + FIRST_START_SECONDS)
    _keep(turn, name, replace(agent, starting=container.restart_count))
    turn.do(Action.START_AGENT, name, "the container runs")


def is_awaited(container: Container) -> bool:
    """Whether what becomes of the agent's first start is still to be told together with the container's."""
    agent = agent_of(container)
    return agent is not None and not agent.status and agent.next_check_at > 0


def taken_up(turn: Turn, name: str) -> None:
    """After a restart of the engine: an agent whose start was cut off is started."""
    container = turn.container(name)
    agent = agent_of(container)
    starts = any((e.action, e.target) == (Action.START_AGENT, name) for e in turn.effects)
    if agent is None or container.known != ContainerStatus.RUNNING or starts:
        return
    if not agent.status or agent.starting is not None:
        _keep(turn, name, replace(agent, starting=None))
        container_runs(turn, name)


def container_stopped(turn: Turn, name: str) -> None:
    """The agent is gone with its container: told of every one, also of one that had failed before (spec 02 §8.6)."""
    agent = agent_of(turn.container(name))
    if agent is not None:
        _keep(turn, name, replace(agent, status=STOPPED, reason=STOPPED_REASON))
        _tell(turn, name, STOPPED, STOPPED_REASON)


def watch(turn: Turn) -> None:
    """Look at the agents whose time has come, and wake for the next."""
    for container in turn.task.containers:
        agent = agent_of(container)
        if agent is None or not agent.next_check_at or container.known != ContainerStatus.RUNNING:
            continue
        if turn.around.now < agent.next_check_at:
            turn.wake(agent.next_check_at)
        elif not agent.status:
            turn.say(f"{container.name}: the start of its {EXEC_AGENT} takes long; ECS hears of it later")
            _keep(turn, container.name, replace(agent, next_check_at=0.0))
        else:
            agent = replace(agent, next_check_at=_next_check(turn))
            _keep(turn, container.name, agent)
            turn.do(Action.CHECK_AGENT, container.name, "does the ECS Exec agent still run?")
            turn.wake(agent.next_check_at)


def told(turn: Turn, effect: Effect, outcome: Outcome) -> None:
    """What became of a start or a check; no agent in the outcome means that nothing has changed."""
    name, found, container = effect.target, outcome.agent, turn.container(effect.target)
    agent, is_late = agent_of(container), False
    if agent is None:
        return
    if effect.action is Action.START_AGENT:
        is_late = agent.starting not in (None, container.restart_count)
        agent = replace(agent, starting=None)
        _keep(turn, name, agent)
    if container.known != ContainerStatus.RUNNING:
        return
    if found is not None and not (is_late and found.status == STOPPED):
        _take(turn, effect, replace(found, starting=agent.starting))
    if is_late:
        container_runs(turn, name)


def _take(turn: Turn, effect: Effect, found: ManagedAgent) -> None:
    name, runs = effect.target, found.status == RUNNING
    _keep(turn, name, replace(found, next_check_at=_next_check(turn) if runs else 0.0))
    if effect.action is Action.CHECK_AGENT:
        reason = f"{EXEC_AGENT} {'restarted' if runs else 'cannot be restarted'}"
    else:
        reason = f"{EXEC_AGENT} started" if runs else found.reason
    _tell(turn, name, found.status, reason)


def _next_check(turn: Turn) -> float:
    return turn.around.now + CHECK_SECONDS + turn.around.new_number() % 1000 / 1000 * CHECK_JITTER_SECONDS


def _keep(turn: Turn, name: str, agent: ManagedAgent) -> None:
    agents = tuple(agent if a.name == EXEC_AGENT else a for a in turn.container(name).managed_agents)
    turn.change_container(name, managed_agents=agents)


def _tell(turn: Turn, name: str, status: str, reason: str) -> None:
    turn.say(f"{name}: {EXEC_AGENT} is {status}: {reason}")
    turn.emit(
        ManagedAgentChanged(arn=turn.task.arn, container_name=name, name=EXEC_AGENT, status=status, reason=reason)
    )
