"""What the engine promises beyond the reference, against real Redis and a Docker made of dictionaries.

The promises are in docs/differences.md; those that need a real Docker are tested in test_engine_faults.py.
"""

import time
from itertools import pairwise

from gevent.event import Event

from common import keys
from common.bus import Change
from common.model.agent import Sent
from common.model.messages import CredentialsReleased, ForgetEverything, RunOrUpdateTask, TaskChanged
from common.model.status import TaskStatus
from common.model.task import Container, Dependency, PortMapping
from services.engine import worker
from services.engine.core.effects import Action, SetupError
from services.engine.core.relay import task_of

RUNNING, STOPPED = TaskStatus.RUNNING, TaskStatus.STOPPED


def reports(host, arn):
    """The task events of a task, as (status, reason)."""
    return [(e.status.name, e.reason) for e in host.events() if isinstance(e, TaskChanged) and e.arn == arn]


def test_the_execution_role_is_kept_until_the_cleanup(host, task, eventually):
    """Spec 03 §10: the task role goes after the STOPPED report, the execution role with the task's last record."""
    host.engine()
    web = task(credentials_id="role-1", execution_credentials_id="role-2")
    host.run(web)
    eventually(lambda: host.known(web.arn) == RUNNING)
    assert not [e for e in host.events() if isinstance(e, CredentialsReleased)]
    host.run(task(desired=STOPPED))
    eventually(lambda: host.known(web.arn) == STOPPED)
    assert [e.credentials_ids for e in host.events() if isinstance(e, CredentialsReleased)] == [("role-1",)]


def test_a_cleanup_waits_for_a_docker_that_is_away(host, task, eventually, monkeypatch):
    """The reference forgets the task all the same, and the container stays for ever."""
    monkeypatch.setattr(worker, "SWEEP_PAUSE_SECONDS", 0.1)
    host.settings["ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION"] = "1s"
    host.engine()
    web = task()
    host.run(web)
    eventually(lambda: host.known(web.arn) == RUNNING)
    host.run(task(desired=STOPPED))
    eventually(lambda: host.known(web.arn) == STOPPED)
    host.docker.answers = False
    host.bus.durable.commit(Change().save(keys.SENT, web.arn, Sent(revision=1, task=STOPPED)))
    eventually(lambda: host.docker.called(Action.REMOVE) >= 2)
    assert host.task(web.arn)
    host.docker.answers = True
    eventually(lambda: host.task(web.arn) is None)
    assert not host.docker.containers


def test_a_rejected_task_is_cleaned_up_like_any_other(host, task, eventually):
    """The reference keeps it until its next start, and drops a STOP for it with a critical log."""
    host.settings["ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION"] = "1s"
    host.engine()
    itself = Dependency(container_name="a", condition="START")
    web = task("t1", Container(name="a", image="i", essential=True, depends_on=(itself,)))
    host.run(web)
    reason = f"Task dependencies cannot be resolved, taskArn: {web.arn}"
    eventually(lambda: reports(host, web.arn) == [("STOPPED", reason)])
    host.run(task(desired=STOPPED))
    eventually(lambda: host.commands_left() == 0)
    host.bus.durable.commit(Change().save(keys.SENT, web.arn, Sent(revision=1, task=STOPPED)))
    eventually(lambda: host.task(web.arn) is None)
    assert reports(host, web.arn) == [("STOPPED", reason)]


def test_a_rejected_task_whose_payload_comes_again_is_not_reported_again(host, task, eventually):
    """It is known until its cleanup, and what ECS was told of it is in the outbox."""
    host.engine()
    web = task("t1", Container(name="a", image="i", essential=True, links=("x:y",)))
    reason = f"resource cannot be initialized for task {web.arn}: could not find container for link x:y"
    for _ in range(2):
        host.run(web)
        eventually(lambda: host.commands_left() == 0)
        assert reports(host, web.arn) == [("STOPPED", reason)]


