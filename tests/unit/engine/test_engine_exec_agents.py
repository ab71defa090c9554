"""ECS Exec's agent beside a container: what ECS hears of it, and when it is looked at (spec 05 §12)."""

import uuid

import pytest
from msgspec.structs import replace

from common.model.messages import ManagedAgentChanged
from common.model.status import ContainerStatus
from common.model.task import Container, ManagedAgent, RestartPolicy
from services.engine.core.agents import (
    CHECK_JITTER_SECONDS,
    CHECK_SECONDS,
    EXEC_AGENT,
    FIRST_START_SECONDS,
    agent_of,
)
from services.engine.core.effects import Action, Observation, Outcome
from services.engine.core.reconcile import restored
from services.engine.core.turn import Surroundings

AGENT = ManagedAgent(name=EXEC_AGENT)
APP = Container(name="app", image="i", essential=True, managed_agents=(AGENT,))


def told(it):
    """What ECS hears: (status, reason)."""
    return [(e.status, e.reason) for e in it.events if isinstance(e, ManagedAgentChanged)]


def agent(it):
    """As it is kept."""
    return agent_of(it.container())


@pytest.fixture
def it(brain):
    """A task whose container runs."""
    it = brain(APP)
    it.run()
    return it


def started(it, **more):
    """The agent runs."""
    return replace(agent(it), **{"status": "RUNNING", "started_at": 1.0, "exec_id": "e", **more})


def test_the_id_is_chosen_before_the_container_is_created(brain):
    """Its binds carry it, and a crash must not lose it."""
    it = brain(APP)
    it.ends(Action.RESOLVE_MANIFEST)
    assert [e.action for e in it.ends(Action.PULL)] == [Action.CREATE]
    assert str(uuid.UUID(agent(it).id)) == agent(it).id


def test_the_agent_is_started_with_its_container_and_stops_with_it(it, seen):
    """RUNNING and STOPPED, once each, with the reference's reasons."""
    assert [e.action for e in it.effects].count(Action.START_AGENT) == 1
    it.ends(Action.START_AGENT, agent=started(it))
    assert agent(it).status == "RUNNING"
    it.event("die", seen=seen.exited(0))
    assert told(it) == [
        ("RUNNING", "ExecuteCommandAgent started"),
        ("STOPPED", "Received Container Stopped event"),
    ]
    it.ends(Action.START_AGENT, agent=started(it))
    assert len(told(it)) == 2


def test_a_container_runs_without_an_agent_that_cannot_be_had(brain, seen):
    """Conformance case R46: no start attempt; the end of the container is told of its agent all the same."""
    it = brain(APP)
    it.ends(Action.RESOLVE_MANIFEST)
    it.ends(Action.PULL)
    failed = replace(agent(it), init_failed=True, status="STOPPED", reason="could not find certs")
    it.ends(Action.CREATE, observation=Observation(docker_id="id-app"), agent=failed)
    it.ends(Action.START, observation=seen.running())
    it.event("die", seen=seen.exited(0))
    assert told(it) == [
        ("STOPPED", "ExecuteCommandAgent Initialization failed - could not find certs"),
        ("STOPPED", "Received Container Stopped event"),
    ]
    assert Action.START_AGENT not in [e.action for e in it.effects]
    assert [status for status, _ in it.reports()] == ["RUNNING", "STOPPED"]


def news(it, since=0):
    """What ECS hears, in order."""
    return [f"{type(e).__name__} {getattr(e.status, 'name', e.status)}" for e in it.events[since:]]


def test_ecs_hears_that_a_container_runs_together_with_its_agent(it):
    """The agent's start is part of the container's (spec 05 §12.4), so one call tells of both."""
    assert news(it) == []
    it.ends(Action.START_AGENT, agent=started(it))
    assert sorted(news(it)) == ["ContainerChanged RUNNING", "ManagedAgentChanged RUNNING", "TaskChanged RUNNING"]
    assert news(it)[-1] == "TaskChanged RUNNING"


def test_a_start_of_the_agent_that_takes_long_holds_up_nothing_but_itself(it):
    """A Docker that hangs must not keep ECS from hearing that the task runs."""
    assert it.wake_at == it.now + FIRST_START_SECONDS
    it.now = it.wake_at
    it.send()
    assert news(it) == ["ContainerChanged RUNNING", "TaskChanged RUNNING"]
    it.ends(Action.START_AGENT, agent=started(it))
    assert news(it, 2) == ["ManagedAgentChanged RUNNING"]


def test_a_container_that_ends_before_its_agent_has_begun_was_running(it, seen):
    """Its start is told first, and the task's."""
    it.event("die", seen=seen.exited(3))
    assert news(it) == [
        "ContainerChanged RUNNING",
        "ManagedAgentChanged STOPPED",
        "TaskChanged RUNNING",
        "ContainerChanged STOPPED",
        "TaskChanged STOPPED",
    ]


