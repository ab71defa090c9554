"""What the control plane does wrong on demand: sessions, handshakes, API calls; bounded, and off without a demand."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from typing import Any

import pytest
import websocket
from botocore.exceptions import ClientError, ConnectionClosedError

from tests.process.local.harness import FakeAgent, Plane, definition, eventually

Json = dict[str, Any]


def local(plane: Plane, call: str, **body: Any) -> Json:
    """One EcsLocal call; the error's code and text when it is refused."""
    request = urllib.request.Request(
        plane.url, data=json.dumps(body).encode(), headers={"X-Amz-Target": f"EcsLocal.{call}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            said: Json = json.load(answer)
    except urllib.error.HTTPError as error:
        said = json.load(error)
    return said


def raw_agent(plane: Plane, agent: FakeAgent) -> websocket.WebSocket:
    """A second connection of the same instance, read frame by frame; it replaces the first."""
    connection = websocket.create_connection(
        f"ws://127.0.0.1:{plane.port}/acs/ws?containerInstanceArn={agent.arn}", timeout=5
    )
    eventually(lambda: agent.closes, "the first connection is replaced")
    assert "TaskManifestMessage" in str(connection.recv()), "the first message says which tasks shall run"
    return connection


def run(ecs: Any) -> str:
    """Run one task; its ARN."""
    ecs.register_task_definition(**definition())
    arn: str = ecs.run_task(taskDefinition="web")["tasks"][0]["taskArn"]
    return arn


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1013, 4000])
def test_a_session_is_closed_with_any_code(plane: Plane, agent: FakeAgent, code: int) -> None:
    """With the text that was asked for."""
    local(plane, "Misbehave", do="close", code=code, message="as asked")
    eventually(lambda: agent.closes, "the close frame")
    assert agent.closes == [(code, "as asked")]


def test_a_session_ends_without_a_word_or_with_a_reset(plane: Plane, agent: FakeAgent) -> None:
    """The first looks like an orderly end of the stream, the second like a broken network."""
    connection = raw_agent(plane, agent)
    local(plane, "Misbehave", do="drop")
    with pytest.raises(websocket.WebSocketConnectionClosedException):
        connection.recv_frame()
    connection = websocket.create_connection(
        f"ws://127.0.0.1:{plane.port}/acs/ws?containerInstanceArn={agent.arn}", timeout=5
    )
    connection.recv()
    local(plane, "Misbehave", do="reset")
    with pytest.raises(ConnectionResetError):
        connection.recv_frame()
    eventually(lambda: not agent.view()["agentConnected"], "the session is over")


def test_a_stalled_session_is_open_and_silent_and_then_goes_on(plane: Plane, ecs: Any, agent: FakeAgent) -> None:
    """The payload of a task that was run meanwhile comes afterwards."""
    local(plane, "Misbehave", do="stall", seconds=1)
    began = time.monotonic()
    arn = run(ecs)
    assert agent.view()["agentConnected"] and not agent.messages("PayloadMessage")
    agent.payload(arn)
    assert time.monotonic() - began >= 0.9


@pytest.mark.parametrize("kind", ["text", "unknown", "shape", "binary", "empty", "fragment", "reserved"])
def test_garbage_is_sent_as_it_is(plane: Plane, agent: FakeAgent, kind: str) -> None:
    """Frames that no backend sends; an agent must outlive each."""
    connection = raw_agent(plane, agent)
    assert local(plane, "Misbehave", do="garbage", garbage=kind)["used"] == {"garbage": 1}
    first, second = connection.sock.recv(2)
    body = connection.sock.recv(second & 0x7F | 1024) if second & 0x7F else b""
    assert (first & 0x0F) == {"binary": 2, "fragment": 0, "reserved": 3}.get(kind, 1)
    assert (body == b"") == (kind == "empty")
    connection.close()


def test_payloads_are_delivered_again_also_of_stopped_tasks(plane: Plane, ecs: Any, agent: FakeAgent) -> None:
    """The same message ids; an acknowledged message that comes again changes nothing here."""
    arns = [run(ecs), run(ecs)]
    for arn in arns:
        agent.payload(arn)
    agent.report(arns[0], "STOPPED", {"containerName": "web", "status": "STOPPED", "exitCode": 0})
    before = [m["messageId"] for m in agent.messages("PayloadMessage")]
    local(plane, "Misbehave", do="redeliver", count=5)
    eventually(lambda: len(agent.messages("PayloadMessage")) == 4, "both again")
    assert sorted(m["messageId"] for m in agent.messages("PayloadMessage")[2:]) == sorted(before)
    assert ecs.describe_tasks(tasks=[arns[0]])["tasks"][0]["lastStatus"] == "STOPPED"


