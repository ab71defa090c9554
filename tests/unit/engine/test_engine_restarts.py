"""The restart policy of containers, and what the engine makes of its tasks after it was away."""

import pytest

from common.errors import NamedError
from common.model.messages import ContainerChanged, TaskChanged
from common.model.status import ContainerStatus as C
from common.model.status import HealthStatus
from common.model.status import ResourceStatus as R
from common.model.status import TaskStatus as T
from common.model.task import Container, PortBinding, PortMapping, Resource, RestartPolicy
from services.engine.core.effects import Action, HealthReport, Observation, Outcome
from services.engine.core.reconcile import restored, to_inspect
from services.engine.core.turn import Surroundings

LATER = "2027-01-15T09:00:00Z"


def policy(period=60, ignored=(0,)):
    """One essential container with a restart policy."""
    rules = RestartPolicy(enabled=True, restart_attempt_period_seconds=period, ignored_exit_codes=ignored)
    return Container(name="app", image="busybox", essential=True, restart_policy=rules)


def test_an_exit_is_answered_by_a_start_and_not_reported(brain, seen):
    """Conformance case 51: count 1, no event; the next exit within the period is final."""
    it = brain(policy())
    it.run()
    (effect,) = it.event("die", seen=seen.exited(1))
    assert (effect.action, it.container().restart_count) == (Action.START, 1)
    it.ends(Action.START, observation=seen.running())
    assert it.reports() == [("RUNNING", "")]
    it.now += 30
    assert it.event("die", seen=seen.exited(1, LATER)) == []
    assert it.reports() == [("RUNNING", ""), ("STOPPED", "")]


def test_an_ignored_exit_code_is_final(brain, seen):
    """Conformance case 52."""
    it = brain(policy())
    it.run()
    it.event("die", seen=seen.exited(0))
    assert (it.container().known, it.container().exit_code) == (C.STOPPED, 0)


def test_a_task_that_shall_stop_is_not_restarted(brain, seen):
    """Conformance case 53."""
    it = brain(policy())
    it.run()
    it.stop()
    it.event("die", seen=seen.exited(137))
    assert it.container().known == C.STOPPED
    assert it.container().restart_count == 0


def test_a_restart_that_fails_reports_the_exit_without_reason(brain, seen):
    """Conformance case 54: the exit code is that of the die event, the start error is not recorded."""
    it = brain(policy())
    it.run()
    it.event("die", seen=seen.exited(100))
    it.ends(Action.START, error="CannotStartContainerError: no", observation=seen.exited(128))
    report = it.container_reports()[-1]
    assert (report.status, report.exit_code, report.reason) == (C.STOPPED, 100, "")
    assert it.container().restart_count == 1


def test_a_restart_that_fails_reports_the_reason_of_the_exit(brain, seen):
    """Spec 03 §7: the exit is handled as it would have been without a policy."""
    killed = NamedError("OutOfMemoryError", "Container killed due to memory usage")
    it = brain(policy())
    it.run()
    it.event("die", seen=seen.exited(137, error=killed))
    it.ends(Action.START, error="CannotStartContainerError: no", observation=seen.exited(128))
    report = it.container_reports()[-1]
    assert (report.status, report.exit_code, report.reason) == (C.STOPPED, 137, str(killed))


def test_a_restart_whose_process_may_run_is_reported_only_when_it_is_gone(brain, seen):
    """As after a first start: STOPPED means that the init process has ended (issue: better than the reference)."""
    it = brain(policy())
    it.run()
    it.event("die", seen=seen.exited(1))
    text = "DockerTimeoutError: Could not transition to started; timed out after waiting 3m0s"
    (stop,) = it.ends(Action.START, error=text)
    assert (stop.action, it.container().known, it.reports()) == (Action.STOP, C.RUNNING, [("RUNNING", "")])
    it.ends(Action.STOP, observation=seen.exited(137, LATER))
    assert it.reports() == [("RUNNING", ""), ("STOPPED", "")]
    assert it.container_reports()[-1].exit_code == 137


def test_the_stop_event_behind_a_restarted_die_is_stale(brain, seen):
    """`docker stop` yields die and stop; the second tells of the exit that the restart has answered."""
    it = brain(policy(period=0))
    it.run()
    it.event("die", seen=seen.exited(143))
    assert it.event("stop", seen=seen.exited(143)) == []
    it.ends(Action.START, observation=seen.running())
    assert it.event("stop", seen=seen.running()) == []
    assert it.event("stop", at=it.now - 1) == []
    assert (it.container().known, it.container().restart_count) == (C.RUNNING, 1)


