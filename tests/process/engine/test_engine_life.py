"""The engine against real Redis: what is saved, announced and acknowledged, and what a crash in between leaves."""

import time

from common import keys
from common.bus import Change
from common.model.agent import Credentials, Sent
from common.model.messages import (
    ContainerChanged,
    CredentialsChanged,
    CredentialsReleased,
    ImageRemoved,
    RunOrUpdateTask,
    StopVerified,
    TaskChanged,
)
from common.model.status import ContainerStatus, TaskStatus
from common.model.task import Container, PortMapping, RegistryAuth
from services.engine.core.effects import Action, SetupError

RUNNING, STOPPED = TaskStatus.RUNNING, TaskStatus.STOPPED


def reports(host, arn):
    """The task events of a task, as (status, reason)."""
    return [(e.status.name, e.reason) for e in host.events() if isinstance(e, TaskChanged) and e.arn == arn]


def test_a_task_runs_and_stops_and_each_is_announced_once(host, task, eventually):
    """The whole way: command in, RUNNING out, stop in, STOPPED out, every command acknowledged."""
    host.engine()
    web = task()
    host.run(web)
    eventually(lambda: host.known(web.arn) == RUNNING)
    assert host.commands_left() == 0
    host.run(task(desired=STOPPED))
    eventually(lambda: host.known(web.arn) == STOPPED)
    assert reports(host, web.arn) == [("RUNNING", ""), ("STOPPED", "")]
    containers = [e for e in host.events() if isinstance(e, ContainerChanged)]
    assert [(c.status, c.exit_code) for c in containers] == [
        (ContainerStatus.RUNNING, None),
        (ContainerStatus.STOPPED, 143),
    ]
    assert host.docker.called(Action.STOP) == 1


def test_a_process_that_exits_at_once_is_announced_as_running_first(host, task, eventually):
    """Docker's start and die come before the start call returns; the RUNNING report must not be lost."""
    host.engine(lambda hands: hands.exits_at_once.update(app=4))
    web = task()
    host.run(web)
    eventually(lambda: host.known(web.arn) == STOPPED)
    assert reports(host, web.arn) == [("RUNNING", ""), ("STOPPED", "")]
    assert [e.exit_code for e in host.events() if isinstance(e, ContainerChanged)][-1] == 4


def test_a_repeated_payload_changes_nothing(host, task, eventually):
    """ACS delivers a payload again when its ack was lost."""
    host.engine()
    web = task()
    host.run(web)
    eventually(lambda: host.known(web.arn) == RUNNING)
    host.run(web)
    host.run(web)
    eventually(lambda: host.commands_left() == 0)
    assert host.docker.creations == [(web.arn, "app")]
    assert reports(host, web.arn) == [("RUNNING", "")]


def test_a_stop_right_behind_the_run_is_reported_once(host, task, eventually):
    """Conformance case 71: one STOPPED report, the container without runtime id and exit code."""
    host.engine()
    web = task()
    change = Change()
    change.append(keys.COMMANDS, RunOrUpdateTask(task=web))
    change.append(keys.COMMANDS, RunOrUpdateTask(task=task(desired=STOPPED)))
    host.bus.durable.commit(change)
    eventually(lambda: host.known(web.arn) == STOPPED)
    assert reports(host, web.arn) == [("STOPPED", "")]
    container = next(e for e in host.events() if isinstance(e, ContainerChanged))
    assert (container.status, container.runtime_id, container.exit_code) == (ContainerStatus.STOPPED, "", None)
    assert next(e for e in host.events() if isinstance(e, TaskChanged)).execution_stopped_at > 0


def test_a_stop_for_an_unknown_task_is_reported_once(host, task, eventually):
    """Conformance case 62."""
    host.engine()
    web = task(desired=STOPPED)
    host.run(web)
    eventually(lambda: host.known(web.arn) == STOPPED)
    assert reports(host, web.arn) == [("STOPPED", "")]
    assert not host.docker.calls


