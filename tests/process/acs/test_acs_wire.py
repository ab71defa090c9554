"""What goes over the wire, byte by byte: the handshake, every reply, every report (spec 02 §1.3, §2.2, §8.5, §10)."""

from __future__ import annotations

import calendar
import time
from typing import Any

import pytest
from gevent.pywsgi import WSGIServer

from common import keys
from common.bus import Change
from common.channel import DialFailed, dial
from common.model.messages import ContainerChanged, ManagedAgentChanged, RunOrUpdateTask, StopVerified, TaskChanged
from common.model.status import ContainerStatus, TaskStatus
from common.model.task import PortBinding, Task
from common.sigv4 import Keys, sign
from tests.fakes.control_plane import arn, error, task

TASK = arn("task", "default/" + "1" * 32)


def acknowledged(control_plane: Any, message_id: str) -> str:
    """The bytes of an AckRequest."""
    return (
        f'{{"type":"AckRequest","message":{{"cluster":"{control_plane.cluster_arn}","containerInstance":'
        f'"{control_plane.instance_arn}","messageId":"{message_id}"}}}}'
    )


def role(id_: str, message_id: str, expiration: str | None) -> str:
    """The bytes of an IAMRoleCredentialsAckRequest."""
    until = "" if expiration is None else f'"expiration":"{expiration}",'
    message = f'{{"credentialsId":"{id_}",{until}"messageId":"{message_id}"}}'
    return f'{{"type":"IAMRoleCredentialsAckRequest","message":{message}}}'


def test_the_handshake_has_these_headers_and_a_signature_of_two_or_three(start_acs, control_plane, eventually):
    """No Origin, no extension, no protocol, no hash of the body; the session token is sent and signed."""
    start_acs(env={"AWS_SESSION_TOKEN": "TOKEN+/=="})
    live = eventually(lambda: control_plane.live, 15)
    assert list(live.headers) == [
        "host", "user-agent", "authorization", "x-amz-date", "x-amz-security-token", "connection", "upgrade",
        "sec-websocket-key", "sec-websocket-version",
    ]  # fmt: skip
    assert live.headers["user-agent"] == "Go-http-client/1.1"
    assert (live.headers["connection"], live.headers["upgrade"]) == ("Upgrade", "websocket")
    assert live.headers["sec-websocket-version"] == "13"
    method, target, version = live.request_line.split(" ")
    assert (method, version) == ("GET", "HTTP/1.1")
    names = [pair.partition("=")[0] for pair in target.partition("?")[2].split("&")]
    assert names == sorted(names)
    at = calendar.timegm(time.strptime(live.headers["x-amz-date"], "%Y%m%dT%H%M%SZ"))
    own = Keys("AKIDEXAMPLE", "EXAMPLEKEY", "TOKEN+/==")
    expected = sign(control_plane.url + target.replace("+", "%20"), "us-west-2", own, at=at)["Authorization"]
    assert live.headers["authorization"] == expected
    assert "SignedHeaders=host;x-amz-date;x-amz-security-token," in expected


def test_a_configured_endpoint_needs_no_discovery(start_acs, control_plane, eventually):
    """Users of PrivateLink name it themselves."""
    start_acs(env={"ECS_ACS_ENDPOINT": control_plane.url + "/acs"})
    live = eventually(lambda: control_plane.live, 15)
    assert live.request_line.startswith("GET /acs/ws?agentHash=")
    assert control_plane.bodies("DiscoverPollEndpoint") == []