def test_an_engine_that_ends_while_the_agent_starts_tells_of_both_later(it, seen):
    """Nothing was told, so both are told by the next one, which starts the agent once."""
    answers = {"app": Outcome(action=Action.INSPECT, target="app", observation=seen.running())}
    for known in (it.container().known, ContainerStatus.CREATED):
        task = replace(it.task, containers=(replace(it.container(), known=known),))
        decision = restored(task, answers, Surroundings(now=it.now + 60))
        assert [e.action for e in decision.effects] == [Action.START_AGENT]
        assert decision.events == ()
    it.task, it.effects = decision.task, list(decision.effects)
    it.ends(Action.START_AGENT, agent=started(it))
    assert len(news(it)) == 3


def test_an_agent_that_cannot_start_leaves_the_container_alone(it):
    """Conformance case R47."""
    text = "ExecuteCommandAgent process exited with exit code: 1"
    it.ends(Action.START_AGENT, agent=replace(agent(it), status="STOPPED", reason=text))
    assert told(it) == [("STOPPED", text)]
    assert it.reports() == [("RUNNING", "")]
    it.now += 2 * CHECK_SECONDS
    assert it.send() == []


def test_the_end_of_a_container_is_told_of_an_agent_that_had_failed_before(it, seen):
    """The reference tells it of every container with an agent that stops (spec 02 §8.6, 03 §2.6)."""
    it.ends(Action.START_AGENT, agent=replace(agent(it), status="STOPPED", reason="no"))
    it.event("die", seen=seen.exited(0))
    assert told(it) == [("STOPPED", "no"), ("STOPPED", "Received Container Stopped event")]


@pytest.mark.parametrize(
    ("status", "reason"),
    [("RUNNING", "ExecuteCommandAgent restarted"), ("STOPPED", "ExecuteCommandAgent cannot be restarted")],
)
def test_a_dead_agent_is_noticed_within_the_round(it, status, reason):
    """Conformance case R49: looked at after 15 to 22.5 minutes; one that cannot be restarted is given up."""
    it.ends(Action.START_AGENT, agent=started(it))
    assert 0 <= it.wake_at - it.now - CHECK_SECONDS <= CHECK_JITTER_SECONDS
    assert it.send() == []
    it.now = it.wake_at
    assert [e.action for e in it.send()] == [Action.CHECK_AGENT]
    it.ends(Action.CHECK_AGENT)  # it runs
    assert len(told(it)) == 1
    it.now = it.wake_at
    it.send()
    it.ends(Action.CHECK_AGENT, agent=replace(started(it), status=status, next_check_at=0.0))
    assert told(it)[-1] == (status, reason)
    it.now += 2 * CHECK_SECONDS
    assert [e.action for e in it.send()] == ([Action.CHECK_AGENT] if status == "RUNNING" else [])


def test_a_restart_by_policy_starts_the_agent_again(brain, seen):
    """The exec died with the process; ECS hears RUNNING once more."""
    it = brain(replace(APP, restart_policy=RestartPolicy(enabled=True)))
    it.run()
    it.ends(Action.START_AGENT, agent=started(it))
    it.event("die", seen=seen.exited(1))
    effects = it.ends(Action.START, observation=seen.running(started_at="2026-06-01T12:00:00Z"))
    assert [e.action for e in effects] == [Action.START_AGENT]
    it.ends(Action.START_AGENT, agent=started(it, process_id=9))
    assert told(it) == [("RUNNING", "ExecuteCommandAgent started")] * 2


@pytest.mark.parametrize("first", ["RUNNING", "STOPPED"])
def test_starts_of_the_agent_never_overlap(brain, seen, first):
    """The process ended while the agent was started in it: the next start waits, a failure of the first is not told."""
    it = brain(replace(APP, restart_policy=RestartPolicy(enabled=True)))
    it.run()
    late = started(it, exec_id="late")
    it.event("die", seen=seen.exited(1))
    assert it.ends(Action.START, observation=seen.running(started_at="2026-06-01T12:00:00Z")) == []
    late = late if first == "RUNNING" else replace(late, status="STOPPED", reason="no such process", exec_id="")
    assert [e.action for e in it.ends(Action.START_AGENT, agent=late)] == [Action.START_AGENT]
    assert agent(it).exec_id == ("late" if first == "RUNNING" else ""), (
        "the next start asks Docker whether this one runs"
    )
    assert it.ends(Action.START_AGENT, agent=None if first == "RUNNING" else started(it, exec_id="next")) == []
    assert told(it) == [("RUNNING", "ExecuteCommandAgent started")]
    assert (agent(it).status, agent(it).starting) == ("RUNNING", None)


def test_a_start_that_was_cut_off_by_a_crash_is_made_up_for(it, seen):
    """And an agent that runs is left to its next check."""
    around = Surroundings(now=it.now)
    answers = {"app": Outcome(action=Action.INSPECT, target="app", observation=seen.running())}
    assert [e.action for e in restored(it.task, answers, around).effects] == [Action.START_AGENT]
    it.ends(Action.START_AGENT, agent=started(it))
    assert restored(it.task, answers, around).effects == ()


def test_a_task_that_never_ran_has_its_agent_reported_stopped(brain):
    """As the reference does for each container that stops."""
    it = brain(APP)
    it.stop()
    assert told(it) == [("STOPPED", "Received Container Stopped event")]