def test_handshakes_are_refused_as_often_as_asked(plane: Plane, agent: FakeAgent) -> None:
    """With the exception that the agent knows."""
    local(plane, "Misbehave", do="refuse", status=403, code="AccessDeniedException", message="no", count=1)
    agent.disconnect()
    url = f"ws://127.0.0.1:{plane.port}/acs/ws?containerInstanceArn={agent.arn}"
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        websocket.create_connection(url, timeout=5)
    assert refused.value.status_code == 403
    assert json.loads(refused.value.resp_body or b"") == {
        "type": "AccessDeniedException", "message": {"message": "no"}
    }  # fmt: skip
    websocket.create_connection(url, timeout=5).close()


def test_api_calls_fail_without_effect_as_often_as_asked(plane: Plane, ecs: Any, agent: FakeAgent) -> None:
    """An error with code and status, then throttling, then as usual; a client's calls are left alone."""
    local(plane, "Misbehave", do="error", operation="SubmitTaskStateChange", code="ServerException", status=500)
    local(plane, "Misbehave", do="throttle", count=1)
    arn = run(ecs)
    said = []
    for _ in range(2):
        with pytest.raises(ClientError) as refused:
            agent.report(arn, "RUNNING")
        said.append(
            (refused.value.response["Error"]["Code"], refused.value.response["ResponseMetadata"]["HTTPStatusCode"])
        )
    assert said == [("ServerException", 500), ("ThrottlingException", 400)]
    assert local(plane, "ListReports")["reports"] == []
    agent.report(arn, "RUNNING", {"containerName": "web", "status": "RUNNING"})
    (report,) = local(plane, "ListReports", tasks=[arn])["reports"]
    assert (report["status"], report["answered"]) == ("RUNNING", True)
    assert report["containers"] == [{"name": "web", "status": "RUNNING"}]


def test_answers_are_late_cut_or_lost(plane: Plane, ecs: Any, agent: FakeAgent) -> None:
    """A cut call was not done, a lost one was: its report is in the list as not answered."""
    arn = run(ecs)
    local(plane, "Misbehave", do="delay", delaySeconds=0.4)
    began = time.monotonic()
    agent.report(arn, "RUNNING")
    assert time.monotonic() - began >= 0.4
    for do, heard in (("cut", 1), ("lose", 2)):
        local(plane, "Misbehave", do=do, operation="SubmitTaskStateChange")
        with pytest.raises(ConnectionClosedError):
            agent.report(arn, "STOPPED")
        reports = local(plane, "ListReports", tasks=[arn])["reports"]
        assert len(reports) == heard
    assert [r["answered"] for r in reports] == [True, False]
    assert ecs.describe_tasks(tasks=[arn])["tasks"][0]["lastStatus"] == "STOPPED"


def test_every_misbehaviour_is_bounded_and_can_be_ended(plane: Plane, agent: FakeAgent) -> None:
    """By count, by time, and all at once; none outlives the process."""
    local(plane, "Misbehave", do="error", count=100_000, seconds=0.3)
    (rule,) = local(plane, "Misbehave", do="throttle", count=7, operation="SubmitTaskStateChange")["rules"][1:]
    assert (rule["do"], rule["left"], rule["operation"]) == ("throttle", 7, "SubmitTaskStateChange")
    eventually(lambda: len(local(plane, "Misbehave", do="redeliver")["rules"]) == 1, "the first has ended")
    assert local(plane, "Behave")["rules"] == []
    local(plane, "Misbehave", do="refuse", count=1000)
    plane.kill()
    plane.start()
    agent.connect()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"do": "explode"}, "'do' must be one of error, throttle"),
        ({"do": "error", "count": 0}, "'count' must be 1 to 100000"),
        ({"do": "error", "seconds": 1e9}, "'seconds' must be above 0 and at most 3600"),
        ({"do": "error", "chance": 2}, "'chance' must be above 0 and at most 1"),
        ({"do": "stall", "session": "tcs"}, "'stall' is for acs only"),
        ({"do": "close", "code": "x"}, "'code' of a close frame must be a number"),
        ({"do": "garbage", "garbage": "x"}, "'garbage' must be one of text, unknown"),
        ({"do": "error", "often": True}, "unknown field `often`"),
        ({}, "missing required field `do`"),
    ],
)
def test_a_demand_that_makes_no_sense_is_refused_in_words(plane: Plane, body: Json, text: str) -> None:
    """All faults at once, and nothing happens."""
    said = local(plane, "Misbehave", **body)
    assert said["__type"] == "ClientException" and text in said["message"]
    assert local(plane, "Behave") == {"rules": [], "used": {}}
    assert "there are: PushAcsMessage" in local(plane, "Explode")["message"]
    with socket.create_connection(("127.0.0.1", plane.port), 5):
        pass
