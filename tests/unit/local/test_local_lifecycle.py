"""What reports, stop requests and health messages make of a task."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.local.core import lifecycle

Json = dict[str, Any]
ESSENTIAL = {"web"}


def task() -> Json:
    """A task with an essential and a helping container, just accepted."""
    definition = {"taskDefinitionArn": "arn:f:1"}
    return lifecycle.new_task("arn:t", "arn:c", definition, [{"name": "web"}, {"name": "helper"}], 100.0)


def report(view: Json, status: str, *containers: Json, at: float = 110.0, **more: Any) -> Json:
    """The task after one SubmitTaskStateChange."""
    return lifecycle.apply_report(view, {"status": status, "containers": list(containers), **more}, ESSENTIAL, at)


def web(status: str, **more: Any) -> Json:
    """A container entry."""
    return {"containerName": "web", "status": status, **more}


def test_a_task_runs_when_the_agent_says_so() -> None:
    """startedAt is the time of the report, bindings and runtime id come from it."""
    view = report(task(), "RUNNING", web("RUNNING", runtimeId="id", networkBindings=[{"hostPort": 1}]))
    assert (view["lastStatus"], view["startedAt"]) == ("RUNNING", 110.0)
    assert view["containers"][0]["runtimeId"] == "id"
    assert view["containers"][0]["networkBindings"] == [{"hostPort": 1}]


@pytest.mark.parametrize(
    ("entries", "reason", "code", "text"),
    [
        ([web("STOPPED", exitCode=1)], "", "EssentialContainerExited", "Essential container in task exited"),
        ([web("STOPPED", reason="CannotPullContainerError: no")], "", "TaskFailedToStart",
         "CannotPullContainerError: no"),
        ([web("STOPPED", runtimeId="i", reason="CannotStartContainerError: no")], "", "TaskFailedToStart",
         "CannotStartContainerError: no"),
        ([web("STOPPED", exitCode=137, reason="OutOfMemoryError: Container killed due to memory usage")], "",
         "EssentialContainerExited", "Essential container in task exited"),
        ([], "UnrecogniedTaskError: Error loading task - x", "TaskFailedToStart",
         "UnrecogniedTaskError: Error loading task - x"),
        ([], "", "TaskFailedToStart", "Task failed to start"),
    ],
)  # fmt: skip
def test_a_task_that_never_ran_says_why(entries: list[Json], reason: str, code: str, text: str) -> None:
    """stopCode and stoppedReason from the agent's reason or from its containers."""
    view = report(task(), "STOPPED", *entries, reason=reason)
    assert (view["stopCode"], view["stoppedReason"]) == (code, text)
    assert view["lastStatus"] == view["desiredStatus"] == "STOPPED"
    assert {c["lastStatus"] for c in view["containers"]} == {"STOPPED"}


def test_a_stop_asked_for_keeps_the_callers_reason() -> None:
    """Whatever the agent says later."""
    view = report(task(), "RUNNING", web("RUNNING"))
    view = lifecycle.request_stop(view, "enough", 120.0)
    assert (view["lastStatus"], view["desiredStatus"], view["stoppingAt"]) == ("RUNNING", "STOPPED", 120.0)
    assert lifecycle.request_stop(view, "again", 121.0) is view
    view = lifecycle.stop_accepted(view)
    assert view["lastStatus"] == "STOPPING"
    view = report(view, "STOPPED", web("STOPPED", exitCode=143), at=125.0)
    assert (view["stopCode"], view["stoppedReason"], view["stoppedAt"]) == ("UserInitiated", "enough", 125.0)


def test_an_essential_container_that_ended_makes_the_task_stopping() -> None:
    """The agent may tell of it before the others have stopped."""
    view = report(task(), "RUNNING", web("RUNNING"))
    view = report(view, "RUNNING", web("STOPPED", exitCode=0), at=130.0)
    assert (view["lastStatus"], view["desiredStatus"], view["stoppingAt"]) == ("STOPPING", "STOPPED", 130.0)


def test_a_helper_that_ended_does_not_stop_the_task() -> None:
    """Only essential containers end a task."""
    view = report(task(), "RUNNING", web("RUNNING"), {"containerName": "helper", "status": "STOPPED", "exitCode": 0})
    assert (view["lastStatus"], view["desiredStatus"]) == ("RUNNING", "RUNNING")


def test_health_of_the_task_is_that_of_its_essential_containers() -> None:
    """One unhealthy essential container makes the task unhealthy; helpers do not count."""
    view = lifecycle.apply_health(
        task(),
        [{"containerName": "web", "healthStatus": "HEALTHY"}, {"containerName": "helper", "healthStatus": "UNHEALTHY"}],
        ESSENTIAL,
    )
    assert view["healthStatus"] == "HEALTHY"
    assert [c["healthStatus"] for c in view["containers"]] == ["HEALTHY", "UNHEALTHY"]
    view = lifecycle.apply_health(view, [{"containerName": "web", "healthStatus": "UNHEALTHY"}], ESSENTIAL)
    assert view["healthStatus"] == "UNHEALTHY"
    assert lifecycle.apply_health(view, [{"containerName": "web", "healthStatus": "UNHEALTHY"}], ESSENTIAL) is view


STEP = st.one_of(
    st.tuples(st.just("report"), st.sampled_from(["PENDING", "RUNNING", "STOPPED"]),
              st.lists(st.builds(lambda n, s: {"containerName": n, "status": s},
                                 st.sampled_from(["web", "helper", "x"]),
                                 st.sampled_from(["PENDING", "RUNNING", "STOPPED"])), max_size=3)),
    st.just(("stop",)), st.just(("accepted",)),
    st.tuples(st.just("health"), st.sampled_from(["HEALTHY", "UNHEALTHY", "UNKNOWN"])),
)  # fmt: skip


@given(st.lists(STEP, max_size=12))
def test_whatever_comes_in_whatever_order_statuses_only_move_forward(steps: list[Any]) -> None:
    """Reports may be repeated, late and out of order; an ended task has its times, code and reason."""
    rank = {s: i for i, s in enumerate(lifecycle.ORDER)}
    view = task()
    for number, step in enumerate(steps):
        before = view
        if step[0] == "report":
            view = report(view, step[1], *step[2], at=200.0 + number)
        elif step[0] == "stop":
            view = lifecycle.request_stop(view, None, 200.0 + number)
        elif step[0] == "accepted":
            view = lifecycle.stop_accepted(view)
        else:
            view = lifecycle.apply_health(view, [{"containerName": "web", "healthStatus": step[1]}], ESSENTIAL)
        assert rank[view["lastStatus"]] >= rank[before["lastStatus"]]
        assert not (before["desiredStatus"] == "STOPPED" and view["desiredStatus"] == "RUNNING")
        assert view["version"] >= before["version"]
        for old, new in zip(before["containers"], view["containers"], strict=True):
            assert rank[new["lastStatus"]] >= rank[old["lastStatus"]]
        if view["lastStatus"] == "STOPPED":
            assert view["stopCode"] and view["stoppedReason"] and view["stoppingAt"] <= view["stoppedAt"]
