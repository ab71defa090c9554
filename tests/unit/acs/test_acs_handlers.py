"""Handlers of ACS messages against stores in memory: order, acknowledgement, and what must not happen."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common import keys
from common.bus import Change
from common.errors import Temporary
from common.memory import MemoryBus
from common.model.agent import Instance
from common.model.messages import Command, RunOrUpdateTask, TaskChanged
from common.model.status import TaskStatus
from common.model.task import Task
from common.wire.acs import Frame, decode
from services.acs import handlers as handlers_module
from services.acs import roles as roles_module
from services.acs.attachments import Attachments
from services.acs.handlers import Handlers
from services.acs.instance import InstanceRecord
from services.acs.roles import RoleCredentials

BASE = {"clusterArn": "arn:aws:ecs:r:1:cluster/c", "containerInstanceArn": "arn:aws:ecs:r:1:container-instance/i"}
A, B = "arn:aws:ecs:r:1:task/c/a", "arn:aws:ecs:r:1:task/c/b"
ROLE = {"credentialsId": "c-1", "accessKeyId": "A", "secretAccessKey": "S"}


class Channel:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def reply(self, text: str) -> None:
        self.sent.append(json.loads(text))

    @property
    def types(self) -> list[str]:
        """The types of all replies."""
        return [frame["type"] for frame in self.sent]


class Rig:
    """Handlers with nothing real around them."""

    def __init__(self) -> None:
        self.bus, self.channel = MemoryBus(), Channel()
        self.rejected: list[TaskChanged] = []
        self.roles = RoleCredentials(self.bus.volatile)  # type: ignore[arg-type]
        self.record = InstanceRecord(self.bus.durable, Instance(arn="i", manifest_sequence=12))  # type: ignore[arg-type]
        self.attachments = Attachments(self.bus.durable, lambda: lambda record: False)  # type: ignore[arg-type]
        self.untaken = 0  # commands that the engine has not done
        self.handlers = Handlers(
            self.bus, self.roles, self.record, self.rejected.append, self.attachments, lambda: self.untaken,  # type: ignore[arg-type]
        )  # fmt: skip
        self._consumer = self.bus.durable.consumer(keys.COMMANDS, "engine", Command)

    def give(self, type_: str, **message: Any) -> list[str]:
        """Handle a message as it would come from the wire; answers the types of the replies."""
        before = len(self.channel.sent)
        frame = decode(json.dumps({"type": type_, "message": {**BASE, "messageId": "m", **message}}))
        self.handlers.handle(self.channel, frame)  # type: ignore[arg-type]
        return self.channel.types[before:]

    def commands(self) -> list[Any]:
        """The engine's new commands."""
        return [entry.message for entry in self._consumer.read(0.001)]

    def known(self, arn: str, **facts: Any) -> None:
        """The engine has this task."""
        self.bus.durable.commit(Change().save(keys.TASK, arn, Task(arn=arn, revision=1, **facts)))


@pytest.fixture
def rig() -> Rig:
    """An agent without tasks."""
    return Rig()


def test_a_payload_without_its_three_names_is_ignored(rig):
    """No reply and no effect."""
    for missing in ("messageId", "clusterArn", "containerInstanceArn"):
        assert rig.give("PayloadMessage", tasks=[{"arn": A}], **{missing: ""}) == []
    assert rig.commands() == []


def test_an_empty_payload_is_acknowledged(rig):
    """Tasks may also be absent; another instance's ARN is echoed."""
    assert rig.give("PayloadMessage", tasks=[]) == ["AckRequest"]
    assert rig.give("PayloadMessage", containerInstanceArn="arn:other") == ["AckRequest"]
    assert rig.channel.sent[-1]["message"]["containerInstance"] == "arn:other"


