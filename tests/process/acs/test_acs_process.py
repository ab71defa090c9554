"""The process `acs` as a whole: registration, payloads, restarts, faults of the control plane and of Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from common import keys
from common.bus import Bus, Change
from common.model.agent import Credentials, Sent
from common.model.messages import (
    ContainerChanged,
    CredentialsChanged,
    CredentialsReleased,
    RunOrUpdateTask,
    TaskChanged,
)
from common.model.status import ContainerStatus, TaskStatus
from common.model.task import Task
from tests.fakes.control_plane import ControlPlane, arn, error, task

Eventually = Callable[..., Any]
INSTANCE_MEMBERS = ["cluster", "clientToken", "instanceIdentityDocument", "instanceIdentityDocumentSignature",
                    "attributes", "totalResources"]  # fmt: skip


def running(task_arn: str, name: str = "app") -> list[Any]:
    """The events of a task of one container that runs now."""
    return [
        ContainerChanged(arn=task_arn, name=name, status=ContainerStatus.RUNNING, runtime_id="c" * 64),
        TaskChanged(arn=task_arn, status=TaskStatus.RUNNING),
    ]


def pending_events(bus: Bus) -> int:
    """Entries of the outbox that are not settled."""
    return int(bus.durable.call(lambda c: c.xlen(keys.EVENTS)))


def test_the_instance_is_registered_and_the_session_opened(acs, control_plane: ControlPlane, bus: Bus, eventually):
    """The registration has exactly the members of a new instance, and the session the exact query and headers."""
    call = next(c for c in control_plane.calls if c.operation == "RegisterContainerInstance")
    assert list(call.body) == INSTANCE_MEMBERS
    assert call.body["instanceIdentityDocumentSignature"] == "c2lnbmF0dXJl"
    assert call.headers["user-agent"].startswith("Amazon ECS Agent - v1.105.1 (")
    assert "SignedHeaders=content-type;host;x-amz-date;x-amz-target" in call.headers["authorization"]
    instance = bus.durable.get(keys.INSTANCE, keys.INSTANCE_ID)
    assert instance is not None
    assert (instance.arn, instance.cluster) == (control_plane.instance_arn, "default")
    assert (instance.ec2_instance_id, instance.vpc_id) == ("i-0123456789abcdef0", "vpc-0abc")
    assert instance.availability_zone_id == "usw2-az1"
    connection = control_plane.live
    assert connection is not None
    assert list(connection.query) == [
        "agentHash", "agentVersion", "clusterArn", "containerInstanceArn", "dockerVersion", "protocolVersion",
        "sendCredentials", "seqNum",
    ]  # fmt: skip
    assert "dockerVersion=DockerVersion%3A+25.0.8" in connection.request_line
    assert connection.query["sendCredentials"] == "true"
    assert set(connection.headers) == {
        "host", "user-agent", "authorization", "connection", "upgrade", "sec-websocket-key", "sec-websocket-version",
        "x-amz-date",
    }  # fmt: skip
    discover = control_plane.bodies("DiscoverPollEndpoint")
    assert discover == [{"cluster": "default", "containerInstance": control_plane.instance_arn, "zoneId": ""}]
    session = eventually(lambda: bus.volatile.get(keys.SESSION, "acs"))
    assert session.connected
    assert acs.stop() == 0


def test_a_payload_is_in_the_engines_stream_before_it_is_acknowledged(acs, control_plane, engine, eventually):
    """Stops go before starts, credentials are stored, and all is acknowledged with verbatim values."""
    roles = {"credentialsId": "c-1", "roleArn": "r", "accessKeyId": "a", "secretAccessKey": "s", "sessionToken": "t",
             "expiration": "whenever"}  # fmt: skip
    start, stop = task(roleCredentials=roles), task(desired="STOPPED")
    message_id = control_plane.payload(start, stop)
    eventually(lambda: control_plane.live.replies("AckRequest"))
    assert control_plane.live.replies("AckRequest")[0] == {
        "cluster": control_plane.cluster_arn, "containerInstance": control_plane.instance_arn, "messageId": message_id,
    }  # fmt: skip
    got = engine.read()
    assert [(c.task.arn, c.task.desired) for c in got] == [
        (stop["arn"], TaskStatus.STOPPED), (start["arn"], TaskStatus.RUNNING),
    ]  # fmt: skip
    assert got[1].task.credentials_id == "c-1"
    eventually(lambda: control_plane.live.replies("IAMRoleCredentialsAckRequest"))
    assert control_plane.live.replies("IAMRoleCredentialsAckRequest") == [
        {"credentialsId": "c-1", "expiration": "whenever", "messageId": message_id}
    ]
    stored = engine.bus.volatile.get(keys.CREDENTIALS, "c-1")
    assert isinstance(stored, Credentials)
    assert (stored.secret_access_key, stored.role_type) == ("s", "TaskApplication")
    assert "secret" not in acs.text()


def test_a_crash_before_the_command_is_durable_leaves_the_payload_unacknowledged(
    acs, control_plane, redis_servers, start_acs, engine, eventually
):
    """What was not acknowledged is sent again; the repetition is handled by the next life of the process."""
    redis_servers[0].kill()
    lost = task()
    control_plane.payload(lost)
    time.sleep(0.3)  # the handler is now waiting for Redis
    acs.kill()
    assert control_plane.connections[-1].replies("AckRequest") == []
    redis_servers[0].start()
    start_acs()
    eventually(lambda: control_plane.live)
    control_plane.payload(lost)
    eventually(lambda: control_plane.live.replies("AckRequest"))
    eventually(lambda: lost["arn"] in [c.task.arn for c in engine.read()])
    again = control_plane.bodies("RegisterContainerInstance")[-1]
    assert again["containerInstanceArn"] == control_plane.instance_arn


def test_a_broken_task_beside_a_good_one(acs, control_plane, engine, eventually):
    """The good one runs, the broken one is reported stopped, and the message is not acknowledged."""
    good, bad = task(), task(volumes=[{"name": "v", "type": "ebs"}])
    control_plane.payload(good, bad)
    (body,) = eventually(lambda: control_plane.bodies("SubmitTaskStateChange"))
    assert body == {
        "cluster": "default",
        "reason": 'UnrecogniedTaskError: Error loading task - unrecognized volume type: "ebs"',
        "status": "STOPPED",
        "task": bad["arn"],
    }
    eventually(lambda: [c.task.arn for c in engine.read()] == [good["arn"]])
    control_plane.live.push("HeartbeatMessage", {"messageId": "x"})
    eventually(lambda: control_plane.live.replies("HeartbeatAckRequest"))
    assert control_plane.live.replies("AckRequest") == []
    control_plane.payload(good, bad)
    eventually(lambda: len(control_plane.bodies("SubmitTaskStateChange")) == 2)


def test_state_changes_are_reported_and_settled(acs, control_plane, engine, bus, eventually):
    """An event is on the wire within milliseconds of its commit; success saves the cursor and empties the outbox."""
    task_arn = arn("task", "default/" + "1" * 32)
    engine.save(Task(arn=task_arn, revision=1, known=TaskStatus.RUNNING))
    begin = time.monotonic()
    engine.emit(*running(task_arn))
    eventually(lambda: control_plane.bodies("SubmitTaskStateChange"), pause=0.001)
    took = time.monotonic() - begin
    (body,) = control_plane.bodies("SubmitTaskStateChange")
    entry = {"containerName": "app", "runtimeId": "c" * 64, "status": "RUNNING"}
    assert body == {"cluster": "default", "containers": [entry], "reason": "", "status": "RUNNING", "task": task_arn}
    sent = eventually(lambda: bus.durable.get(keys.SENT, task_arn))
    assert (sent.task, sent.containers) == (TaskStatus.RUNNING, {"app": ContainerStatus.RUNNING})
    eventually(lambda: pending_events(bus) == 0)
    assert took < 2.0


def test_reports_that_were_not_accepted_are_sent_after_a_restart(
    acs, control_plane, engine, bus, start_acs, eventually
):
    """The outbox keeps what ECS did not accept; what it accepted is not sent again."""
    told, untold = (arn("task", f"default/{n * 32}") for n in "23")
    engine.emit(*running(told))
    eventually(lambda: bus.durable.get(keys.SENT, told))
    control_plane.faults["SubmitTaskStateChange"] = lambda body: error("ClientException", "not now")
    engine.emit(*running(untold))
    eventually(lambda: len(control_plane.bodies("SubmitTaskStateChange")) >= 2)
    acs.kill()
    control_plane.faults.clear()
    before = len(control_plane.calls)
    start_acs()
    eventually(lambda: bus.durable.get(keys.SENT, untold))
    later = [c.body["task"] for c in control_plane.calls[before:] if c.operation == "SubmitTaskStateChange"]
    assert later == [untold]


def test_thirty_reports_go_out_ten_at_a_time(acs, control_plane, engine, bus, eventually):
    """The limit is ten in flight over all tasks, and one per task."""
    control_plane.gate.clear()
    tasks = [arn("task", f"default/{n:032x}") for n in range(30)]
    for task_arn in tasks:
        engine.emit(*running(task_arn))
    eventually(lambda: control_plane.in_flight == 10)
    time.sleep(0.2)
    assert control_plane.most_in_flight == 10
    control_plane.gate.set()
    eventually(lambda: len(bus.durable.all(keys.SENT)) == 30)
    assert sorted(b["task"] for b in control_plane.bodies("SubmitTaskStateChange")) == sorted(tasks)


def test_errors_of_the_api_are_retried_and_refusals_dropped(acs, control_plane, engine, bus, eventually):
    """HTTP 500 repeats the same body; InvalidParameterException drops the report and counts it as told."""
    answers = [error("ServerException", "", 500), error("ThrottlingException"), error("InternalError", "", 503)]
    control_plane.faults["SubmitTaskStateChange"] = lambda body: answers.pop(0) if answers else None
    first, second = (arn("task", f"default/{n * 32}") for n in "45")
    engine.emit(*running(first))
    eventually(lambda: bus.durable.get(keys.SENT, first))
    raw = [c.raw for c in control_plane.calls if c.operation == "SubmitTaskStateChange"]
    assert len(raw) == 4
    assert len(set(raw)) == 1
    control_plane.faults["SubmitTaskStateChange"] = lambda body: error("InvalidParameterException", "no")
    engine.emit(*running(second))
    eventually(lambda: bus.durable.get(keys.SENT, second))
    eventually(lambda: pending_events(bus) == 0)


def test_credentials_survive_both_redis_and_a_restart_and_end_with_their_task(
    acs, control_plane, engine, bus, redis_servers, start_acs, eventually
):
    """They are published again from memory, read back from Redis, refreshed by ACS, and deleted on release."""
    first = task(roleCredentials={"credentialsId": "c-1", "accessKeyId": "one"})
    control_plane.payload(first)
    eventually(lambda: bus.volatile.get(keys.CREDENTIALS, "c-1"))
    redis_servers[1].kill()
    redis_servers[1].start()
    eventually(lambda: bus.volatile.get(keys.CREDENTIALS, "c-1"))
    acs.kill()
    start_acs()
    eventually(lambda: control_plane.live)
    refresh = {
        "messageId": "m", "taskArn": first["arn"], "roleType": "TaskApplication",
        "roleCredentials": {"credentialsId": "c-1", "accessKeyId": "two"},
    }  # fmt: skip
    control_plane.live.push("IAMRoleCredentialsMessage", {**refresh, "taskArn": "arn:unknown", "messageId": "ignored"})
    engine.save(Task(arn=first["arn"], revision=1, desired=TaskStatus.RUNNING))
    control_plane.live.push("IAMRoleCredentialsMessage", refresh)
    eventually(lambda: control_plane.live.replies("IAMRoleCredentialsAckRequest"))
    assert control_plane.live.replies("IAMRoleCredentialsAckRequest") == [{"credentialsId": "c-1", "messageId": "m"}]
    assert bus.volatile.get(keys.CREDENTIALS, "c-1").access_key_id == "two"
    eventually(lambda: CredentialsChanged(arn=first["arn"], credentials_id="c-1") in engine.read())
    engine.emit(
        TaskChanged(arn=first["arn"], status=TaskStatus.STOPPED),
        CredentialsReleased(arn=first["arn"], credentials_ids=("c-1",)),
    )
    eventually(lambda: bus.volatile.get(keys.CREDENTIALS, "c-1") is None)
    eventually(lambda: pending_events(bus) == 0)


def test_a_redelivered_payload_is_handled_and_acknowledged_again(acs, control_plane, engine, eventually):
    """There is no memory of message ids; the engine knows what it has."""
    same = task()
    control_plane.payload(same)
    control_plane.payload(same)
    eventually(lambda: len(control_plane.live.replies("AckRequest")) == 2)
    eventually(lambda: len(engine.read()) == 2)
    assert all(isinstance(c, RunOrUpdateTask) and c.task.arn == same["arn"] for c in engine.read())


def test_container_changes_alone_are_flushed(start_acs, control_plane, engine, bus, eventually):
    """A container that stops while its task runs on is reported with the task's own status."""
    start_acs(flush=[0.3, 0.4])
    eventually(lambda: control_plane.live, 15)
    task_arn = arn("task", "default/" + "8" * 32)
    engine.save(Task(arn=task_arn, revision=1, known=TaskStatus.RUNNING))
    engine.emit(ContainerChanged(arn=task_arn, name="side", status=ContainerStatus.STOPPED, exit_code=3))
    (body,) = eventually(lambda: control_plane.bodies("SubmitTaskStateChange"))
    assert (body["status"], body["containers"]) == (
        "RUNNING", [{"containerName": "side", "exitCode": 3, "status": "STOPPED"}],
    )  # fmt: skip
    gone = arn("task", "default/" + "9" * 32)
    engine.emit(ContainerChanged(arn=gone, name="side", status=ContainerStatus.STOPPED))
    eventually(lambda: pending_events(bus) == 0)
    assert bus.durable.get(keys.SENT, task_arn) == Sent(
        revision=1, task=TaskStatus.RUNNING, containers={"side": ContainerStatus.STOPPED}
    )