def test_a_crash_while_docker_creates_makes_no_second_container(host, task, eventually):
    """The name is saved before the create call, so the next engine finds the container by its name."""
    first = host.engine()
    web = task()
    create = first.hands._create

    def create_and_die(*args):
        outcome = create(*args)
        first.crash()
        return outcome

    first.hands._create = create_and_die
    host.run(web)
    eventually(lambda: host.docker.creations)
    assert host.task(web.arn).containers[0].docker_name
    assert not host.task(web.arn).containers[0].docker_id
    host.engine()
    eventually(lambda: host.known(web.arn) == RUNNING)
    assert host.docker.creations == [(web.arn, "app")]


def test_a_crash_in_the_middle_of_thirty_tasks_loses_and_doubles_nothing(host, task, eventually):
    """Every command is either acknowledged with its effect saved, or delivered again."""
    first = host.engine()
    tasks = [task(f"t{i}") for i in range(30)]
    for one in tasks:
        host.run(one)
    eventually(lambda: len(host.docker.creations) > 10)
    first.crash()
    host.engine()
    eventually(lambda: all(host.known(t.arn) == RUNNING for t in tasks), seconds=20)
    assert sorted(host.docker.creations) == sorted((t.arn, "app") for t in tasks)
    assert all(reports(host, t.arn) == [("RUNNING", "")] for t in tasks)


def test_an_exit_while_the_engine_was_away_is_reported_once(host, task, eventually):
    """Containers run on without the engine, and may end without it."""
    first = host.engine()
    web = task()
    host.run(web)
    eventually(lambda: host.known(web.arn) == RUNNING)
    first.crash()
    host.docker.end(host.docker.of(web.arn, "app"), 3)
    host.engine()
    eventually(lambda: host.known(web.arn) == STOPPED)
    assert reports(host, web.arn) == [("RUNNING", ""), ("STOPPED", "")]
    assert [e.exit_code for e in host.events() if isinstance(e, ContainerChanged)][-1] == 3


def test_a_restart_of_the_engine_leaves_running_tasks_alone(host, task, eventually):
    """SIGTERM ends the engine within two seconds; the containers run on and nothing is announced again."""
    first = host.engine()
    web = task()
    host.run(web)
    eventually(lambda: host.known(web.arn) == RUNNING)
    began = time.monotonic()
    first.stop()
    assert time.monotonic() - began < 2
    calls = len(host.docker.calls)
    second = host.engine()
    eventually(lambda: host.docker.called(Action.INSPECT) == 1)
    host.run(task(desired=STOPPED))
    eventually(lambda: host.known(web.arn) == STOPPED)
    assert host.docker.calls[calls:] == [(Action.INSPECT, web.id, "app"), (Action.STOP, web.id, "app")]
    assert reports(host, web.arn) == [("RUNNING", ""), ("STOPPED", "")]
    assert second.engine.workers


def test_a_docker_that_does_not_answer_at_the_start_stops_no_task(host, task, eventually):
    """No answer is no finding: the reference declared running containers dead here."""
    first = host.engine()
    web = task()
    host.run(web)
    eventually(lambda: host.known(web.arn) == RUNNING)
    first.crash()
    host.docker.answers = False
    host.engine()
    eventually(lambda: host.docker.called(Action.INSPECT) >= 2)
    assert host.known(web.arn) == RUNNING
    host.docker.answers = True
    host.run(task(desired=STOPPED))
    eventually(lambda: host.known(web.arn) == STOPPED)


def test_two_tasks_with_one_port_run_one_after_the_other(host, task, eventually):
    """Conformance case 85: no call at all for the second until the first has stopped."""
    host.engine()
    port = (PortMapping(container_port=80, host_port=18981),)
    one, two = (
        task(name, Container(name="app", image="busybox", essential=True, port_mappings=port)) for name in ("t1", "t2")
    )
    host.run(one)
    eventually(lambda: host.known(one.arn) == RUNNING)
    host.run(two)
    eventually(lambda: host.task(two.arn))
    assert not [c for c in host.docker.calls if c[1] == "t2"]
    host.run(task("t1", desired=STOPPED))
    eventually(lambda: host.known(two.arn) == RUNNING)