def test_what_stops_is_handed_over_before_what_starts(rig):
    """Case 21: it gives its resources to what starts; the acknowledgement is one."""
    tasks = [
        {"arn": A, "desiredStatus": "RUNNING"}, {"arn": "s1", "desiredStatus": "STOPPED"},
        {"arn": B, "desiredStatus": "RUNNING"}, {"arn": "s2", "desiredStatus": "STOPPED"},
    ]  # fmt: skip
    assert rig.give("PayloadMessage", tasks=tasks) == ["AckRequest"]
    assert [command.task.arn for command in rig.commands()] == ["s1", "s2", A, B]


@pytest.mark.parametrize("bad", ["task/c/a", "arn:aws:ecs:task", "", None])
def test_an_arn_that_is_none_holds_back_the_acknowledgement_of_a_task_that_shall_run(rig, bad):
    """It is handed over all the same, unless it is empty; one that shall stop is acknowledged."""
    named = {} if bad is None else {"arn": bad}
    good = {"arn": A, "desiredStatus": "RUNNING"}
    assert rig.give("PayloadMessage", tasks=[{**named, "desiredStatus": "RUNNING"}, good]) == []
    assert [command.task.arn for command in rig.commands()] == ([bad, A] if bad else [A])
    assert rig.give("PayloadMessage", tasks=[{**named, "desiredStatus": "STOPPED"}]) == ["AckRequest"]
    assert [command.task.arn for command in rig.commands()] == ([bad] if bad else [])
    assert rig.rejected == []


def test_a_task_that_stands_twice_in_a_payload_has_each_set_of_credentials_acknowledged(rig):
    """Each task of the list has its own."""
    task = {"arn": A, "desiredStatus": "RUNNING"}
    roles = [{**ROLE, "credentialsId": id_} for id_ in ("c-1", "c-2")]
    rig.give("PayloadMessage", tasks=[{**task, "roleCredentials": role} for role in roles])
    assert [frame["message"].get("credentialsId") for frame in rig.channel.sent] == [None, "c-1", "c-2"]
    assert {"c-1", "c-2"} == set(rig.bus.volatile.all(keys.CREDENTIALS))


def test_a_task_that_cannot_run_is_reported_at_each_delivery_and_holds_back_all_acknowledgements(rig):
    """Cases 22 and 23: also those of the credentials of the task beside it, which runs."""
    good = {"arn": A, "desiredStatus": "RUNNING", "roleCredentials": ROLE}
    bad = {"arn": B, "desiredStatus": "RUNNING", "volumes": [{"name": "v", "type": "ebs"}]}
    for delivery in (1, 2):
        assert rig.give("PayloadMessage", tasks=[good, bad]) == []
        assert [command.task.arn for command in rig.commands()] == [A]
        assert [change.reason for change in rig.rejected] == [
            'UnrecogniedTaskError: Error loading task - unrecognized volume type: "ebs"'
        ] * delivery


def test_task_level_overrides_are_not_looked_at(rig):
    """Case 72: a text that is no JSON."""
    assert rig.give("PayloadMessage", tasks=[{"arn": A, "overrides": "{nope"}]) == ["AckRequest"]


def test_an_empty_task_spoils_the_acknowledgement(rig):
    """The others are handed over all the same."""
    assert rig.give("PayloadMessage", tasks=[None, {"arn": A, "desiredStatus": "RUNNING"}]) == []
    assert [c.task.arn for c in rig.commands()] == [A]


