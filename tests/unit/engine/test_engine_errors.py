"""What failures do to container and task, row by row (spec 03 §2.6, §8.7 and the conformance cases)."""

import pytest

from common.errors import NamedError
from common.model.status import ContainerStatus as C
from common.model.status import TaskStatus as T
from common.model.task import Container, Dependency, RegistryAuth, Resource
from services.engine.core.effects import Action, Observation, Outcome

TIMEOUT = "DockerTimeoutError: Could not transition to started; timed out after waiting 3m0s"


def test_a_failed_pull_stops_the_task_when_cached_images_are_not_used(brain):
    """Conformance case 8: also for a non-essential container; task reason empty, no exit code."""
    extra = Container(name="extra", image="busybox")
    it = brain(Container(name="app", image="busybox", essential=True), extra, behavior="always")
    it.ends(Action.RESOLVE_MANIFEST, "extra")
    it.ends(Action.PULL, "extra", error="CannotPullContainerError: X")
    it.stop()
    (report,) = it.container_reports("extra")
    assert (report.status, report.exit_code, report.reason) == (C.STOPPED, None, "CannotPullContainerError: X")
    assert it.reports() == [("STOPPED", "")]


def test_the_first_error_is_the_one_that_is_reported(brain, seen):
    """Conformance case 9: a container that runs from the cache carries the manifest error, not the pull error."""
    it = brain()
    it.ends(Action.RESOLVE_MANIFEST, error="CannotPullImageManifestError: M")
    it.ends(Action.PULL, error="CannotPullContainerError: P")
    it.ends(Action.CREATE, observation=Observation(docker_id="d"))
    it.ends(Action.START, observation=seen.running())
    (report,) = it.container_reports()
    assert (report.status, report.reason) == (C.RUNNING, "CannotPullImageManifestError: M")


@pytest.mark.parametrize(
    ("error", "stops"),
    [
        (TIMEOUT, True),
        ("CannotInspectContainerError: x", True),
        ("CannotStartContainerError: unexpected EOF", True),
        ("CannotStartContainerError: Error response from daemon: executable file not found in $PATH: unknown", False),
    ],
)
def test_a_failed_start_is_stopped_only_if_the_process_may_run(brain, error, stops):
    """Conformance cases 10, 11, 12: known stays CREATED; STOPPED is reported when the stop has shown its effect."""
    it = brain()
    it.make()
    effects = it.ends(Action.START, error=error)
    assert [e.action for e in effects] == ([Action.STOP] if stops else [])
    if stops:
        assert (it.container().known, it.container_reports()) == (C.CREATED, [])
        it.ends(Action.STOP, observation=Observation(docker_id="id-app", status=C.CREATED))
    (report,) = it.container_reports()
    assert (report.status, report.runtime_id, report.exit_code, report.reason) == (C.STOPPED, "id-app", None, error)
    assert it.reports() == [("STOPPED", "")]


def test_a_failed_create_stops_the_container_without_runtime_id(brain):
    """Conformance case 72: known stays PULLED on the way, RUNNING is never reported."""
    it = brain()
    it.ends(Action.RESOLVE_MANIFEST)
    it.ends(Action.PULL)
    it.ends(Action.CREATE, error="HostConfigError: Unable to decode given host config: x")
    (report,) = it.container_reports()
    assert (report.status, report.runtime_id, report.exit_code) == (C.STOPPED, "", None)
    assert it.task.execution_stopped_at == it.now


@pytest.mark.parametrize("told", ["it runs", "nothing", "Docker is away"])
def test_a_stop_that_fails_is_repeated_until_the_process_is_gone(brain, seen, told):
    """The reference reports STOPPED here (case 13) and leaves the process alone; we do when it has ended."""
    it = brain()
    it.run()
    it.stop()
    found = seen.running() if told == "it runs" else None
    for _ in range(3):
        effects = it.ends(
            Action.STOP, error="CannotStopContainerError: permission denied", observation=found,
            docker_answers=told != "Docker is away",
        )  # fmt: skip
        assert [e.action for e in effects] == [Action.STOP]
        assert (it.container().known, it.container().desired) == (C.RUNNING, C.STOPPED)
    assert it.reports()[-1] == ("RUNNING", "")
    it.ends(Action.STOP, observation=seen.exited(137))
    last = it.container_reports()[-1]
    assert (last.exit_code, last.reason) == (137, "CannotStopContainerError: permission denied")
    assert it.reports()[-1] == ("STOPPED", "")


