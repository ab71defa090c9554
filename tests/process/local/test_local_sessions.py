"""ACS and TCS: delivery until acknowledged, credentials, heartbeats, health, and how sessions end."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest
import websocket

from tests.process.local.harness import FakeAgent, Plane, definition, eventually

ROLE = "arn:aws:iam::000000000000:role/r"


def run(ecs: Any, **more: Any) -> str:
    """Register and run one task; its ARN."""
    ecs.register_task_definition(**definition(**more))
    arn: str = ecs.run_task(taskDefinition="web")["tasks"][0]["taskArn"]
    return arn


def test_a_payload_is_sent_again_until_it_is_acknowledged(plane: Plane, ecs: Any) -> None:
    """The same message, some seconds apart, then never again."""
    agent = FakeAgent(plane, acks=False).connect()
    run(ecs)
    twice = eventually(lambda: agent.messages("PayloadMessage")[1:], "a second copy of the payload", 15)
    first = agent.messages("PayloadMessage")[0]
    assert {m["messageId"] for m in [first, *twice]} == {first["messageId"]}
    agent.ack(first)
    count = len(agent.messages("PayloadMessage"))
    agent.disconnect()
    agent.connect()
    arn = run(ecs)
    agent.payload(arn)
    assert len(agent.messages("PayloadMessage")) == count + 1


def test_what_was_not_acknowledged_comes_again_after_a_reconnect(plane: Plane, ecs: Any) -> None:
    """At once, with the same message id; sequence numbers rise from message to message."""
    agent = FakeAgent(plane, acks=False).connect()
    arns = [run(ecs), run(ecs)]
    for arn in arns:
        agent.payload(arn)
    before = {m["messageId"]: m["seqNum"] for m in agent.messages("PayloadMessage")}
    assert len(set(before.values())) == 2
    agent.disconnect()
    agent.received.clear()
    agent.connect()
    for arn in arns:
        agent.payload(arn)
    assert {m["messageId"]: m["seqNum"] for m in agent.messages("PayloadMessage")} == before


def test_a_task_stopped_before_its_payload_was_acknowledged_is_only_stopped(plane: Plane, ecs: Any) -> None:
    """The agent gets one word about it, the last (spec 02 §4.5: it answers STOPPED for a task it does not know)."""
    agent = FakeAgent(plane, acks=False)
    agent.connect()
    arn = run(ecs)
    agent.payload(arn)
    agent.disconnect()
    ecs.stop_task(task=arn)
    agent.received.clear()
    agent.connect()
    assert agent.payload(arn, "STOPPED")["containers"]
    assert [t["desiredStatus"] for m in agent.messages("PayloadMessage") for t in m["tasks"]] == ["STOPPED"]


def test_a_reconnected_agent_gets_credentials_for_the_tasks_it_has(plane: Plane, ecs: Any, agent: FakeAgent) -> None:
    """They are in memory only on both sides; each set is sent until it is acknowledged."""
    arn = run(ecs, taskRoleArn=ROLE, executionRoleArn=ROLE)
    sent = agent.payload(arn)
    eventually(lambda: ecs.describe_tasks(tasks=[arn])["tasks"], "the task")
    agent.disconnect()
    agent.received.clear()
    agent.connect()
    messages = eventually(lambda: agent.messages("IAMRoleCredentialsMessage")[1:] and
                          agent.messages("IAMRoleCredentialsMessage"), "credentials of both roles")  # fmt: skip
    by_type = {m["roleType"]: m["roleCredentials"]["credentialsId"] for m in messages}
    assert by_type == {"TaskApplication": sent["roleCredentials"]["credentialsId"],
                       "TaskExecution": sent["executionRoleCredentials"]["credentialsId"]}  # fmt: skip
    assert {m["taskArn"] for m in messages} == {arn}


def test_the_callers_own_credentials_are_handed_to_tasks(plane: Plane) -> None:
    """From the standard chain of the control plane's process."""
    plane.close()
    plane.environment |= {"AWS_ACCESS_KEY_ID": "AKMINE", "AWS_SECRET_ACCESS_KEY": "mine"}
    plane.start()
    ecs = plane.client()
    agent = FakeAgent(plane).connect()
    assert agent.payload(run(ecs, taskRoleArn=ROLE))["roleCredentials"]["accessKeyId"] == "AKMINE"
    assert b"AKMINE" not in b"".join(p.read_bytes() for p in plane.directory.iterdir())