def test_a_broken_task_of_a_running_arn_is_not_reported_as_stopped(rig):
    """The report would tell ECS that the running task is gone."""
    rig.known(A, known=TaskStatus.RUNNING)
    assert rig.give("PayloadMessage", tasks=[{"arn": A, "desiredStatus": "?"}, {"desiredStatus": "?"}]) == []
    assert rig.rejected == []
    rig.give("PayloadMessage", tasks=[{"arn": B, "desiredStatus": "?"}])
    assert rig.rejected == [
        TaskChanged(
            arn=B, status=TaskStatus.STOPPED,
            reason="UnrecogniedTaskError: Error loading task - Unrecognized TaskStatus",
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("desired", "facts", "stored"),
    [
        ("RUNNING", None, True),
        ("STOPPED", None, False),
        ("STOPPED", {"known": TaskStatus.RUNNING}, True),
        ("STOPPED", {"known": TaskStatus.STOPPED}, False),
        ("RUNNING", {"known": TaskStatus.STOPPED}, False),
    ],
)
def test_credentials_of_a_task_that_is_over_are_acknowledged_but_not_kept(rig, desired, facts, stored):
    """Nothing would ever delete them."""
    if facts is not None:
        rig.known(A, **facts)
    replies = rig.give("PayloadMessage", tasks=[{"arn": A, "desiredStatus": desired, "roleCredentials": ROLE}])
    assert replies == ["AckRequest", "IAMRoleCredentialsAckRequest"]
    assert rig.channel.sent[-1]["message"] == {"credentialsId": "c-1", "expiration": "", "messageId": "m"}
    assert (rig.bus.volatile.get(keys.CREDENTIALS, "c-1") is not None) == stored


def test_nothing_is_acknowledged_when_the_stream_cannot_be_written(rig, monkeypatch):
    """The process is ending; ECS sends the payload again."""

    def refuse(change: Change, deadline_seconds: float | None = None) -> bool:
        raise Temporary("Redis does not answer")

    monkeypatch.setattr(rig.bus.durable, "commit", refuse)
    assert rig.give("PayloadMessage", tasks=[{"arn": A, "desiredStatus": "RUNNING"}]) == []


def test_a_fault_in_a_handler_is_not_the_end(rig, monkeypatch):
    """It is logged with its place, and the next message is handled."""
    monkeypatch.setattr(rig.bus.durable, "all", lambda kind: 1 / 0)
    assert rig.give("TaskManifestMessage", timeline=20) == []
    assert rig.give("PayloadMessage") == ["AckRequest"]


@pytest.mark.parametrize(("timeline", "replies"), [(12, []), (11, []), (None, []), (13, ["AckRequest"])])
def test_only_a_newer_manifest_counts(rig, timeline, replies):
    """One without a number is none."""
    extra = {} if timeline is None else {"timeline": timeline}
    assert rig.give("TaskManifestMessage", **extra) == replies
    assert rig.record.current.manifest_sequence == (13 if replies else 12)


def test_a_manifest_without_a_number_is_ignored_by_an_agent_that_has_seen_none(rig):
    """Its own number is -1 then; 0 would be newer."""
    rig.handlers._sequence = -1
    assert rig.give("TaskManifestMessage") == []
    assert rig.give("TaskManifestMessage", timeline=0) == ["AckRequest"]


def test_a_manifest_without_names_is_answered_without_them(rig):
    """What is absent is left out; the verification of such a manifest cannot be told from another's."""
    rig.known(A, desired=TaskStatus.RUNNING)
    rig.handlers.handle(rig.channel, Frame("TaskManifestMessage", {"timeline": 13}))
    assert rig.channel.sent == [
        {"type": "AckRequest", "message": {}},
        {
            "type": "TaskStopVerificationMessage",
            "message": {"stopCandidates": [{"desiredStatus": "STOPPED", "taskArn": A}]},
        },
    ]
    rig.handlers.handle(rig.channel, Frame("TaskStopVerificationAck", {"stopTasks": [{"taskArn": A}]}))
    assert rig.commands() == []


def test_a_manifest_does_not_wait_for_ever_for_an_engine_that_is_away(rig, monkeypatch):
    """It is answered from what is known; a stop needs the confirmation of ECS anyway."""
    monkeypatch.setattr(handlers_module, "ENGINE_SECONDS", 0.05)
    rig.untaken = 1
    rig.known("t1", desired=TaskStatus.RUNNING)
    assert rig.give("TaskManifestMessage", timeline=13) == ["AckRequest", "TaskStopVerificationMessage"]


def test_a_payload_s_number_outdates_older_manifests_in_memory_only(rig):
    """A restart falls back to the last manifest's number (conformance case 40)."""
    rig.give("PayloadMessage", seqNum=20)
    assert rig.give("TaskManifestMessage", timeline=15) == []
    assert rig.record.current.manifest_sequence == 12


def test_candidates_are_tasks_that_should_run_and_are_not_listed_as_running(rig):
    """Internal tasks and tasks that are to stop never are; a task listed as STOPPED is."""
    rig.known("t1", desired=TaskStatus.RUNNING)
    rig.known("t2", desired=TaskStatus.RUNNING)
    rig.known("t3", desired=TaskStatus.STOPPED)
    rig.known("relay", desired=TaskStatus.RUNNING, is_internal=True)
    tasks = [{"taskArn": "t1", "desiredStatus": "RUNNING"}, {"taskArn": "t2", "desiredStatus": "STOPPED"}, None]
    assert rig.give("TaskManifestMessage", timeline=13, tasks=tasks) == ["AckRequest", "TaskStopVerificationMessage"]
    assert [c["taskArn"] for c in rig.channel.sent[-1]["message"]["stopCandidates"]] == ["t2"]


@pytest.mark.parametrize(
    ("change", "acknowledged"),
    [
        ({}, True),
        ({"roleType": "TaskExecution"}, True),
        ({"roleType": "Other"}, False),
        ({"roleCredentials": {}}, False),
        ({"messageId": ""}, False),
        ({"taskArn": "unknown"}, False),
    ],
)
def test_which_refreshed_credentials_are_acknowledged(rig, change, acknowledged):
    """The task must be known; the role type must be one of two."""
    rig.known(A, desired=TaskStatus.RUNNING)
    message = {"taskArn": A, "roleType": "TaskApplication", "roleCredentials": ROLE, **change}
    assert bool(rig.give("IAMRoleCredentialsMessage", **message)) == acknowledged
    assert bool(rig.commands()) == acknowledged


def test_credentials_for_a_task_that_was_just_handed_over_are_acknowledged(rig):
    """The engine may not have saved it yet."""
    rig.untaken = 1
    rig.give("PayloadMessage", tasks=[{"arn": A, "desiredStatus": "RUNNING"}])
    message = {"taskArn": A, "roleType": "TaskApplication", "roleCredentials": ROLE}
    assert rig.give("IAMRoleCredentialsMessage", **message) == ["IAMRoleCredentialsAckRequest"]
    assert isinstance(rig.commands()[0], RunOrUpdateTask)


def test_a_task_that_was_cleaned_up_is_not_known_any_more(rig):
    """Its credentials have nobody to go to, and a payload that names it anew is refused to ECS."""
    rig.give("PayloadMessage", tasks=[{"arn": A, "desiredStatus": "RUNNING"}])
    rig.known(A, known=TaskStatus.STOPPED)
    rig.bus.durable.commit(Change().delete(keys.TASK, A))
    message = {"taskArn": A, "roleType": "TaskApplication", "roleCredentials": ROLE}
    assert rig.give("IAMRoleCredentialsMessage", **message) == []
    rig.give("PayloadMessage", tasks=[{"arn": A, "desiredStatus": "?"}])
    assert [change.arn for change in rig.rejected] == [A]


def test_exceptions_on_an_open_connection_are_logged_only(rig):
    """In particular InactiveInstanceException does not end the session."""
    for type_ in ("InactiveInstanceException", "CloseMessage", "ErrorMessage", "AckRequest"):
        rig.handlers.handle(rig.channel, Frame(type_, {"message": "x"}))
    assert rig.channel.sent == []


EBS = {"volumeId": "v", "volumeSizeGib": "1", "deviceName": "d", "sourceVolumeHostPath": "p", "volumeName": "n"}


@pytest.mark.parametrize(
    ("type_", "properties", "acknowledged"),
    [
        ("amazonebs", EBS, True),
        ("amazonebs", {**EBS, "fileSystem": "xfs"}, True),
        ("amazonebs", {**EBS, "fileSystem": "zfs"}, False),
        ("amazonebs", {**EBS, "volumeId": ""}, False),
        ("amazonebs", {"volumeId": "v"}, False),
        ("", {"resourceType": "ElasticBlockStorage", "volumeID": "v", "deviceName": "d"}, True),
        ("", {"resourceType": "ElasticBlockStorage", "volumeId": "v", "deviceName": "d"}, False),
        ("", {"resourceType": "Other"}, False),
    ],
)
def test_which_confirmations_are_valid(rig, type_, properties, acknowledged):
    """A missing waitTimeoutMs means 300 s here, unlike for interfaces."""
    pairs = [{"name": name, "value": value} for name, value in properties.items()]
    attachment = {
        "attachmentArn": "arn:aws:ecs:r:1:attachment/x",
        "attachmentType": type_,
        "attachmentProperties": pairs,
    }
    assert bool(rig.give("ConfirmAttachmentMessage", attachment=attachment)) == acknowledged


@pytest.mark.parametrize(
    ("type_", "needs_task"),
    [("AttachTaskNetworkInterfacesMessage", True), ("AttachInstanceNetworkInterfacesMessage", False)],
)
def test_one_bad_interface_spoils_an_attachment_message(rig, type_, needs_task):
    """Neither is acknowledged then; so it is without a waiting time."""
    good = {"ec2Id": "e", "macAddress": "m", "ipv4Addresses": [{"privateAddress": "10.0.0.2"}],
            "subnetGatewayIpv4Address": "10.0.0.1/24"}  # fmt: skip
    bad = {k: v for k, v in good.items() if k != "macAddress"}
    message = {"taskArn": "t", "waitTimeoutMs": 1000}
    assert rig.give(type_, **message, elasticNetworkInterfaces=[good]) == ["AckRequest"]
    assert rig.give(type_, **message, elasticNetworkInterfaces=[good, bad]) == []
    assert rig.give(type_, **message, elasticNetworkInterfaces=[]) == []
    assert rig.give(type_, taskArn="t", elasticNetworkInterfaces=[good]) == []
    without_task = rig.give(type_, waitTimeoutMs=1, elasticNetworkInterfaces=[good])
    assert without_task == ([] if needs_task else ["AckRequest"])


def test_credentials_that_nothing_refreshes_for_a_day_are_forgotten(rig, monkeypatch):
    """Unless a task still has them: an instance that cannot reach ACS lets its containers see them expire."""
    rig.give("PayloadMessage", tasks=[{"arn": A, "desiredStatus": "RUNNING", "roleCredentials": ROLE}])
    rig.roles.forget_expired(())
    assert rig.roles.get("c-1") is not None
    now = roles_module.time.monotonic()
    monkeypatch.setattr(roles_module.time, "monotonic", lambda: now + 25 * 3600)
    rig.roles.forget_expired({"c-1"})
    assert rig.roles.get("c-1") is not None
    rig.roles.forget_expired({"c-2"})
    assert rig.roles.get("c-1") is None
    assert rig.bus.volatile.all(keys.CREDENTIALS) == {}


def test_credentials_outlive_the_volatile_store_and_this_process(rig):
    """From memory after one loss, from the store after the other; a later set replaces an earlier one."""
    rig.give("PayloadMessage", tasks=[{"arn": A, "desiredStatus": "RUNNING", "roleCredentials": ROLE}])
    rig.bus.volatile.lose_everything()
    rig.roles.publish_again()
    second = RoleCredentials(rig.bus.volatile)
    second.restore()
    assert second.get("c-1") == rig.roles.get("c-1")
    second.put(second.get("c-1"))
    assert rig.bus.volatile.get(keys.CREDENTIALS, "c-1").revision == 2