def test_a_stop_that_fails_counts_when_the_process_has_ended_all_the_same(brain, seen):
    """The inspect behind the failed call decides, not the call."""
    it = brain()
    it.run()
    it.stop()
    assert it.ends(Action.STOP, error="CannotStopContainerError: x", observation=seen.exited(1)) == []
    assert it.reports()[-1] == ("STOPPED", "")


def test_a_stop_that_succeeds_beside_a_running_process_is_repeated(brain, seen):
    """Somebody has started it again in between; ECS is not told that it stopped."""
    it = brain()
    it.run()
    it.stop()
    assert [e.action for e in it.ends(Action.STOP, observation=seen.running())] == [Action.STOP]
    assert it.reports() == [("RUNNING", "")]


def test_a_process_behind_an_uncertain_start_is_stopped_until_it_is_gone(brain, seen):
    """Known stays CREATED meanwhile: nothing is reported of a process that may run."""
    it = brain()
    it.make()
    it.ends(Action.START, error=TIMEOUT)
    effects = it.ends(Action.STOP, error="CannotStopContainerError: x", observation=seen.running())
    assert [e.action for e in effects] == [Action.STOP]
    assert it.reports() == []
    it.ends(Action.STOP, observation=seen.exited(137))
    (report,) = it.container_reports()
    assert (report.status, report.exit_code, report.reason) == (C.STOPPED, 137, TIMEOUT)


def test_a_stopped_container_that_runs_again_is_stopped_once(brain, seen):
    """Conformance case 15: exactly one stop call for the task's whole life."""
    it = brain(Container(name="app", image="i"), Container(name="b", image="i", essential=True))
    it.run("app", "b")
    it.event("die", seen=seen.exited(0))
    later = seen.running(started_at="2026-06-01T12:00:00Z")
    assert [e.action for e in it.event("start", seen=later)] == [Action.STOP]
    assert it.event("start", seen=later) == []


def test_a_late_result_is_not_taken_for_a_new_start(brain, seen):
    """The inspect behind it was made before the exit that is known already."""
    it = brain(Container(name="app", image="i"), Container(name="b", image="i", essential=True))
    it.run("app", "b")
    it.event("die", seen=seen.exited(0))
    assert it.event("start", seen=seen.running()) == []


def test_an_exit_without_inspect_takes_the_code_of_the_event(brain):
    """Conformance case 16."""
    it = brain()
    it.run()
    text = "Could not transition to inspecting; timed out after waiting 30s"
    it.event("die", exit_code=42, error=NamedError("CannotInspectContainerError", text))
    report = it.container_reports()[-1]
    assert (report.exit_code, report.reason) == (42, f"CannotInspectContainerError: {text}")


def test_a_container_removed_from_outside_has_no_reason(brain):
    """Conformance case 79: the inspect answers 404, which is no error of the container."""
    it = brain()
    it.run()
    it.event("die", exit_code=137, error=NamedError("CannotInspectContainerError", "No such container"), gone=True)
    report = it.container_reports()[-1]
    assert (report.exit_code, report.reason) == (137, "")


@pytest.mark.parametrize("action", ["oom", "restart", "exec_start: /bin/sh", "attach"])
def test_events_without_meaning_change_nothing(brain, action):
    """Conformance cases 18 and 20."""
    it = brain()
    it.run()
    before = it.task
    it.event(action)
    assert it.task == before


def test_out_of_memory_is_the_reason_of_the_exit(brain, seen):
    """Conformance case 19."""
    it = brain()
    it.run()
    error = NamedError("OutOfMemoryError", "Container killed due to memory usage")
    it.event("die", seen=seen.exited(137, error=error), error=error)
    report = it.container_reports()[-1]
    assert (report.exit_code, report.reason) == (137, "OutOfMemoryError: Container killed due to memory usage")


def test_a_start_event_before_the_call_returns_is_enough(brain, seen):
    """The call's result then only adds what it knows; an error in it is lost."""
    it = brain()
    it.make()
    it.event("start", seen=seen.running())
    assert it.reports() == [("RUNNING", "")]
    it.ends(Action.START, error=TIMEOUT, observation=seen.running())
    assert it.reports() == [("RUNNING", "")]
    assert it.container().error is None


def test_a_container_that_ran_unseen_is_announced_as_running_first(brain, seen):
    """The start event was lost with the stream; the poll finds the exit."""
    it = brain()
    it.make()
    it.event("die", seen=seen.exited(4))
    assert [(r.status, r.exit_code) for r in it.container_reports()] == [(C.RUNNING, 4), (C.STOPPED, 4)]
    assert it.reports() == [("RUNNING", ""), ("STOPPED", "")]


