"""Processes of which it is not known whether they run: a stop makes sure, and is not forgotten."""

import pytest
from msgspec.structs import replace

from common.errors import NamedError
from common.model.status import ContainerStatus as C
from common.model.status import TaskStatus as T
from common.model.task import Container, RestartPolicy
from services.engine.core.effects import Action, Observation, Outcome
from services.engine.core.reconcile import restored, to_inspect
from services.engine.core.turn import Surroundings, must_save

NO_ADDRESS = "CannotStartContainerError: Bridge IP not available to use for firelens"
SILENT = NamedError("CannotInspectContainerError", "Error response from daemon: layer does not exist")


def created(it):
    """Bring `app` to the call of its start."""
    it.ends(Action.RESOLVE_MANIFEST)
    it.ends(Action.PULL)
    it.ends(Action.CREATE, observation=Observation(docker_id="d"))


def test_a_start_event_that_cannot_be_looked_into_still_tells_of_the_start(brain):
    """The daemon said that the process began; that a look at it failed is no reason to kill it."""
    it = brain()
    created(it)
    assert it.event("start", error=NamedError("CannotInspectContainerError", "deadline exceeded")) == []
    assert (it.container().known, it.container().desired, it.container().error) == (C.RUNNING, C.RUNNING, None)
    assert it.reports() == [("RUNNING", "")]


def test_a_start_that_failed_is_stopped_when_the_process_is_seen_running(brain, seen):
    """Whatever the error is called, and although no start event came (trap 7)."""
    it = brain()
    created(it)
    assert [e.action for e in it.ends(Action.START, error=NO_ADDRESS, observation=seen.running())] == [Action.STOP]
    assert it.container_reports() == []
    it.ends(Action.STOP, observation=seen.exited(137))
    assert [r.status for r in it.container_reports()] == [C.STOPPED]


def test_a_restart_that_failed_is_stopped_when_the_process_is_seen_running(brain, seen):
    """The same for the restart policy."""
    policy = RestartPolicy(enabled=True, restart_attempt_period_seconds=0)
    it = brain(Container(name="app", image="busybox", essential=True, restart_policy=policy))
    it.run()
    it.event("die", seen=seen.exited(1))
    assert Action.STOP in [e.action for e in it.ends(Action.START, error=NO_ADDRESS, observation=seen.running())]


# -- effects that were not wanted any more when their turn came ------------------------------------


def test_a_start_that_was_left_ends_the_container_without_docker(brain):
    """STOPPED without error: nothing was started, nothing has failed."""
    it = brain()
    created(it)
    assert it.stop() == []
    assert it.ends(Action.START, skipped=True) == []
    (report,) = it.container_reports()
    assert (report.status, report.exit_code, report.reason) == (C.STOPPED, None, "")
    assert it.reports() == [("STOPPED", "")]


def test_a_restart_that_was_left_still_ends_in_a_stop(brain, seen):
    """The exit that it would have answered is the end of the container."""
    policy = RestartPolicy(enabled=True, restart_attempt_period_seconds=0)
    it = brain(Container(name="app", image="busybox", essential=True, restart_policy=policy))
    it.run()
    it.event("die", seen=seen.exited(3))
    it.stop()
    assert [e.action for e in it.ends(Action.START, skipped=True)] == [Action.STOP]
    it.ends(Action.STOP, observation=seen.exited(3))
    assert (it.container_reports()[-1].status, it.container_reports()[-1].exit_code) == (C.STOPPED, 3)


@pytest.mark.parametrize("action", [Action.PULL, Action.CREATE])
def test_a_step_that_was_left_changes_nothing_of_a_stopped_container(brain, action):
    """No image, no id, no error; nothing is announced twice."""
    it = brain()
    it.ends(Action.RESOLVE_MANIFEST)
    if action is Action.CREATE:
        it.ends(Action.PULL)
    it.stop()
    before = it.container()
    assert (before.known, it.ends(action, skipped=True)) == (C.STOPPED, [])
    assert it.container() == replace(before, applied=C.NONE)
    assert it.reports() == [("STOPPED", "")]


# -- after the engine was away ---------------------------------------------------------------------


def back(it, **told):
    """The engine starts again; what each container's inspect tells is given by name."""
    assert {e.target for e in to_inspect(it.task)} == set(told)
    answers = {name: Outcome(action=Action.INSPECT, target=name, **answer) for name, answer in told.items()}
    return restored(it.task, answers, Surroundings(now=it.now))


def test_a_container_of_which_docker_does_not_tell_stays_as_it_was(brain):
    """No answer is no finding; the task goes on, and later looks will tell."""
    it = brain()
    it.run()
    decision = back(it, app={"error": SILENT})
    assert (decision.effects, decision.events, decision.task.known) == ((), (), T.RUNNING)


def test_a_start_that_was_cut_off_and_is_not_told_of_is_stopped(brain, seen):
    """STOPPED without a stop might leave a process that nobody knows of."""
    it = brain()
    created(it)
    decision = back(it, app={"error": SILENT})
    assert [e.action for e in decision.effects] == [Action.STOP]
    it.task, it.effects = decision.task, list(decision.effects)
    assert it.stop() == [], "one stop is under way"
    it.ends(Action.STOP, observation=seen.exited(137))
    (report,) = it.container_reports()
    assert (report.status, report.exit_code, report.reason) == (C.STOPPED, 137, str(SILENT))


def test_the_stop_of_a_container_that_was_started_again_is_not_forgotten(brain, seen):
    """The decision is saved before the call, and the next life of the engine looks whether the call was made."""
    it = brain()
    it.run()
    it.event("die", seen=seen.exited(0))
    before = it.task
    assert to_inspect(before) == (), "a restart with many stopped tasks costs no look at each"
    effects = it.event("start", seen=seen.running(started_at="2026-06-01T12:00:00Z"))
    assert [e.action for e in effects] == [Action.STOP]
    decision = back(it, app={"observation": seen.running(started_at="2026-06-01T12:00:00Z")})
    assert [e.action for e in decision.effects] == [Action.STOP]
    assert must_save(before, replace(decision, events=()))
