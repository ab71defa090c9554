"""Why a container may not take its next step, and the texts that ECS sees (spec 03 §4)."""

import pytest

from common.model.status import ContainerStatus as C
from common.model.status import HealthStatus, TaskStatus
from common.model.task import (
    Container,
    Dependency,
    Health,
    RegistryAuth,
    Task,
    TransitionDependencies,
    TransitionDependency,
)
from services.engine.core.begin import begin
from services.engine.core.dependencies import Answer, evaluate, is_satisfiable
from services.engine.core.reconcile import republish
from services.engine.core.turn import Settings, Surroundings

STARTED = "2027-01-15T08:00:00.5Z"  # Unix 1_800_000_000.5
NOW = 1_800_000_000.5


def on(name, condition):
    """One dependsOn entry."""
    return (Dependency(container_name=name, condition=condition),)


def judge(condition, b_known=C.MANIFEST_PULLED, now=NOW, upfront=False, b_desired=C.RUNNING, **a):
    """The verdict on b, which depends on a."""
    a = {"known": C.RUNNING, "desired": C.RUNNING, **a}
    first = Container(name="a", image="img", **a)
    second = Container(name="b", image="img", known=b_known, desired=b_desired, depends_on=on("a", condition))
    around = Surroundings(now=now, settings=Settings(pull_upfront=upfront))
    return evaluate(Task(arn="t", containers=(first, second)), second, around)


HEALTHY = {"health_check_type": "docker", "health": Health(status=HealthStatus.HEALTHY)}


@pytest.mark.parametrize(
    ("condition", "a", "answer"),
    [
        ("CREATE", {"known": C.PULLED}, Answer.BLOCKED),
        ("CREATE", {"known": C.CREATED}, Answer.GO),
        ("START", {"known": C.CREATED}, Answer.BLOCKED),
        ("START", {"known": C.RUNNING}, Answer.GO),
        ("START", {"known": C.STOPPED}, Answer.GO),
        ("START", {"known": C.RUNNING, "steady": C.RESOURCES_PROVISIONED}, Answer.BLOCKED),
        ("COMPLETE", {"known": C.RUNNING}, Answer.BLOCKED),
        ("COMPLETE", {"known": C.STOPPED}, Answer.BLOCKED),
        ("COMPLETE", {"known": C.STOPPED, "exit_code": 3}, Answer.GO),
        ("SUCCESS", {"known": C.STOPPED, "exit_code": 0}, Answer.GO),
        ("SUCCESS", {"known": C.STOPPED, "exit_code": 1}, Answer.NEVER),
        ("SUCCESS", {"known": C.STOPPED}, Answer.NEVER),
        ("HEALTHY", {"health_check_type": "docker"}, Answer.BLOCKED),
        ("HEALTHY", HEALTHY, Answer.GO),
        ("HEALTHY", {"health": Health(status=HealthStatus.HEALTHY)}, Answer.BLOCKED),
        ("START", {"known": C.CREATED, "desired": C.STOPPED}, Answer.NEVER),
        ("START", {"known": C.CREATED, "desired": C.STOPPED, "applied": C.RUNNING}, Answer.BLOCKED),
        ("WHENEVER", {}, Answer.BLOCKED),
    ],
)
def test_each_condition_has_its_rule(condition, a, answer):
    """The condition table and the terminal checks that come before it."""
    assert judge(condition, **a).answer is answer


@pytest.mark.parametrize(
    ("known", "upfront", "answer"),
    [
        (C.NONE, False, Answer.GO),
        (C.MANIFEST_PULLED, False, Answer.BLOCKED),
        (C.MANIFEST_PULLED, True, Answer.GO),
        (C.PULLED, True, Answer.BLOCKED),
    ],
)
def test_manifests_and_upfront_pulls_do_not_wait(known, upfront, answer):
    """Conformance cases 25 and 26."""
    assert judge("START", b_known=known, upfront=upfront, known=C.NONE).answer is answer


def test_a_dependency_that_failed_says_so_in_the_words_of_the_reference():
    """Conformance case 22."""
    assert judge("SUCCESS", known=C.STOPPED, exit_code=1).text == (
        "dependency graph: failed to resolve container ordering dependency [a(img) (STOPPED->RUNNING) - Exit: 1] for "
        "target [b(img) (MANIFEST_PULLED->RUNNING)] as dependency did not exit successfully."
    )


def test_a_dependency_times_out_only_for_conditions_that_need_time():
    """Conformance cases 23 and 24; the verdict tells when to look again."""
    started = {"start_timeout_seconds": 10, "started_at": STARTED}
    waiting = judge("COMPLETE", now=NOW + 9, **started)
    assert (waiting.answer, waiting.wake_at) == (Answer.BLOCKED, NOW + 10)
    late = judge("COMPLETE", now=NOW + 11, **started)
    assert late.answer is Answer.NEVER
    assert late.text == (
        "dependency graph: container ordering dependency [a(img) (RUNNING->RUNNING)] for target "
        "[b(img) (MANIFEST_PULLED->RUNNING)] has timed out."
    )
    assert judge("START", now=NOW + 11, known=C.CREATED, **started).answer is Answer.BLOCKED