def test_a_stop_during_the_start_waits_for_its_result(brain, seen):
    """Conformance case 3: no transition until the start call returns, then one stop call."""
    it = brain()
    it.make()
    assert it.stop() == []
    assert it.container().known == C.CREATED
    assert [e.action for e in it.ends(Action.START, observation=seen.running())] == [Action.STOP]


def test_a_stop_after_the_start_event_does_not_wait_for_the_result_of_the_start(brain, seen):
    """The call may take long after its process runs: an inspect that hangs, an answer that was lost (spec 03 §2.6)."""
    it = brain()
    it.make()
    it.event("start", seen=seen.running())
    assert it.reports() == [("RUNNING", "")]
    assert [e.action for e in it.stop()] == [Action.STOP]
    assert it.ends(Action.START, observation=seen.running()) == []
    it.ends(Action.STOP, observation=seen.exited(137))
    assert it.reports() == [("RUNNING", ""), ("STOPPED", "")]


def test_a_stop_during_the_create_keeps_the_late_id(brain):
    """The container is STOPPED at once; without the id of the late result it could never be removed."""
    it = brain()
    it.ends(Action.RESOLVE_MANIFEST)
    it.ends(Action.PULL)
    it.stop()
    assert it.reports() == [("STOPPED", "")]
    it.ends(Action.CREATE, observation=Observation(docker_id="late", status=C.CREATED))
    assert it.container().docker_id == "late"
    assert it.container().known == C.STOPPED


def test_a_dependency_that_failed_stops_its_dependent_with_143(brain, seen):
    """Conformance case 69."""
    init = Container(name="init", image="img")
    app = Container(
        name="app", image="img", essential=True, depends_on=(Dependency(container_name="init", condition="SUCCESS"),)
    )
    it = brain(init, app)
    it.ends(Action.RESOLVE_MANIFEST, "app")
    it.run("init")
    it.event("die", "init", seen=seen.exited(1))
    (report,) = it.container_reports("app")
    assert (report.status, report.exit_code, report.runtime_id) == (C.STOPPED, 143, "")
    assert report.reason == (
        "CannotStartContainerError: dependency graph: failed to resolve container ordering dependency "
        "[init(img) (STOPPED->RUNNING) - Exit: 1] for target [app(img) (MANIFEST_PULLED->RUNNING)] as dependency did "
        "not exit successfully."
    )
    assert it.reports() == [("STOPPED", "")]
    assert it.task.execution_stopped_at


def needing(name: str, on: str, condition: str, essential: bool = True) -> Container:
    """A container that waits for another one."""
    after = (Dependency(container_name=on, condition=condition),)
    return Container(name=name, image="img", essential=essential, depends_on=after)


def test_every_dependent_of_a_container_that_failed_has_the_reason(brain, seen):
    """What the first one brings about (the task stops) must not hide the reason of the next (spec 03 §3.6)."""
    it = brain(Container(name="init", image="img"), needing("a", "init", "SUCCESS"), needing("b", "init", "SUCCESS"))
    it.run("init")
    it.event("die", "init", seen=seen.exited(1))
    for name in ("a", "b"):
        (report,) = it.container_reports(name)
        assert (report.status, report.exit_code) == (C.STOPPED, 143)
        assert report.reason.endswith("as dependency did not exit successfully.")
    assert it.reports() == [("STOPPED", "")]


def test_a_container_that_will_never_start_takes_those_after_it_along(brain, seen):
    """Although its end, once it is known, would do for START: in the same look it is only on its way there."""
    app = needing("app", "b", "START")
    it = brain(Container(name="init", image="img"), needing("b", "init", "SUCCESS", essential=False), app)
    for name in ("b", "app"):
        it.ends(Action.RESOLVE_MANIFEST, name)
    it.run("init")
    it.event("die", "init", seen=seen.exited(1))
    (report,) = it.container_reports("app")
    assert (report.status, report.exit_code) == (C.STOPPED, 143)
    assert report.reason == (
        "CannotStartContainerError: dependency graph: failed to resolve container ordering dependency "
        "[b(img) (MANIFEST_PULLED->STOPPED) - Exit: 143] for target [app(img) (MANIFEST_PULLED->RUNNING)] because "
        "dependency will never start"
    )


def test_a_container_whose_create_failed_takes_those_after_it_along(brain):
    """It never ran, so nobody was started by it, wherever it stands in the task definition."""
    it = brain(Container(name="side", image="img"), needing("app", "side", "START"))
    it.ends(Action.RESOLVE_MANIFEST, "app")
    for action in (Action.RESOLVE_MANIFEST, Action.PULL):
        it.ends(action, "side")
    it.ends(Action.CREATE, "side", error="CannotCreateContainerError: no")
    (report,) = it.container_reports("app")
    assert (report.exit_code, report.reason.endswith("because dependency will never start")) == (143, True)
    assert it.reports() == [("STOPPED", "")]