def test_replies_stand_on_the_wire_as_in_the_reference(acs, control_plane, engine, eventually):
    """Cases 17, 30, 65, 73, 74, 75 of spec 02: values are echoed, expiration is verbatim."""
    live = control_plane.live
    live.push("HeartbeatMessage", {"healthy": True, "messageId": "123"})
    live.push("HeartbeatMessage", {"healthy": False})
    roles = {"accessKeyId": "a", "secretAccessKey": "s", "sessionToken": "t"}
    both = task(
        roleCredentials={**roles, "credentialsId": "c-1", "expiration": "<soon> & é"},
        executionRoleCredentials={**roles, "credentialsId": "c-2"},
    )
    payload = control_plane.payload(both)
    eventually(lambda: len(live.raw) == 5)
    engine.save(Task(arn=both["arn"], revision=1, desired=TaskStatus.RUNNING))
    for id_, expiration in (("r-1", {"expiration": "later"}), ("r-2", {})):
        given = {**roles, "credentialsId": "c-1", **expiration}
        refresh = {"messageId": id_, "taskArn": both["arn"], "roleType": "TaskApplication", "roleCredentials": given}
        live.push("IAMRoleCredentialsMessage", refresh)
    other = {"clusterArn": "arn:c<", "containerInstanceArn": "arn:other", "messageId": "p-2"}
    live.push("PayloadMessage", {**other, "tasks": []})
    live.push("StageUpdateMessage", {**other, "messageId": "u-1"})
    eventually(lambda: len(live.raw) == 9)
    assert live.raw == [
        '{"type":"HeartbeatAckRequest","message":{"messageId":"123"}}',
        '{"type":"HeartbeatAckRequest","message":{}}',
        acknowledged(control_plane, payload),
        role("c-1", payload, "\\u003csoon\\u003e \\u0026 é"),
        role("c-2", payload, ""),
        role("c-1", "r-1", "later"),
        role("c-1", "r-2", None),
        '{"type":"AckRequest","message":{"cluster":"arn:c\\u003c","containerInstance":"arn:other","messageId":"p-2"}}',
        '{"type":"NackRequest","message":{"cluster":"arn:c\\u003c","containerInstance":"arn:other","messageId":"u-1",'
        '"reason":"Updates are disabled"}}',
    ]


def manifest(control_plane: Any, id_: str, timeline: int, *listed: str) -> dict[str, Any]:
    """A TaskManifestMessage that lists these tasks as running."""
    return {
        "clusterArn": control_plane.cluster_arn, "containerInstanceArn": control_plane.instance_arn,
        "messageId": id_, "timeline": timeline, "generatedAt": 1781525200000,
        "tasks": [{"taskArn": a, "taskClusterArn": "x", "desiredStatus": "RUNNING"} for a in listed],
    }  # fmt: skip


def test_a_manifest_and_its_verification_are_the_documented_frames(acs, control_plane, engine, eventually):
    """The exchange of spec 02 §10.6, and case 38: nothing is asked when everything is listed."""
    live = control_plane.live
    engine.save(Task(arn=TASK, revision=1, desired=TaskStatus.RUNNING))
    live.push("TaskManifestMessage", manifest(control_plane, "m-1", 105, TASK))
    live.push("TaskManifestMessage", manifest(control_plane, "m-2", 106))
    eventually(lambda: len(live.raw) == 3)
    assert live.raw == [
        acknowledged(control_plane, "m-1"),
        acknowledged(control_plane, "m-2"),
        '{"type":"TaskStopVerificationMessage","message":{"messageId":"m-2","stopCandidates":[{"desiredStatus":'
        f'"STOPPED","taskArn":"{TASK}","taskClusterArn":"{control_plane.cluster_arn}"}}]}}}}',
    ]
    stop = [{"taskArn": TASK, "taskClusterArn": control_plane.cluster_arn, "desiredStatus": "RUNNING"}]
    live.push("TaskStopVerificationAck", {"generatedAt": 1781525201000, "messageId": "m-2", "stopTasks": stop})
    eventually(lambda: engine.read() == [StopVerified(arn=TASK)])
    assert len(live.raw) == 3


def test_a_manifest_counts_what_came_before_it(acs, control_plane, engine, eventually):
    """Payloads that the engine has not taken yet: a task that they stop is no candidate, one that they start is."""
    live = control_plane.live
    engine.save(Task(arn=TASK, revision=1, desired=TaskStatus.RUNNING))
    stop, start = task(desired="STOPPED", task_id="1" * 32), task()
    control_plane.payload(stop, start)
    live.push("TaskManifestMessage", manifest(control_plane, "m-1", 50))

    def took() -> bool:
        """Every command is in a document before it is acknowledged, as in the engine."""
        for entry in engine.consumer.read(0.05):
            command = entry.message
            assert isinstance(command, RunOrUpdateTask)
            revision = 2 if command.task.arn == TASK else 1
            document = Task(arn=command.task.arn, revision=revision, desired=command.task.desired)
            change = Change().save(keys.TASK, document.arn, document).acknowledge(keys.COMMANDS, "engine", entry.id)
            engine.bus.durable.commit(change)
        return bool(live.replies("TaskStopVerificationMessage"))

    eventually(took)
    (question,) = live.replies("TaskStopVerificationMessage")
    assert [candidate["taskArn"] for candidate in question["stopCandidates"]] == [start["arn"]]