def test_a_stop_event_is_stale_though_nobody_could_tell_when_the_answered_exit_was(brain, seen):
    """The inspect behind the die had timed out; the one behind the stop still shows the old exit (spec 03 §7)."""
    it = brain(policy())
    it.run()
    it.now += 100
    (effect,) = it.event("die", exit_code=143, at=it.now - 2)
    assert effect.action == Action.START
    assert it.event("stop", seen=seen.exited(143), at=it.now - 1) == []
    assert it.ends(Action.START, observation=seen.running()) == []
    assert (it.reports(), it.container().known) == ([("RUNNING", "")], C.RUNNING)


def test_a_new_exit_after_a_restart_is_no_stale_one(brain, seen):
    """Its finish time differs."""
    it = brain(policy(period=0))
    it.run()
    it.event("die", seen=seen.exited(1))
    it.ends(Action.START, observation=seen.running())
    it.event("die", seen=seen.exited(1, LATER))
    assert it.container().restart_count == 2


def test_a_stop_during_a_restart_waits_for_it(brain, seen):
    """Then the container is stopped like any other."""
    it = brain(policy())
    it.run()
    it.event("die", seen=seen.exited(1))
    assert it.stop() == []
    assert [e.action for e in it.ends(Action.START, observation=seen.running())] == [Action.STOP]


# -- after the engine was away ---------------------------------------------------------------------


def back(it, **answers):
    """The engine starts again and asks Docker; returns the decision."""
    names = {e.target for e in to_inspect(it.task)}
    assert names == set(answers)
    outcomes = {
        name: Outcome(action=Action.INSPECT, target=name, observation=seen, gone=seen is None)
        for name, seen in answers.items()
    }
    return restored(it.task, outcomes, Surroundings(now=it.now))


def test_a_container_that_runs_is_taken_up_silently(brain, seen):
    """Conformance case 55."""
    it = brain()
    it.run()
    decision = back(it, app=seen.running())
    assert (decision.events, decision.effects) == ((), ())
    assert decision.task.known == T.RUNNING


def test_a_container_that_is_gone_has_vanished(brain):
    """Conformance case 56: no exit code."""
    it = brain()
    it.run()
    decision = back(it, app=None)
    event = decision.events[0]
    assert (event.status, event.exit_code) == (C.STOPPED, None)
    assert event.reason == "ContainerVanishedError: No container matching saved ID found"


def test_a_container_known_by_name_only_is_not_created_again(brain, seen):
    """Conformance case 57; found by its name, it gets its id and is started."""
    it = brain()
    it.ends(Action.RESOLVE_MANIFEST)
    it.ends(Action.PULL)
    assert it.container().docker_name == "ecs-web-7-app-0e000000000000000000"
    decision = back(it, app=Observation(docker_id="d9", status=C.CREATED))
    assert [e.action for e in decision.effects] == [Action.START]
    assert decision.task.containers[0].docker_id == "d9"


def test_a_process_that_came_and_went_while_away_was_running(brain, seen):
    """Its start was asked for, and its end is all that is left to see; ECS hears of both."""
    it = brain()
    it.ends(Action.RESOLVE_MANIFEST)
    it.ends(Action.PULL)
    it.ends(Action.CREATE, observation=Observation(docker_id="id-app", status=C.CREATED))
    decision = back(it, app=seen.exited(3))
    assert [e.status for e in decision.events if isinstance(e, TaskChanged)] == [T.RUNNING, T.STOPPED]


def test_a_health_that_did_not_change_while_away_keeps_its_time(brain, altered, seen):
    """It is what Docker says of the same process before and after."""
    it = brain(Container(name="app", image="img", essential=True, health_check_type="docker"))
    it.run()
    healthy = altered(seen.running(), health=HealthReport(status=HealthStatus.HEALTHY, output="", exit_code=0))
    it.event("health_status: healthy", seen=healthy)
    since = it.container().health.since
    it.now += 1000
    assert back(it, app=healthy).task.containers[0].health.since == since > 0