def test_a_pull_need_not_end_before_its_container_is_given_up(brain, seen):
    """With ECS_PULL_DEPENDENT_CONTAINERS_UPFRONT it may take long, and nobody will use the image."""
    it = brain(Container(name="init", image="img"), needing("app", "init", "SUCCESS"), upfront=True)
    it.ends(Action.RESOLVE_MANIFEST, "app")
    it.run("init")
    it.event("die", "init", seen=seen.exited(1))
    (report,) = it.container_reports("app")
    assert (report.exit_code, "[app(img) (MANIFEST_PULLED->RUNNING)]" in report.reason) == (143, True)
    assert it.reports() == [("STOPPED", "")]
    assert it.ends(Action.PULL, "app") == []


def test_a_stop_that_ends_in_the_oom_killer_says_so(brain, seen):
    """Spec 03 §6.9: whether the stop call or the die event tells it first."""
    it = brain()
    it.run()
    it.stop()
    killed = NamedError("OutOfMemoryError", "Container killed due to memory usage")
    it.ends(Action.STOP, observation=seen.exited(137, error=killed))
    report = it.container_reports()[-1]
    assert (report.status, report.exit_code, report.reason) == (C.STOPPED, 137, str(killed))


def test_a_dependent_starts_the_moment_its_condition_is_met(brain, seen):
    """No blocked poll: the event itself is looked at."""
    init = Container(name="init", image="img")
    app = Container(
        name="app", image="img", essential=True, depends_on=(Dependency(container_name="init", condition="COMPLETE"),)
    )
    it = brain(init, app)
    it.ends(Action.RESOLVE_MANIFEST, "app")
    it.run("init")
    assert [e.action for e in it.event("die", "init", seen=seen.exited(0))] == [Action.PULL]


def test_a_resource_that_fails_gives_the_task_its_reason(brain):
    """Conformance cases 65 and 90."""
    needs = Resource(kind="dockerVolume", name="vol")
    it = brain(resources=(needs,))
    error = NamedError("VolumeError", "error while mounting volume")
    effect = next(e for e in it.effects if e.action is Action.CREATE_RESOURCE)
    from services.engine.core.decide import Finished

    it.send(Finished(effect, Outcome(action=effect.action, target="vol", error=error, reason=error.text)))
    assert it.reports() == [("STOPPED", "Error while mounting volume")]
    assert [r.reason for r in it.container_reports()] == [""]


@pytest.mark.parametrize("together", [True, False])
def test_of_two_resources_that_fail_the_first_gives_the_reason(brain, together):
    """Conformance case R5 of spec 05, whether or not both results are decided on at once."""
    from services.engine.core.decide import Finished

    it = brain(resources=(Resource(kind="dockerVolume", name="a"), Resource(kind="dockerVolume", name="b")))
    failed = [
        Finished(e, Outcome(action=e.action, target=e.target, error=NamedError("X", "x"), reason=f"fails: {e.target}"))
        for e in it.effects
        if e.action is Action.CREATE_RESOURCE
    ]
    for messages in [failed] if together else [[message] for message in failed]:
        it.send(*messages)
    assert it.reports() == [("STOPPED", "Fails: a")]


def test_missing_credentials_are_waited_for(brain):
    """Conformance case 61: nothing is reported, a look is due in a minute, and their arrival moves the task."""
    auth = RegistryAuth(type="ecr", use_execution_role=True)
    app = Container(name="app", image="img", essential=True, registry_auth=auth)
    it = brain(app, execution_credentials_id="e1")
    assert (it.effects, it.events, it.wake_at) == ([], [], it.now + 60)
    it.credentials = frozenset({"e1"})
    assert [e.action for e in it.send()] == [Action.RESOLVE_MANIFEST]


def test_a_task_without_containers_waits_for_its_stop(brain, make_task, altered):
    """Conformance case 86 and W18: parked, then STOPPED with the reference's reason."""
    it = brain()
    it.task, it.events, it.effects = altered(it.task, containers=()), [], []
    it.send()
    assert (it.events, it.effects, it.wake_at) == ([], [], 0.0)
    it.stop()
    assert it.reports() == [("STOPPED", "TaskStateError: Agent could not progress task's state to stopped")]


def test_a_desired_status_never_falls(brain):
    """Conformance cases 63 and 64."""
    from services.engine.core.decide import Desire

    it = brain()
    it.stop()
    before = it.task
    it.send(Desire(T.RUNNING))
    it.stop()
    assert it.task == before