def test_a_report_with_everything_has_its_members_in_order(acs, control_plane, engine, eventually):
    """Alphabetical, absent where there is nothing, milliseconds cut, IPv6 bindings left out."""
    ports = (
        PortBinding(container_port=80, host_port=32768, protocol="tcp", bind_ip="0.0.0.0"),
        PortBinding(container_port=80, host_port=32768, protocol="tcp", bind_ip="::"),
    )
    engine.emit(
        ContainerChanged(
            arn=TASK, name="app", status=ContainerStatus.STOPPED, exit_code=0, runtime_id="c" * 64,
            image_digest="sha256:2", reason="é" * 1000, port_bindings=ports, single_ports=(80,),
        ),
        ManagedAgentChanged(
            arn=TASK, container_name="app", name="ExecuteCommandAgent", status="RUNNING",
            reason="ExecuteCommandAgent started",
        ),
        TaskChanged(
            arn=TASK, status=TaskStatus.STOPPED, pull_started_at=1781524801.4129, pull_stopped_at=1781524852.0,
            execution_stopped_at=1781525131.004,
        ),
    )  # fmt: skip
    (call,) = eventually(lambda: [c for c in control_plane.calls if c.operation == "SubmitTaskStateChange"])
    assert call.raw == (
        '{"cluster":"default","containers":[{"containerName":"app","exitCode":0,"imageDigest":"sha256:2",'
        '"networkBindings":[{"bindIP":"0.0.0.0","containerPort":80,"hostPort":32768,"protocol":"tcp"}],'
        f'"reason":"{"é" * 512}","runtimeId":"{"c" * 64}","status":"STOPPED"}}],"executionStoppedAt":1781525131.004,'
        '"managedAgents":[{"containerName":"app","managedAgentName":"ExecuteCommandAgent","reason":'
        '"ExecuteCommandAgent started","status":"RUNNING"}],"pullStartedAt":1781524801.412,"pullStoppedAt":1781524852,'
        f'"reason":"","status":"STOPPED","task":"{TASK}"}}'
    )
    assert call.headers["x-amz-target"] == "AmazonEC2ContainerServiceV20141113.SubmitTaskStateChange"
    assert call.headers["content-type"] == "application/x-amz-json-1.1"
    assert call.headers["user-agent"].endswith("(linux; LINUX) (+http://aws.amazon.com/ecs/)")


def test_which_errors_repeat_a_report_and_which_drop_it(start_acs, control_plane, engine, eventually):
    """Quick repetitions for what an SDK repeats, slow ones for refusals; one error drops (cases 55, 56, 86)."""
    start_acs(submission=0.3)
    eventually(lambda: control_plane.live, 15)
    answers = [
        error("ServerException", "", 500), error("ThrottlingException"), error("", "", 502),  # quick
        error("ClientException"), error("AccessDeniedException"),  # slow
        None,
        error("InvalidParameterException"),  # the second report is dropped
    ]  # fmt: skip
    control_plane.faults["SubmitTaskStateChange"] = lambda body: answers.pop(0) if answers else None
    for status in (TaskStatus.MANIFEST_PULLED, TaskStatus.RUNNING, TaskStatus.STOPPED):
        engine.emit(TaskChanged(arn=TASK, status=status))

    def calls() -> list[Any]:
        return [call for call in control_plane.calls if call.operation == "SubmitTaskStateChange"]

    eventually(lambda: len(calls()) == 8)
    assert [call.body["status"] for call in calls()] == ["PENDING"] * 6 + ["RUNNING", "STOPPED"]
    assert len({call.raw for call in calls()[:6]}) == 1
    gaps = [later.at - sooner.at for sooner, later in zip(calls(), calls()[1:], strict=False)]
    bounds = [0.06, 0.12, 0.24, 0.3, 0.39, 0.0, 0.3]
    assert all(gap >= bound for gap, bound in zip(gaps, bounds, strict=True)), gaps
    assert gaps[0] < 0.25 and gaps[5] < 0.25


def test_a_session_can_be_made_over_ipv6(control_plane):
    """The address in brackets is the Host; the port is that of the URL."""
    seen: list[str] = []

    def answer(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ["HTTP_HOST"])
        start_response("503 Busy", [("Content-Length", "0")])
        return []

    try:
        server = WSGIServer(("::1", 0), answer, log=None)
        server.start()
    except OSError:
        pytest.skip("this machine has no IPv6")
    try:
        with pytest.raises(DialFailed, match="503"):
            dial(f"http://[::1]:{server.server_port}/acs/ws?x=1", {})
    finally:
        server.stop()
    assert seen == [f"[::1]:{server.server_port}"]