def test_a_task_that_cannot_be_set_up_is_rejected_with_one_report(host, task, eventually):
    """One STOPPED report without containers, in the words of the reference; the command is acknowledged."""
    error = SetupError("volume [v] : task scoped volume could not be autoprovisioned")
    host.engine(lambda hands: setattr(hands, "setup_error", error))
    web = task()
    host.run(web)
    eventually(lambda: host.known(web.arn) == STOPPED)
    assert reports(host, web.arn) == [("STOPPED", f"resource cannot be initialized for task {web.arn}: {error}")]
    assert not [e for e in host.events() if isinstance(e, ContainerChanged)]
    assert host.commands_left() == 0


def test_a_stopped_task_is_cleaned_up_only_after_ecs_accepted_its_report(host, task, eventually):
    """Until SENT says STOPPED the container stays; then container and document go."""
    host.settings["ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION"] = "1s"
    host.engine()
    web = task(credentials_id="role-1", execution_credentials_id="role-2")
    host.run(web)
    eventually(lambda: host.known(web.arn) == RUNNING)
    host.run(task(desired=STOPPED))
    eventually(lambda: host.known(web.arn) == STOPPED)
    time.sleep(1.3)
    assert host.docker.containers
    assert host.task(web.arn)
    host.bus.durable.commit(Change().save(keys.SENT, web.arn, Sent(revision=1, task=STOPPED)))
    eventually(lambda: host.task(web.arn) is None, seconds=5)
    assert not host.docker.containers
    released = [e.credentials_ids for e in host.events() if isinstance(e, CredentialsReleased)]
    assert released == [("role-1",), ("role-2", "role-1")]
    kinds = [type(e).__name__ for e in host.events()]
    assert kinds[-4:] == ["TaskChanged", "CredentialsReleased", "CredentialsReleased", "TaskForgotten"]


def test_a_store_that_lost_its_data_gets_it_again_from_memory(host, task, eventually, redis_servers):
    """With ECS_CHECKPOINT false Redis keeps nothing over its own restart; the engine does."""
    engine = host.engine()
    web = task()
    host.run(web)
    eventually(lambda: host.known(web.arn) == RUNNING)
    host.bus.durable.call(lambda client: client.flushall())
    engine.engine.republish()
    eventually(lambda: host.known(web.arn) == RUNNING)
    assert reports(host, web.arn) == [("RUNNING", "")]
    host.run(task(desired=STOPPED))
    eventually(lambda: host.known(web.arn) == STOPPED)


def test_one_hung_call_delays_only_its_own_task(host, task, eventually):
    """A Docker call that hangs holds one place of the crew, not the engine."""
    engine = host.engine()
    hung = engine.hands.hold(Action.CREATE, "hung")
    slow, web = task("t1", Container(name="hung", image="busybox", essential=True)), task("t2")
    host.run(slow)
    host.run(web)
    eventually(lambda: host.known(web.arn) == RUNNING)
    assert host.known(slow.arn) < RUNNING
    hung.set()
    eventually(lambda: host.known(slow.arn) == RUNNING)


def test_images_know_who_uses_them(host, task, eventually):
    """The image cleanup reads these documents; the cleanup of the task takes its containers out again."""
    host.engine()
    web = task()
    host.run(web)
    eventually(lambda: host.bus.durable.all(keys.IMAGE))
    (image,) = host.bus.durable.all(keys.IMAGE).values()
    assert image.names == ("busybox",)
    assert image.size_bytes == 1234
    assert image.containers == (f"{web.arn}/app",)