def test_a_waiting_task_starts_within_two_seconds_of_the_release(host, task, eventually):
    """The process that holds the port ends by itself; users of the reference waited 15 to 20 minutes."""
    host.engine()
    port = (PortMapping(container_port=80, host_port=18982),)
    one, two = (
        task(name, Container(name="app", image="busybox", essential=True, port_mappings=port)) for name in ("t1", "t2")
    )
    host.run(one)
    eventually(lambda: host.known(one.arn) == RUNNING)
    host.run(two)
    eventually(lambda: host.task(two.arn))
    time.sleep(0.3)
    assert host.known(two.arn) == TaskStatus.NONE
    host.docker.end(host.docker.of(one.arn, "app"), 0)
    began = time.monotonic()
    eventually(lambda: host.known(two.arn) == RUNNING, seconds=2)
    assert time.monotonic() - began < 2


def test_tasks_of_one_payload_begin_in_its_order_however_long_their_set_up_takes(host, task, eventually):
    """A set-up asks Docker and Redis; the host's room goes by the order of arrival, as in the reference."""
    first, second = (
        task(name, Container(name="app", image="busybox", essential=True, cpu_shares=1500)) for name in ("t1", "t2")
    )

    def slow_for_the_first(hands):
        at_once = hands.resources_for
        hands.resources_for = lambda task, *more: (time.sleep(0.3 * (task.arn == first.arn)), at_once(task, *more))[1]

    host.engine(slow_for_the_first)
    host.bus.durable.commit(
        Change().append(keys.COMMANDS, RunOrUpdateTask(task=first)).append(keys.COMMANDS, RunOrUpdateTask(task=second))
    )
    eventually(lambda: host.known(first.arn) == RUNNING)
    assert host.known(second.arn) == TaskStatus.NONE


def test_a_task_that_cannot_be_set_up_gives_its_room_back(host, task, eventually):
    """It had its place in the order of arrival from the start; the task behind it begins as soon as it is rejected."""
    first, second = (
        task(name, Container(name="app", image="busybox", essential=True, cpu_shares=1500)) for name in ("t1", "t2")
    )

    def reject_the_first(hands):
        def resources_for(task, *more):
            if task.arn != first.arn:
                return ()
            time.sleep(0.2)
            raise SetupError("x")

        hands.resources_for = resources_for

    host.engine(reject_the_first)
    host.bus.durable.commit(
        Change().append(keys.COMMANDS, RunOrUpdateTask(task=first)).append(keys.COMMANDS, RunOrUpdateTask(task=second))
    )
    eventually(lambda: host.known(second.arn) == RUNNING)
    assert host.known(first.arn) == STOPPED


def test_waiting_tasks_keep_their_order_over_a_restart(host, task, eventually):
    """By the number that each got when it arrived; ARNs say nothing about that."""
    first = host.engine()
    port = (PortMapping(container_port=80, host_port=18983),)
    app = Container(name="app", image="busybox", essential=True, port_mappings=port)
    tasks = [task(name, app) for name in ("t5", "t2", "t9", "t1", "t7")]
    for number, each in enumerate(tasks):
        host.run(each)
        eventually(lambda each=each: host.task(each.arn))
        assert host.task(each.arn).arrival == number + 1
    eventually(lambda: host.known(tasks[0].arn) == RUNNING)
    first.crash()
    host.engine()
    for each, following in pairwise(tasks):
        eventually(lambda following=following: host.known(following.arn) != STOPPED)
        host.docker.end(host.docker.of(each.arn, "app"), 0)
        eventually(lambda following=following: host.known(following.arn) == RUNNING)
    host.run(task("t0"))
    eventually(lambda: host.known(task("t0").arn) == RUNNING)
    assert host.task(task("t0").arn).arrival == len(tasks) + 1


def test_a_dependent_starts_as_soon_as_its_dependency_runs(host, task, eventually):
    """Nothing polls: the message that moves the one moves the other. The reference looks every five seconds."""
    host.engine()
    first = Container(name="first", image="busybox")
    second, third = (
        Container(
            name=name,
            image="busybox",
            essential=True,
            depends_on=(Dependency(container_name=on, condition="START"),),
        )
        for name, on in (("second", "first"), ("third", "second"))
    )
    web = task("t1", first, second, third)
    host.run(web)
    eventually(lambda: host.known(web.arn) == RUNNING, seconds=2)
    assert [name for _, name in host.docker.creations] == ["first", "second", "third"]