def test_any_message_can_be_pushed_for_a_trial(plane: Plane, agent: FakeAgent) -> None:
    """For tests and demonstrations: one call beside the ECS API."""
    body = {"type": "CloseMessage", "message": {"messageId": "m", "message": "soon"}}
    request = urllib.request.Request(
        plane.url, data=json.dumps(body).encode(), headers={"X-Amz-Target": "EcsLocal.PushAcsMessage"}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert json.load(answer) == {"containerInstance": agent.arn, "messageId": "m"}
    assert eventually(lambda: agent.messages("CloseMessage"), "the message") == [body["message"]]


def test_the_end_of_a_session_has_a_status_code(plane: Plane, ecs: Any, agent: FakeAgent) -> None:
    """A close frame without one would send the agent into back-off (spec 02 §3.2)."""
    plane.close()
    eventually(lambda: agent.closes, "the close frame")
    assert agent.closes == [(1001, "the control plane is stopping")]


def test_a_deregistered_instance_is_told_so_and_not_let_in_again(plane: Plane, ecs: Any, agent: FakeAgent) -> None:
    """The words InactiveInstanceException in the close reason and in the refused handshake (spec 02 §3.4)."""
    ecs.deregister_container_instance(containerInstance=agent.arn, force=True)
    eventually(lambda: agent.closes, "the close frame")
    assert agent.closes[0][0] == 1008 and "InactiveInstanceException" in str(agent.closes[0][1])
    with pytest.raises(websocket.WebSocketBadStatusException) as error:
        websocket.create_connection(f"ws://127.0.0.1:{plane.port}/acs/ws?containerInstanceArn={agent.arn}", timeout=5)
    assert error.value.status_code == 400
    assert json.loads(error.value.resp_body or b"{}")["type"] == "InactiveInstanceException"


def test_a_second_session_of_the_same_instance_replaces_the_first(plane: Plane, agent: FakeAgent) -> None:
    """The agent was restarted before its old connection was noticed dead."""
    url = f"ws://127.0.0.1:{plane.port}/acs/ws?containerInstanceArn={agent.arn}"
    second = websocket.create_connection(url, timeout=5)
    eventually(lambda: agent.closes, "the first session is closed")
    assert agent.closes[0][0] == 1000 and agent.view()["agentConnected"]
    second.close()


def test_frames_that_are_no_messages_do_not_end_the_session(plane: Plane, ecs: Any, agent: FakeAgent) -> None:
    """Not JSON, no type, an unknown type: logged, and work goes on."""
    assert agent._socket is not None
    for text in ("nonsense", "[]", '{"type": 5}', '{"type": "Unknown", "message": null}'):
        agent._socket.send(text)
    agent.payload(run(ecs))


def test_health_reported_over_tcs_shows_in_the_task(plane: Plane, ecs: Any, agent: FakeAgent) -> None:
    """Frames with the signed header block are understood and each is acknowledged (spec 07 §12)."""
    arn = run(ecs)
    agent.report(arn, "RUNNING", {"containerName": "web", "status": "RUNNING"})
    endpoint = ecs.discover_poll_endpoint(containerInstance=agent.arn)["telemetryEndpoint"]
    tcs = websocket.create_connection(f"{endpoint.replace('http', 'ws')}ws?containerInstance={agent.arn}", timeout=5)
    health = {"tasks": [{"taskArn": arn, "containers": [{"containerName": "web", "healthStatus": "HEALTHY"}]}]}
    status = {"statuses": [{"type": "ContainerRuntime", "status": "OK", "lastUpdated": 1.5, "lastStatusChange": 1.5}]}
    for type_, message, ack in (
        ("PublishHealthRequest", health, "AckPublishHealth"),
        ("PublishMetricsRequest", {}, "AckPublishMetric"),
        ("PublishInstanceStatusRequest", status, "AckPublishInstanceStatus"),
        ("PublishHealthRequest", {"tasks": [{"no": "arn"}]}, "AckPublishHealth"),
    ):
        tcs.send("Authorization: x\r\nHost: y\r\n\r\n" + json.dumps({"type": type_, "message": message}))
        assert json.loads(tcs.recv())["type"] == ack
    task = ecs.describe_tasks(tasks=[arn])["tasks"][0]
    assert (task["healthStatus"], task["containers"][0]["healthStatus"]) == ("HEALTHY", "HEALTHY")
    shown = ecs.describe_container_instances(containerInstances=[agent.arn], include=["CONTAINER_INSTANCE_HEALTH"])[
        "containerInstances"
    ][0]
    assert shown["healthStatus"]["overallStatus"] == "OK"
    tcs.close()


def test_a_plain_request_to_a_websocket_path_is_refused(plane: Plane) -> None:
    """A browser that looks gets a sentence."""
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(plane.url + "/tcs/ws", timeout=5)
    assert error.value.code == 400