def test_port_ranges_of_an_adopted_container_are_those_that_docker_tells(brain, altered, seen):
    """The create call's answer was lost with the engine, and with it the ranges that the request had."""
    mapping = PortMapping(container_port_range="7000-7002")
    it = brain(Container(name="app", image="img", essential=True, port_mappings=(mapping,)))
    it.ends(Action.RESOLVE_MANIFEST)
    it.ends(Action.PULL)
    ports = [PortBinding(container_port=7000 + n, host_port=40000 + n, bind_ip="0.0.0.0") for n in range(3)]
    running = altered(seen.running(), port_bindings=tuple(ports))
    answer = Outcome(action=Action.INSPECT, target="app", observation=running)
    decision = restored(it.task, {"app": answer}, Surroundings(now=it.now))
    report = next(e for e in decision.events if isinstance(e, ContainerChanged))
    assert (report.status, report.port_ranges) == (C.RUNNING, {"7000-7002": "40000-40002"})


def test_a_container_that_was_never_created_is_created_with_the_saved_name(brain):
    """Docker does not know the name: the create call never reached it."""
    it = brain()
    it.ends(Action.RESOLVE_MANIFEST)
    it.ends(Action.PULL)
    decision = back(it, app=None)
    assert [e.action for e in decision.effects] == [Action.CREATE]
    assert decision.task.containers[0].docker_name == it.container().docker_name


def test_an_exit_while_away_is_reported_with_its_code(brain, seen):
    """As if it had been seen live."""
    it = brain()
    it.run()
    decision = back(it, app=seen.exited(3))
    assert [(e.status.name) for e in decision.events] == ["STOPPED", "STOPPED"]
    assert decision.events[0].exit_code == 3


def test_an_exit_while_away_is_answered_by_the_restart_policy(brain, seen):
    """The reference marks it STOPPED; the policy holds all the same."""
    it = brain(policy())
    it.run()
    decision = back(it, app=seen.exited(1))
    assert [e.action for e in decision.effects] == [Action.START]
    assert decision.events == ()


def test_a_restart_that_was_cut_off_is_done_again_without_counting(brain, seen):
    """The count was saved before the start call that never came."""
    it = brain(policy())
    it.run()
    it.event("die", seen=seen.exited(1))
    decision = back(it, app=seen.exited(1))
    assert [e.action for e in decision.effects] == [Action.START]
    assert decision.task.containers[0].restart_count == 1


@pytest.mark.parametrize("cut_off", [False, True])
def test_an_exit_by_a_restart_of_the_machine_is_reported(brain, seen, cut_off):
    """What was prepared for the container on the host is gone; as under the reference ECS decides what follows."""
    it = brain(policy())
    it.run()
    if cut_off:
        it.event("die", seen=seen.exited(137))
    outcome = Outcome(action=Action.INSPECT, target="app", observation=seen.exited(137))
    decision = restored(it.task, {"app": outcome}, Surroundings(now=it.now, boot="another"))
    assert decision.effects == ()
    assert [(e.status.name, getattr(e, "exit_code", None)) for e in decision.events] == [
        ("STOPPED", 137), ("STOPPED", None),
    ]  # fmt: skip
    for boot in ("boot-1", ""):
        same = restored(it.task, {"app": outcome}, Surroundings(now=it.now, boot=boot))
        assert [e.action for e in same.effects] == [Action.START]


def test_a_running_container_with_a_stale_error_is_not_stopped(brain, altered, seen):
    """W4: OOMKilled of a child process says nothing about the container."""
    it = brain()
    it.run()
    error = NamedError("OutOfMemoryError", "Container killed due to memory usage")
    decision = back(it, app=altered(seen.running(), error=error))
    assert decision.task.containers[0].known == C.RUNNING
    assert decision.task.containers[0].error is None


def test_secrets_are_fetched_again(brain, altered):
    """Conformance case 58: their values are in memory only."""
    it = brain()
    secret = Resource(kind="ssmsecret", name="ssmsecret", known=R.CREATED, desired=R.CREATED)
    it.task = altered(it.task, resources=(secret,))
    decision = back(it)
    assert Action.CREATE_RESOURCE in [e.action for e in decision.effects]


def test_a_stop_that_was_cut_off_is_made_up_for(brain, seen):
    """The start had timed out, the forced stop never reached Docker: the process runs, and ECS hears just that."""
    it = brain()
    it.ends(Action.RESOLVE_MANIFEST)
    it.ends(Action.PULL)
    it.ends(Action.CREATE, observation=Observation(docker_id="d"))
    it.ends(Action.START, error="DockerTimeoutError: Could not transition to started; timed out after waiting 3m0s")
    decision = back(it, app=seen.running())
    assert [e.action for e in decision.effects] == [Action.STOP]
    assert [e.status for e in decision.events if isinstance(e, TaskChanged)] == [T.RUNNING]