def test_a_stop_gets_through_although_the_set_up_would_fail_now(host, task, eventually):
    """Conformance case R60: it is not set up again; the reference fails there, reports STOPPED, lets the task run."""
    engine = host.engine()
    web = task()
    host.run(web)
    eventually(lambda: host.known(web.arn) == RUNNING)
    engine.hands.setup_error = SetupError("no such volume")
    host.run(task(desired=STOPPED))
    eventually(lambda: host.known(web.arn) == STOPPED)
    assert host.docker.of(web.arn, "app").state == "exited"
    assert reports(host, web.arn) == [("RUNNING", ""), ("STOPPED", "")]


def test_a_record_that_cannot_be_read_costs_its_own_task_only(host, task, eventually):
    """It is set aside under another name, and the other task is taken up; the reference ends for good."""
    first = host.engine()
    web, api = task("t1"), task("t2")
    host.run(web)
    host.run(api)
    eventually(lambda: host.known(web.arn) == host.known(api.arn) == RUNNING)
    first.crash()
    host.bus.durable.call(lambda client: client.set(keys.TASK.key(web.arn), b"\x93 no task"))
    host.engine()
    host.run(task("t2", desired=STOPPED))
    eventually(lambda: host.known(api.arn) == STOPPED)
    assert host.bus.durable.call(lambda client: client.get(f"aside:task:{web.arn}")) == b"\x93 no task"


def test_a_copied_disk_brings_no_tasks_along(host, task, eventually):
    """Another instance's tasks are dropped in silence, waiting ones and unread commands included; new ones run."""
    engine = host.engine()
    old, waiting = task("old"), task("waiting", cpu=64.0)
    host.run(old)
    host.run(waiting)
    eventually(lambda: host.known(old.arn) == RUNNING and host.task(waiting.arn) is not None)
    said = len(host.events())
    relay = task_of("us-west-2", "https://sc.example")
    host.run(relay)
    eventually(lambda: host.known(relay.arn) == RUNNING)
    host.command(ForgetEverything(reason="i-2 is not i-1"))
    new = task("new")
    host.run(new)
    eventually(lambda: host.known(new.arn) == RUNNING)
    eventually(lambda: host.commands_left() == 0)
    assert [host.task(t.arn) for t in (old, waiting)] == [None, None]
    assert host.known(relay.arn) == RUNNING, "the relay belongs to the host"
    assert {e.arn for e in host.events()[said:]} == {new.arn}
    engine.crash()
    host.engine()
    eventually(lambda: host.known(new.arn) == RUNNING)
    assert host.task(old.arn) is None


def test_no_container_starts_before_the_rules_are_there(host, task, eventually):
    """Spec 09 §15.1 N5: it would ask for credentials in vain. Saved tasks go on, and whatever is stopped stops."""
    old, new, unwanted = task("old"), task("new"), task("unwanted")
    first = host.engine()
    host.run(old)
    eventually(lambda: host.known(old.arn) == TaskStatus.RUNNING, 10)
    first.crash()
    rules = Event()
    second = host.engine(may_start=rules.wait)
    host.run(new)
    host.run(unwanted)
    host.docker.end(host.docker.of(old.arn, old.containers[0].name), 0)
    eventually(lambda: host.known(old.arn) == TaskStatus.STOPPED, 10)
    eventually(lambda: any(c.arn == new.arn for c in list(host.docker.containers.values())), 10)
    host.run(task("unwanted", desired=STOPPED))
    eventually(lambda: host.known(unwanted.arn) == STOPPED, 10)
    assert host.known(new.arn) < TaskStatus.RUNNING and host.commands_left() == 0
    rules.set()
    eventually(lambda: host.known(new.arn) == TaskStatus.RUNNING, 10)
    assert second.engine.workers