def test_another_cluster_than_the_stored_one_ends_the_service_for_good(acs, control_plane, start_acs):
    """Exit status 5: a restart would not mend it."""
    acs.stop()
    other = start_acs(env={"ECS_CLUSTER": "other"})
    assert other.process.wait(15) == 5
    assert "does not match configured cluster" in other.text()


def test_a_missing_permission_is_named_and_waited_for(start_acs, control_plane, eventually):
    """AccessDeniedException does not end the process; the log says which action is missing."""
    answers = [error("AccessDeniedException", "User is not authorized")]
    control_plane.faults["RegisterContainerInstance"] = lambda body: answers.pop(0) if answers else None
    acs = start_acs()
    eventually(lambda: control_plane.live, 15)
    assert "needs the permission ecs:RegisterContainerInstance" in acs.text()
    tokens = {body["clientToken"] for body in control_plane.bodies("RegisterContainerInstance")}
    assert len(tokens) == 2


def test_an_invalid_registration_ends_the_service_for_good(start_acs, control_plane):
    """ClientException and its like cannot be mended by a restart."""
    control_plane.faults["RegisterContainerInstance"] = lambda body: error("ClientException", "bad")
    acs = start_acs()
    assert acs.process.wait(15) == 5


def test_changed_capabilities_are_registered_again(start_acs, control_plane, bus, eventually):
    """Docker was updated, or the facts of the last life came first; the ARN stays."""
    start_acs(capabilities=0.1)
    eventually(lambda: control_plane.live, 15)
    facts = bus.durable.get(keys.FACTS, keys.FACTS_ID)
    newer = replace(facts, revision=facts.revision + 1, volume_plugins=("fancy",))
    bus.durable.commit(Change().save(keys.FACTS, keys.FACTS_ID, newer))
    eventually(lambda: len(control_plane.bodies("RegisterContainerInstance")) == 2)
    again = control_plane.bodies("RegisterContainerInstance")[1]
    assert {"name": "ecs.capability.docker-plugin.fancy"} in again["attributes"]
    assert again["containerInstanceArn"] == control_plane.instance_arn


def test_a_spot_interruption_drains_the_instance_once(start_acs, control_plane, eventually):
    """An unknown action is not acted upon."""
    control_plane.metadata["meta-data/spot/instance-action"] = '{"action":"flip!"}'
    acs = start_acs(env={"ECS_ENABLE_SPOT_INSTANCE_DRAINING": "true"}, spot=0.1)
    eventually(lambda: "unknown action" in acs.text(), 15)
    assert control_plane.bodies("UpdateContainerInstancesState") == []
    control_plane.metadata["meta-data/spot/instance-action"] = '{"Action":"terminate","time":"2026-01-01T00:00:00Z"}'
    (body,) = eventually(lambda: control_plane.bodies("UpdateContainerInstancesState"))
    assert body == {
        "cluster": "default",
        "containerInstances": [control_plane.instance_arn],
        "status": "DRAINING",
    }