def test_the_time_limit_of_a_condition_that_is_met_is_kept_while_another_is_not():
    """It is looked at again as long as the container waits, so it must wake the task in time."""
    a = Container(
        name="a",
        image="img",
        known=C.RUNNING,
        desired=C.RUNNING,
        started_at=STARTED,
        start_timeout_seconds=10,
        **HEALTHY,
    )
    slow = Container(name="slow", known=C.PULLED, desired=C.RUNNING)
    needs = (*on("a", "HEALTHY"), *on("slow", "START"))
    b = Container(name="b", known=C.MANIFEST_PULLED, desired=C.RUNNING, depends_on=needs)
    task = Task(arn="t", containers=(a, slow, b))
    verdict = evaluate(task, b, Surroundings(now=NOW))
    assert (verdict.answer, verdict.wake_at) == (Answer.BLOCKED, NOW + 10)
    assert evaluate(task, b, Surroundings(now=NOW + 11)).answer is Answer.NEVER


def test_a_missing_dependency_can_never_be_met():
    """Its text prints the container as Go prints nil."""
    b = Container(name="b", image="img", known=C.NONE, desired=C.RUNNING, depends_on=on("x", "START"))
    verdict = evaluate(Task(arn="t", containers=(b,)), b, Surroundings(now=NOW))
    assert verdict.answer is Answer.NEVER
    assert verdict.text == (
        "dependency graph: container ordering dependency [<nil>] for target [b(img) (NONE->RUNNING)] does not exist."
    )


def test_a_container_stops_after_those_that_depend_on_it():
    """Conformance case 27, with the non-terminal text."""
    a = Container(name="a", known=C.RUNNING, desired=C.STOPPED)
    b = Container(name="b", known=C.RUNNING, desired=C.STOPPED, depends_on=on("a", "START"))
    task = Task(arn="t", containers=(a, b))
    verdict = evaluate(task, a, Surroundings(now=NOW))
    assert verdict.text == ("dependency graph: target a needs other containers stopped before it can stop: [b]")
    assert evaluate(task, b, Surroundings(now=NOW)).answer is Answer.GO


def test_a_transition_waits_for_its_own_dependencies_also_on_the_way_down():
    """Conformance case 28; a stopped dependency satisfies any status, since STOPPED is the highest."""
    needs = {int(C.MANIFEST_PULLED): TransitionDependencies(containers=(TransitionDependency(target="p", status=5),))}
    app = Container(name="app", desired=C.STOPPED, transition_dependencies=needs)
    pause = Container(name="p", known=C.RUNNING, desired=C.STOPPED)
    around = Surroundings(now=NOW)
    assert evaluate(Task(arn="t", containers=(app, pause)), app, around).answer is Answer.BLOCKED
    gone = Container(name="p", known=C.STOPPED, desired=C.STOPPED)
    assert evaluate(Task(arn="t", containers=(app, gone)), app, around).answer is Answer.GO


def test_an_ecr_image_by_execution_role_waits_for_the_credentials():
    """Conformance case 61; a stop does not wait for them."""
    auth = RegistryAuth(type="ecr", use_execution_role=True)
    app = Container(name="app", desired=C.RUNNING, registry_auth=auth)
    task = Task(arn="t", containers=(app,), execution_credentials_id="e1")
    assert evaluate(task, app, Surroundings(now=NOW)).answer is Answer.NO_CREDENTIALS
    assert evaluate(task, app, Surroundings(now=NOW, credentials=frozenset({"e1"}))).answer is Answer.GO


@pytest.mark.parametrize(
    ("entries", "extra", "possible"),
    [
        ({"b": on("a", "START")}, {}, True),
        ({"b": on("a", "START"), "a": on("b", "START")}, {}, False),
        ({"b": on("x", "START")}, {}, False),
        ({"b": on("a", "HEALTHY")}, {}, False),
        ({"b": on("a", "HEALTHY")}, {"a": {"health_check_type": "docker"}}, True),
        ({"b": on("a", "WHENEVER")}, {}, False),
        ({"a": on("a", "START")}, {}, False),
        ({"b": on("a", "CREATE")}, {}, True),
    ],
)
def test_an_order_that_cannot_be_is_refused_at_the_door(entries, extra, possible):
    """Conformance case 21."""
    containers = tuple(
        Container(name=n, desired=C.RUNNING, depends_on=entries.get(n, ()), **extra.get(n, {})) for n in ("a", "b")
    )
    assert is_satisfiable(Task(arn="t", containers=containers)) is possible


@pytest.mark.parametrize("desired", [C.NONE, C.MANIFEST_PULLED])
def test_an_order_matters_only_to_containers_that_are_to_run(desired):
    """A task without a desired status is stopped at once, not refused (spec 03 §1.2, §4.3)."""
    containers = tuple(Container(name=n, desired=desired, depends_on=on(m, "START")) for n, m in ("ab", "bx"))
    assert is_satisfiable(Task(arn="t", containers=containers))


def test_a_rejected_task_is_published_again_as_it_was(brain):
    """A store that lost its data: its report had no containers (spec 03 §3.4), and has none the second time."""
    app = Container(name="app", image="i", depends_on=on("x", "START"))
    first = begin(
        Task(arn="t", desired=TaskStatus.RUNNING, containers=(app,)), lambda task: (), False, Surroundings(now=NOW)
    )
    again = republish(first.task, Surroundings(now=NOW + 5))
    assert [type(e).__name__ for e in again.events] == ["TaskChanged"]
    assert again.events == first.events


def test_a_stop_of_a_circle_of_dependencies_is_reported(brain):
    """Spec 03 §3.5: containers that may only stop after each other are given up, as nothing of them ever ran."""
    circle = [
        Container(name=a, image="img", essential=True, depends_on=(Dependency(container_name=b, condition="START"),))
        for a, b in ("xy", "yx")
    ]
    it = brain(*circle, desired=TaskStatus.STOPPED)
    assert it.reports() == [("STOPPED", "TaskStateError: Agent could not progress task's state to stopped")]
    assert it.effects == []
