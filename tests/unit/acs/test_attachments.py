"""Attachments from their message to ATTACHED: what is kept, found, reported, and given up (spec 02 §6)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
from msgspec.structs import replace

from common import keys
from common.memory import MemoryBus
from common.model.agent import DeviceAttachment, TaskVolume
from common.model.status import TaskStatus
from common.model.task import Task
from common.wire import jsontext
from common.wire.ecs import BindingRules, attached
from services.acs import devices
from services.acs.attach import EBS, INSTANCE_ENI, TASK_ENI, Unusable, confirmation, interfaces
from services.acs.attachments import KEPT_SECONDS, Attachments
from services.acs.ecs import ApiError
from services.acs.submission import Submission

TASK, MAC, ARN = "arn:aws:ecs:r:1:task/t", "02:7b:64:49:b1:40", "arn:aws:ecs:r:1:attachment/3333"
NAMES = {
    "messageId": "m", "taskArn": TASK, "clusterArn": "arn:aws:ecs:r:1:cluster/c",
    "containerInstanceArn": "arn:aws:ecs:r:1:container-instance/c/i",
}  # fmt: skip
INTERFACE = {
    "attachmentArn": ARN, "ec2Id": "eni-1", "macAddress": MAC.upper(), "subnetGatewayIpv4Address": "10.0.1.1/24",
    "ipv4Addresses": [{"primary": True, "privateAddress": "10.0.1.25"}],
}  # fmt: skip
VOLUME = {
    "volumeId": "vol-1", "volumeSizeGib": "20", "deviceName": "/dev/xvdba", "sourceVolumeHostPath": "t_vol-1",
    "volumeName": "data", "fileSystem": "xfs",
}  # fmt: skip
ENI_MESSAGE = {**NAMES, "waitTimeoutMs": 5000, "elasticNetworkInterfaces": [INTERFACE]}


def volume_message(type_: str = EBS, properties: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """A ConfirmAttachmentMessage."""
    pairs = [{"name": n, "value": v} for n, v in (VOLUME if properties is None else properties).items()]
    attachment = {"attachmentArn": ARN, "attachmentType": type_, "attachmentProperties": pairs}
    return {**NAMES, "attachment": attachment, **more}


class Rig:
    """Attachments and submission over stores in memory, a clock, and the devices that are there."""

    def __init__(self) -> None:
        self.bus, self.clock = MemoryBus(), 1000.0
        self.there: set[str] = set()
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.errors: list[ApiError] = []
        self.begin()

    def begin(self) -> None:
        """A process of this service begins with what is stored."""
        store: Any = self.bus.durable
        self.attachments = Attachments(store, lambda: lambda record: record.device in self.there, lambda: self.clock)
        bus: Any = self.bus
        self.submission = Submission(bus, self, "default", BindingRules(), lambda ids: None, self.attachments)
        self.attachments.report = self.submission.attach
        self.attachments.restore()

    def attempt(self, operation: str, body: Any) -> dict[str, Any]:
        """The API."""
        self.calls.append((operation, dict(body)))
        if self.errors:
            raise self.errors.pop(0)
        return {}

    def settle(self, until: Callable[[], object], seconds: float = 3.0) -> None:
        """Let greenlets run until a condition holds."""
        with gevent.Timeout(seconds, AssertionError("the condition did not come to hold")):
            while not until():
                gevent.sleep(0.001)

    def stored(self) -> dict[str, DeviceAttachment]:
        """The documents."""
        return self.bus.durable.all(keys.ATTACHMENT)

    def announce(self, *records: DeviceAttachment) -> None:
        """A valid message."""
        self.attachments.announced(records)


@pytest.fixture
def rig() -> Rig:
    """Nothing announced yet."""
    return Rig()


def eni(kind: str = TASK_ENI, now: float = 1000.0) -> list[DeviceAttachment]:
    """What the message of an interface announces."""
    return interfaces(ENI_MESSAGE, kind, now)


def test_a_message_says_what_is_waited_for_and_until_when():
    """A MAC address is compared in lower case, as the kernel writes it."""
    (record,) = eni()
    assert (record.arn, record.kind, record.device, record.task_arn) == (ARN, TASK_ENI, MAC, TASK)
    assert record.expires_at == 1005.0
    (volume,) = confirmation(volume_message(), 1000.0)
    assert (volume.kind, volume.device, volume.expires_at) == (EBS, "vol-1", 1300.0)
    assert confirmation(volume_message(waitTimeoutMs=7000), 1000.0)[0].expires_at == 1007.0


def test_resource_attachments_of_other_kinds_are_valid_and_announce_nothing():
    """They are acknowledged and skipped (§6.2)."""
    legacy = {"resourceType": "ElasticBlockStorage", "volumeID": "v", "deviceName": "/dev/x"}
    assert confirmation(volume_message("", legacy), 0.0) == []


@pytest.mark.parametrize(
    "message",
    [
        {**NAMES, "waitTimeoutMs": 0, "elasticNetworkInterfaces": [INTERFACE]},
        {**NAMES, "elasticNetworkInterfaces": [INTERFACE]},
        {**NAMES, "waitTimeoutMs": 5000},
    ],
)
def test_an_interface_needs_a_time_limit_and_a_name(message):
    """Such messages are not acknowledged (case 41)."""
    with pytest.raises(Unusable):
        interfaces(message, TASK_ENI, 0.0)


@pytest.mark.parametrize("pair", [{}, {"name": "x", "value": ""}, {"name": "", "value": "x"}, None])
def test_a_property_without_name_or_value_spoils_a_confirmation(pair):
    """Whether or not the property is one that is needed."""
    message = volume_message()
    message["attachment"]["attachmentProperties"].append(pair)
    with pytest.raises(Unusable):
        confirmation(message, 0.0)


def test_a_task_s_interface_is_reported_with_its_task_and_nothing_else(rig):
    """Case 44: no status and no reason, byte for byte."""
    rig.announce(*eni())
    rig.attachments.look()
    assert rig.calls == []
    rig.there.add(MAC)
    rig.attachments.look()
    rig.settle(lambda: rig.stored()["3333"].sent)
    ((operation, body),) = rig.calls
    assert operation == "SubmitTaskStateChange"
    assert jsontext.dumps(body) == (
        f'{{"attachments":[{{"attachmentArn":"{ARN}","status":"ATTACHED"}}],"cluster":"default","task":"{TASK}"}}'
    )
    rig.attachments.look()
    gevent.sleep(0.02)
    assert len(rig.calls) == 1


@pytest.mark.parametrize("announced", [eni(INSTANCE_ENI), confirmation(volume_message(), 1000.0)])
def test_other_devices_are_reported_in_a_call_of_their_own(rig, announced):
    """Case 45, and EBS volumes: one attachment per call."""
    rig.announce(*announced)
    rig.there.add(announced[0].device)
    rig.attachments.look()
    rig.settle(lambda: rig.stored()["3333"].sent)
    assert rig.calls == [("SubmitAttachmentStateChanges", attached("default", ARN))]


def test_a_message_that_comes_again_changes_nothing(rig):
    """Case 43: one record, one report."""
    rig.announce(*eni())
    rig.announce(*eni(now=2000.0))
    assert [record.expires_at for record in rig.stored().values()] == [1005.0]
    rig.there.add(MAC)
    rig.attachments.look()
    rig.settle(lambda: rig.stored()["3333"].sent)
    rig.announce(*eni(now=3000.0))
    assert len(rig.calls) == 1


def test_a_volume_that_is_attached_again_is_reported_again(rig):
    """To another task, once the first attachment was reported; the reference knows a volume id for ever."""
    rig.announce(*confirmation(volume_message(), 1000.0))
    (first,) = confirmation(volume_message(), 1000.0)
    second = replace(first, arn=ARN.replace("3333", "4444"), task_arn="another")
    rig.announce(second)
    assert list(rig.stored()) == ["3333"], "it is still being attached"
    rig.there.add("vol-1")
    rig.attachments.look()
    rig.settle(lambda: rig.stored()["3333"].sent)
    rig.announce(second)
    rig.announce(second)
    rig.attachments.look()
    rig.settle(lambda: rig.stored()["4444"].sent)
    assert rig.calls == [("SubmitAttachmentStateChanges", attached("default", a)) for a in (ARN, second.arn)]


def test_a_device_that_comes_too_late_is_not_reported(rig):
    """Case 46: the record is gone, from the store too."""
    rig.announce(*eni())
    rig.clock = 1005.0
    rig.there.add(MAC)
    rig.attachments.look()
    assert rig.stored() == {}
    assert rig.attachments.waiting() == []
    assert rig.calls == []


@pytest.mark.parametrize("kind", [TASK_ENI, INSTANCE_ENI])
def test_a_fault_that_nobody_foresaw_delays_the_report_only(rig, kind, monkeypatch):
    """The one who sends it goes on: the same report again, and the attachment counts as told after the second only."""
    monkeypatch.setattr("services.acs.submission._Pauses.after", lambda self, error: 0.001)
    rig.errors = [RuntimeError("STS")]
    rig.announce(*eni(kind))
    rig.there.add(MAC)
    rig.attachments.look()
    rig.settle(lambda: len(rig.calls) == 2 and rig.stored()["3333"].sent)
    first, second = rig.calls
    assert first == second and ARN in str(first)
    assert rig.errors == [] and not rig.submission.outbox.lanes


@pytest.mark.parametrize("kind", [TASK_ENI, INSTANCE_ENI])
def test_a_report_that_fails_is_tried_again_until_the_time_is_over(rig, kind, monkeypatch):
    """Case 47: no attempt after the expiry, and later reports of the task go on."""
    monkeypatch.setattr("services.acs.submission._Pauses.after", lambda self, error: 0.001)
    rig.errors = [ApiError("Submit", "ClientException", "no")] * 3
    rig.announce(*eni(kind))
    rig.there.add(MAC)
    rig.attachments.look()
    rig.settle(lambda: len(rig.calls) == 2)
    rig.clock = 1005.0
    gevent.sleep(0.05)
    assert len(rig.calls) == 2
    rig.attachments.look()
    assert rig.stored() == {}
    assert not rig.submission.outbox.lanes


def test_a_restart_goes_on_where_the_record_stands(rig):
    """What was sent stays as it is, what was found and not sent is sent, what is overdue goes (N20, N21)."""
    rig.announce(*eni())
    rig.there.add(MAC)
    rig.attachments.report = lambda id_: None
    rig.attachments.look()
    rig.begin()
    rig.settle(lambda: rig.stored()["3333"].sent)
    rig.clock = 5000.0
    rig.begin()
    rig.attachments.look()
    assert rig.stored()["3333"].sent
    assert len(rig.calls) == 1


def test_two_interfaces_of_one_message_have_their_own_fate(rig):
    """The time limit of one must not end the other."""
    other = {**INTERFACE, "macAddress": "02:00:00:00:00:02", "attachmentArn": ARN + "4"}
    rig.announce(*interfaces({**ENI_MESSAGE, "elasticNetworkInterfaces": [INTERFACE, other]}, TASK_ENI, 1000.0))
    rig.there.add(MAC)
    rig.attachments.look()
    rig.settle(lambda: rig.stored()["3333"].sent)
    rig.clock = 1006.0
    rig.attachments.look()
    assert list(rig.stored()) == ["3333"]


def test_two_interfaces_of_one_attachment_are_both_kept(rig):
    """Interfaces are known by their addresses, whatever their attachment is called; also by the next process."""
    other = {**INTERFACE, "macAddress": "02:00:00:00:00:02"}
    both = interfaces({**ENI_MESSAGE, "elasticNetworkInterfaces": [INTERFACE, other]}, TASK_ENI, 1000.0)
    rig.announce(*both)
    rig.begin()
    rig.announce(*both)
    assert sorted(record.device for record in rig.stored().values()) == sorted(record.device for record in both)
    assert len(rig.stored()) == 2


def test_records_go_with_their_task_and_those_of_the_instance_stay(rig):
    """The payload follows ATTACHED at once; a record without a task an hour later has none any more."""
    rig.announce(*eni(), *interfaces(
        {**ENI_MESSAGE, "elasticNetworkInterfaces": [{**INTERFACE, "macAddress": "02:00:00:00:00:02",
                                                      "attachmentArn": ARN + "4"}]}, INSTANCE_ENI, 1000.0))  # fmt: skip
    rig.there |= {MAC, "02:00:00:00:00:02"}
    rig.attachments.look()
    rig.settle(lambda: all(record.sent for record in rig.stored().values()))
    task = Task(arn=TASK, known=TaskStatus.RUNNING)
    rig.clock = 1006.0 + KEPT_SECONDS
    rig.attachments.forget_tasks({TASK: task})
    assert len(rig.stored()) == 2
    rig.attachments.forget_tasks({})
    assert list(rig.stored()) == ["33334"]


def test_looking_goes_on_only_while_something_is_waited_for(rig, monkeypatch):
    """A machine without attachments is never looked at."""
    monkeypatch.setattr("services.acs.attachments.LOOK_SECONDS", 0.001)
    looks: list[int] = []
    rig.attachments._look_around = lambda: looks.append(1) or (lambda record: record.device in rig.there)
    job = gevent.spawn(rig.attachments.run)
    gevent.sleep(0.01)
    assert looks == []
    rig.announce(*eni())
    rig.settle(lambda: len(looks) > 3)
    rig.there.add(MAC)
    rig.settle(lambda: rig.stored()["3333"].sent)
    count = len(looks)
    gevent.sleep(0.02)
    job.kill()
    assert len(looks) == count


def test_devices_are_links_with_hardware_and_volumes_that_the_driver_has_mounted(tmp_path: Path, monkeypatch):
    """A bridge or veth may carry any MAC address; it is not the interface that EC2 attached."""
    for place, name, mac in (
        ("pci0000:00/0000:00:05.0/net", "eth1", MAC),
        ("virtual/net", "veth1", "02:00:00:00:00:01"),
    ):
        link = tmp_path / "devices" / place / name
        link.mkdir(parents=True)
        (link / "address").write_text(mac + "\n")
        (tmp_path / "class").mkdir(exist_ok=True)
        (tmp_path / "class" / name).symlink_to(link)
    (tmp_path / "class" / "bonding_masters").write_text("")
    assert devices.hardware_addresses(str(tmp_path / "class")) == {MAC}
    monkeypatch.setattr(devices, "hardware_addresses", lambda: {MAC})
    (interface,), (volume,) = eni(), confirmation(volume_message(), 0.0)

    def looked(with_interfaces: bool, **record: Any) -> list[bool]:
        volumes = {"vol-1": TaskVolume(volume_id="vol-1", attachment_arn=volume.arn, **record)} if record else {}
        return [devices.presence(with_interfaces, volumes)(r) for r in (interface, volume)]

    assert looked(True, staged=True) == [True, True]
    assert looked(False, staged=False) == looked(False) == [False, False]
    earlier = {"vol-1": TaskVolume(volume_id="vol-1", attachment_arn="another", staged=True)}
    assert devices.presence(False, earlier)(volume) is False
