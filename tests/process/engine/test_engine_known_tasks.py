"""Payloads about tasks that the engine has already: what they change, and what is reported again (spec 02 §4.5)."""

from __future__ import annotations

from msgspec.structs import replace

from common.model.messages import TaskChanged
from common.model.status import TaskStatus

RUNNING, STOPPED = TaskStatus.RUNNING, TaskStatus.STOPPED


def reports(host, arn):
    """The statuses that ECS hears of a task."""
    return [e.status.name for e in host.events() if isinstance(e, TaskChanged) and e.arn == arn]


def test_a_running_task_keeps_its_content_and_a_stopping_one_its_wish(host, task, eventually):
    """Cases 31, 32 and 76: another image changes nothing, STOPPED is not taken back, and is reported once."""
    host.engine()
    web = task()
    host.run(web)
    eventually(lambda: host.known(web.arn) == RUNNING)
    other = replace(web.containers[0], image="another:2")
    host.run(replace(web, containers=(other,)))
    eventually(lambda: host.commands_left() == 0)
    assert host.task(web.arn).containers[0].image == web.containers[0].image
    host.run(task(desired=STOPPED))
    host.run(task())
    eventually(lambda: host.known(web.arn) == STOPPED)
    for again in (task(desired=STOPPED), task()):
        host.run(again)
    eventually(lambda: host.commands_left() == 0)
    assert host.task(web.arn).desired == STOPPED
    assert reports(host, web.arn) == ["RUNNING", "STOPPED"]
    assert host.docker.creations == [(web.arn, "app")]


def test_a_task_without_containers_is_taken_and_never_reported_until_it_is_stopped(host, task, eventually):
    """Case 77, and the stop that hangs in the reference."""
    host.engine()
    empty = replace(task("empty"), containers=())
    host.run(empty)
    eventually(lambda: host.commands_left() == 0)
    assert reports(host, empty.arn) == []
    host.run(replace(empty, desired=STOPPED))
    eventually(lambda: host.known(empty.arn) == STOPPED)
    (event,) = [e for e in host.events() if isinstance(e, TaskChanged) and e.arn == empty.arn]
    assert (event.status, event.reason) == (STOPPED, "TaskStateError: Agent could not progress task's state to stopped")
