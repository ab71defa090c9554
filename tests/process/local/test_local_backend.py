"""Playing the backend by hand: every message of ACS, manifests with their verification, and what the agent answered."""

from __future__ import annotations

from typing import Any

from common.wire import acs
from common.wire.messages import HANDLED, LOGGED
from tests.process.local.harness import FakeAgent, Plane, definition, eventually
from tests.process.local.test_local_misbehaviour import local

Json = dict[str, Any]
INTERFACE = {
    "attachmentArn": "arn:aws:ecs:us-east-1:1:attachment/3333", "ec2Id": "eni-1", "macAddress": "02:7b:64:49:b1:40",
    "subnetGatewayIpv4Address": "10.0.1.1/24", "ipv4Addresses": [{"primary": True, "privateAddress": "10.0.1.25"}],
}  # fmt: skip
MEMBERS: dict[str, Json] = {
    "AttachTaskNetworkInterfacesMessage": {
        "taskArn": "arn:t", "waitTimeoutMs": 300000, "elasticNetworkInterfaces": [INTERFACE],
    },
    "AttachInstanceNetworkInterfacesMessage": {"waitTimeoutMs": 300000, "elasticNetworkInterfaces": [INTERFACE]},
    "ConfirmAttachmentMessage": {"attachment": {"attachmentArn": "arn:a", "attachmentType": "amazonebs"}},
    "StageUpdateMessage": {"updateInfo": {"location": "https://x", "signature": "00"}},
}  # fmt: skip


def test_every_message_of_acs_can_be_sent(plane: Plane, agent: FakeAgent) -> None:
    """With `fill` it is addressed to the connected agent; it arrives as a message that agents recognise."""
    for type_ in (*HANDLED, *LOGGED):
        given = MEMBERS.get(type_, {})
        said = local(plane, "PushAcsMessage", type=type_, message=given, fill=True)

        def arrived(type_: str = type_, id_: str = said["messageId"]) -> Json | None:
            return next((m for m in agent.messages(type_) if m.get("messageId") == id_), None)

        message = eventually(arrived, type_)
        assert message["containerInstanceArn"] == said["containerInstance"] == agent.arn
        frame = acs.decode(acs.encode(type_, message))
        assert frame.type == type_
        assert {name: frame.message[name] for name in given} == given


def test_a_manifest_lists_what_shall_run_and_the_rest_is_stopped(plane: Plane, ecs: Any, agent: FakeAgent) -> None:
    """The agent asks about what it runs beside the list; what the list has, and questions about others, go on."""
    ecs.register_task_definition(**definition())
    kept, left_out, stopping = (ecs.run_task(taskDefinition="web")["tasks"][0]["taskArn"] for _ in range(3))
    for arn in (kept, left_out, stopping):
        agent.payload(arn)
    ecs.stop_task(task=stopping)
    first = local(plane, "SendTaskManifest")
    second = local(plane, "SendTaskManifest", omit=[left_out])
    assert [entry["taskArn"] for entry in first["tasks"]] == [kept, left_out]
    assert [entry["taskArn"] for entry in second["tasks"]] == [kept]
    assert second["timeline"] > first["timeline"] > 0
    eventually(lambda: agent.messages("TaskManifestMessage")[1:] == [first, second], "both manifests")
    candidates = [{"taskArn": arn, "desiredStatus": "STOPPED"} for arn in (left_out, "arn:unknown", kept)]
    agent.send("TaskStopVerificationMessage", {"messageId": first["messageId"], "stopCandidates": candidates})
    agent.send("TaskStopVerificationMessage", {"messageId": second["messageId"], "stopCandidates": candidates})
    (answer,) = eventually(lambda: agent.messages("TaskStopVerificationAck"), "the answer")
    assert answer["messageId"] == second["messageId"]
    assert [entry["taskArn"] for entry in answer["stopTasks"]] == [left_out, "arn:unknown"]
    assert "omit" in local(plane, "SendTaskManifest", omit="x")["message"]


def test_tasks_of_a_forgotten_life_are_stopped_when_their_agent_connects(plane: Plane, ecs: Any) -> None:
    """The state file was deleted: nobody else would ever stop them. The number rises all the same."""
    agent = FakeAgent(plane).connect()
    (before,) = eventually(lambda: agent.messages("TaskManifestMessage"), "the first manifest")
    assert before["tasks"] == []
    question = {
        "messageId": before["messageId"],
        "stopCandidates": [{"taskArn": "arn:old", "desiredStatus": "STOPPED"}],
    }
    agent.send("TaskStopVerificationMessage", question)
    (answer,) = eventually(lambda: agent.messages("TaskStopVerificationAck"), "the answer")
    assert [entry["taskArn"] for entry in answer["stopTasks"]] == ["arn:old"]
    agent.disconnect()
    agent.connect()
    manifests = eventually(lambda: agent.messages("TaskManifestMessage")[1:], "the next manifest")
    assert manifests[0]["timeline"] > before["timeline"] > 1_700_000_000_000


def test_what_agents_say_over_the_session_can_be_read(plane: Plane, agent: FakeAgent) -> None:
    """Acknowledgements, refusals and questions, in order; attachments are among the reports."""
    agent.send("NackRequest", {"messageId": "u", "reason": "Updates are disabled"})
    agent.send("AckRequest", {"messageId": "a"})
    eventually(lambda: len(local(plane, "ListReplies")["replies"]) == 2, "both replies")
    (refusal,) = local(plane, "ListReplies", types=["NackRequest"])["replies"]
    assert (refusal["type"], refusal["message"]["reason"]) == ("NackRequest", "Updates are disabled")
    attached = [{"attachmentArn": "arn:a", "status": "ATTACHED"}]
    agent.client.submit_attachment_state_changes(cluster="default", attachments=attached)
    assert local(plane, "ListReports")["reports"][0]["attachments"] == attached