def test_a_removed_image_is_forgotten_unless_a_task_uses_it_meanwhile(host, task, eventually):
    """The word of its removal comes late; while it is in use only the trust in its pull is gone."""
    host.settings["ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION"] = "1s"
    host.engine()
    web = task()
    host.run(web)
    eventually(lambda: host.bus.durable.all(keys.IMAGE))
    host.command(ImageRemoved(image_id="sha256:busybox"))
    eventually(lambda: not host.bus.durable.all(keys.IMAGE)["sha256:busybox"].pull_succeeded)
    host.run(task(desired=STOPPED))
    eventually(lambda: host.known(web.arn) == STOPPED)
    host.bus.durable.commit(Change().save(keys.SENT, web.arn, Sent(revision=1, task=STOPPED)))
    eventually(lambda: host.task(web.arn) is None)
    host.command(ImageRemoved(image_id="sha256:busybox"))
    eventually(lambda: not host.bus.durable.all(keys.IMAGE))
    assert host.commands_left() == 0


def test_commands_about_unknown_tasks_are_dropped(host, task, eventually):
    """They are acknowledged, and nothing comes of them."""
    host.engine()
    host.command(StopVerified(arn=task().arn))
    host.command(CredentialsChanged(arn=task().arn, credentials_id="c"))
    eventually(lambda: host.commands_left() == 0)
    assert host.task(task().arn) is None
    assert host.events() == []


def test_a_verified_stop_stops_the_task(host, task, eventually):
    """What the task manifest leaves out must not run."""
    host.engine()
    web = task()
    host.run(web)
    eventually(lambda: host.known(web.arn) == RUNNING)
    host.command(StopVerified(arn=web.arn))
    assert eventually(lambda: host.known(web.arn) == STOPPED)


def test_a_task_waits_for_the_credentials_of_its_pull(host, task, eventually):
    """Conformance case 61: nothing happens until they are there, and then at once."""
    host.engine()
    ecr = RegistryAuth(type="ecr", use_execution_role=True)
    app = Container(name="app", image="busybox", essential=True, registry_auth=ecr)
    web = task("t1", app, execution_credentials_id="e1")
    host.run(web)
    eventually(lambda: host.task(web.arn))
    assert host.docker.calls == []
    role = Credentials(credentials_id="e1", task_arn=web.arn, role_type="TaskExecution", revision=1)
    host.bus.volatile.commit(Change().save(keys.CREDENTIALS, "e1", role))
    host.command(CredentialsChanged(arn=web.arn, credentials_id="e1", execution=True))
    eventually(lambda: host.known(web.arn) == RUNNING)


def test_an_interrupted_event_stream_has_everything_looked_at(host, task, eventually):
    """What happened between two streams is found by asking Docker."""
    engine = host.engine()
    web = task()
    host.run(web)
    eventually(lambda: host.known(web.arn) == RUNNING)
    container = host.docker.of(web.arn, "app")
    container.state, container.exit_code, container.finished_at = "exited", 9, host.docker.time()
    engine.engine._resync()
    eventually(lambda: host.known(web.arn) == STOPPED)
    assert [e.exit_code for e in host.events() if isinstance(e, ContainerChanged)][-1] == 9


def test_a_redis_that_refuses_to_save_loses_no_report(host, task, eventually):
    """A full disk makes Redis refuse writes; the worker tries until they succeed."""
    host.engine()
    web = task()
    host.run(web)
    eventually(lambda: host.known(web.arn) == RUNNING)
    host.bus.durable.call(lambda client: client.config_set("maxmemory", "1"))
    host.docker.end(host.docker.of(web.arn, "app"), 3)
    time.sleep(0.3)
    assert reports(host, web.arn) == [("RUNNING", "")]
    host.bus.durable.call(lambda client: client.config_set("maxmemory", "0"))
    eventually(lambda: host.known(web.arn) == STOPPED)
    assert reports(host, web.arn) == [("RUNNING", ""), ("STOPPED", "")]
