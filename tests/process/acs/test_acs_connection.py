"""The process `acs` and its connection: what keeps it, what ends it, what follows."""

from __future__ import annotations

import json
import time

from common import keys
from common.model.messages import (
    StopVerified,
)
from common.model.status import TaskStatus
from common.model.task import Task
from tests.fakes.control_plane import arn, task


def test_a_heartbeat_is_answered_while_redis_is_away(acs, control_plane, redis_servers, eventually):
    """A handler that waits for Redis must not make the control plane believe that the agent is dead."""
    redis_servers[0].kill()
    message_id = control_plane.payload(task())
    control_plane.live.push("HeartbeatMessage", {"healthy": True, "messageId": "beat"})
    eventually(lambda: control_plane.live.replies("HeartbeatAckRequest") == [{"messageId": "beat"}])
    assert control_plane.live.replies("AckRequest") == []
    redis_servers[0].start()
    eventually(lambda: [r["messageId"] for r in control_plane.live.replies("AckRequest")] == [message_id])


def test_unknown_and_broken_frames_leave_the_connection_up(acs, control_plane, eventually):
    """One log line each; no reply, no reconnect."""
    live = control_plane.live
    for text in ('{"type":"FooMessage","message":{}}', "not json", '{"type":"PayloadMessage","message":{"seqNum":"5"}}',
                 '{"type":"HeartbeatMessage"}', "[]", "\ud7ff"):  # fmt: skip
        live.text(text)
    live.frame(2, b"\xff\xfe")
    live.frame(9, b"ping")
    control_plane.payload()
    eventually(lambda: live.replies("AckRequest"))
    assert live.replies("pong") == [b"ping"]
    assert [t for t, _ in live.received] == ["pong", "AckRequest"]
    assert len(control_plane.connections) == 1
    assert "unknown type 'FooMessage'" in acs.text()


def test_the_session_is_opened_again_after_every_kind_of_end(start_acs, control_plane, eventually):
    """Close frame, silent end, reset and refusal; sendCredentials is true until a handshake succeeded."""
    control_plane.refusals.append((400, '{"InvalidClusterException":"Invalid cluster"}'))
    acs = start_acs()
    eventually(lambda: len(control_plane.connections) == 2)
    for number, end in enumerate(("close", "fin", "reset"), start=3):
        eventually(lambda: control_plane.live)
        getattr(control_plane.live, end)()
        eventually(lambda number=number: len(control_plane.connections) == number)
    assert [c.query["sendCredentials"] for c in control_plane.connections] == [
        "true",
        "true",
        "false",
        "false",
        "false",
    ]
    assert "InvalidClusterException: Invalid cluster" in acs.text()
    assert len(control_plane.bodies("RegisterContainerInstance")) == 1


def test_a_silent_server_is_left_and_unknown_messages_are_no_sign_of_life(start_acs, control_plane, eventually):
    """The inactivity timer cuts the TCP connection without a close frame."""
    start_acs(heartbeat=0.5, heartbeat_spread=0.1)
    first = eventually(lambda: control_plane.live, 15)
    begin = time.monotonic()
    while len(control_plane.connections) == 1 and time.monotonic() < begin + 5:
        if not first.ended:
            first.text('{"type":"FooMessage","message":{}}')
        time.sleep(0.1)
    assert len(control_plane.connections) >= 2
    assert first.close_frame is None


def test_a_connection_of_full_age_is_renewed(start_acs, control_plane, eventually):
    """The agent says goodbye with the reference's words; a server that does not answer is cut."""
    start_acs(age=0.3, age_spread=0.1, close_wait=0.3)
    first = eventually(lambda: control_plane.live, 15)
    eventually(lambda: len(control_plane.connections) > 1)
    assert first.close_frame == b"\x03\xe8ConnectionExpired: Reconnect to continue"


def test_a_deregistered_instance_waits_long_and_does_not_register_again(start_acs, control_plane, bus, eventually):
    """The session document says why, in words."""
    control_plane.refusals.append((400, json.dumps({"InactiveInstanceException": "gone"})))
    start_acs(inactive=1.0)
    eventually(lambda: len(control_plane.connections) == 1, 15)
    session = eventually(lambda: bus.volatile.get(keys.SESSION, "acs"))
    assert (session.connected, session.reason) == (False, "InactiveInstanceException: gone")
    assert session.inactive
    eventually(lambda: control_plane.live)
    eventually(lambda: not bus.volatile.get(keys.SESSION, "acs").inactive)
    gap = control_plane.connections[1].at - control_plane.connections[0].at
    assert gap >= 1.0
    assert len(control_plane.bodies("RegisterContainerInstance")) == 1


def test_a_manifest_finds_tasks_that_should_not_run(acs, control_plane, engine, bus, eventually):
    """Only after ECS confirmed it, once, is the task stopped; the number is saved before the acknowledgement."""
    kept, extra = (Task(arn=arn("task", f"default/{n * 32}"), revision=1, desired=TaskStatus.RUNNING) for n in "67")
    engine.save(kept)
    engine.save(extra)
    manifest = {
        "clusterArn": control_plane.cluster_arn, "containerInstanceArn": control_plane.instance_arn, "messageId": "m-1",
        "timeline": 7, "tasks": [{"taskArn": kept.arn, "taskClusterArn": "x", "desiredStatus": "RUNNING"}],
    }  # fmt: skip
    live = control_plane.live
    live.push("TaskManifestMessage", manifest)
    (question,) = eventually(lambda: live.replies("TaskStopVerificationMessage"))
    assert question == {
        "messageId": "m-1",
        "stopCandidates": [
            {"desiredStatus": "STOPPED", "taskArn": extra.arn, "taskClusterArn": control_plane.cluster_arn}
        ],
    }
    assert bus.durable.get(keys.INSTANCE, keys.INSTANCE_ID).manifest_sequence == 7
    live.push("TaskManifestMessage", {**manifest, "messageId": "m-2"})  # not newer
    stop = {"messageId": "m-1", "stopTasks": [{"taskArn": extra.arn}, {"taskArn": "arn:unknown"}]}
    live.push("TaskStopVerificationAck", {**stop, "messageId": "other"})
    live.push("TaskStopVerificationAck", stop)
    live.push("TaskStopVerificationAck", stop)
    control_plane.payload()
    eventually(lambda: len(live.replies("AckRequest")) == 2)
    eventually(lambda: engine.read())
    assert engine.read() == [StopVerified(arn=extra.arn)]


def test_updates_are_refused(acs, control_plane, eventually):
    """Packages are updated by the package manager (case 65)."""
    base = {"clusterArn": "arn:c", "containerInstanceArn": "arn:i"}
    live = control_plane.live
    live.push("StageUpdateMessage", {**base, "messageId": "u-1"})
    live.push("PerformUpdateMessage", {**base, "messageId": "u-2"})
    eventually(lambda: len(live.replies("NackRequest")) == 2)
    assert [(r["messageId"], r["reason"]) for r in live.replies("NackRequest")] == [
        ("u-1", "Updates are disabled"), ("u-2", "Updates are disabled"),
    ]  # fmt: skip
