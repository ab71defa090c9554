"""Attachments through the whole process: acknowledged, saved, found among the links, reported, also after a crash."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from common import keys
from common.bus import Change
from common.model.agent import TaskVolume
from tests.fakes.control_plane import arn, error

MAC = "02:7b:64:49:b1:40"
TASK, ATTACHMENT = arn("task", "default/2222"), arn("attachment", "3333")
INTERFACE = {
    "attachmentArn": ATTACHMENT, "ec2Id": "eni-1", "macAddress": MAC, "subnetGatewayIpv4Address": "10.0.1.1/24",
    "ipv4Addresses": [{"primary": True, "privateAddress": "10.0.1.25"}],
}  # fmt: skip


@pytest.fixture
def links(tmp_path: Path) -> Path:
    """A directory of links without any."""
    (tmp_path / "links").mkdir()
    return tmp_path / "links"


@pytest.fixture
def start(start_acs: Any, control_plane: Any, links: Path, eventually: Any) -> Any:
    """Starts the process with task networking and waits for its session."""

    def begin() -> Any:
        sessions = len(control_plane.connections)
        process = start_acs(env={"ECS_ENABLE_TASK_ENI": "true"}, links=str(links))
        eventually(lambda: len(control_plane.connections) > sessions, 15)
        return process

    return begin


def plug_in(links: Path) -> None:
    """The interface appears."""
    (links / "eth1").mkdir()
    (links / "eth1" / "address").write_text(MAC + "\n")


def announcement(control_plane: Any, message_id: str, **changes: Any) -> dict[str, Any]:
    """An AttachTaskNetworkInterfacesMessage."""
    return {
        "clusterArn": control_plane.cluster_arn, "containerInstanceArn": control_plane.instance_arn, "taskArn": TASK,
        "messageId": message_id, "waitTimeoutMs": 60000, "elasticNetworkInterfaces": [INTERFACE], **changes,
    }  # fmt: skip


def test_an_interface_is_acknowledged_when_announced_and_reported_when_there(
    start, control_plane, bus, links, eventually
):
    """An invalid message is not acknowledged; one that comes again is, and changes nothing (cases 41 to 44)."""
    acs = start()
    assert acs.text().count("ECS_ENABLE_TASK_ENI is on, but this agent does not run tasks") == 1
    live = control_plane.live
    live.push("AttachTaskNetworkInterfacesMessage", announcement(control_plane, "a-0", waitTimeoutMs=0))
    for message_id in ("a-1", "a-2"):
        live.push("AttachTaskNetworkInterfacesMessage", announcement(control_plane, message_id))
    eventually(lambda: len(live.replies("AckRequest")) == 2)
    assert [r["messageId"] for r in live.replies("AckRequest")] == ["a-1", "a-2"]
    assert list(bus.durable.all(keys.ATTACHMENT)) == ["3333"]
    assert control_plane.bodies("SubmitTaskStateChange") == []
    plug_in(links)
    eventually(lambda: bus.durable.get(keys.ATTACHMENT, "3333").sent)
    (call,) = [c for c in control_plane.calls if c.operation == "SubmitTaskStateChange"]
    assert call.raw == (
        f'{{"attachments":[{{"attachmentArn":"{ATTACHMENT}","status":"ATTACHED"}}],"cluster":"default","task":"{TASK}"}}'
    )


def test_a_crash_between_found_and_accepted_loses_no_report(start, control_plane, bus, links, eventually):
    """The record was saved before its message was acknowledged; the next process goes on with it."""
    control_plane.faults["SubmitTaskStateChange"] = lambda body: error("ServerException", "no", 500)
    acs = start()
    control_plane.live.push("AttachTaskNetworkInterfacesMessage", announcement(control_plane, "a-1"))
    plug_in(links)
    eventually(lambda: control_plane.bodies("SubmitTaskStateChange"))
    acs.kill()
    control_plane.faults.clear()
    before = len(control_plane.bodies("SubmitTaskStateChange"))
    start()
    eventually(lambda: bus.durable.get(keys.ATTACHMENT, "3333").sent)
    assert len(control_plane.bodies("SubmitTaskStateChange")) == before + 1


def test_an_interface_of_the_instance_has_a_call_of_its_own_and_one_that_never_comes_none(
    start, control_plane, bus, links, eventually
):
    """The record of what never came is gone after its time (cases 45 and 46)."""
    start()
    live = control_plane.live
    late = {**INTERFACE, "macAddress": "02:00:00:00:00:09", "attachmentArn": arn("attachment", "4444")}
    plug_in(links)
    live.push("AttachInstanceNetworkInterfacesMessage", announcement(control_plane, "a-1"))
    live.push(
        "AttachTaskNetworkInterfacesMessage",
        announcement(control_plane, "a-2", waitTimeoutMs=400, elasticNetworkInterfaces=[late]),
    )
    eventually(lambda: len(live.replies("AckRequest")) == 2)
    (body,) = eventually(lambda: control_plane.bodies("SubmitAttachmentStateChanges"))
    assert body == {"attachments": [{"attachmentArn": ATTACHMENT, "status": "ATTACHED"}], "cluster": "default"}
    eventually(lambda: list(bus.durable.all(keys.ATTACHMENT)) == ["3333"])
    assert control_plane.bodies("SubmitTaskStateChange") == []


def test_a_volume_is_reported_when_it_is_mounted_and_not_before(start, control_plane, bus, eventually):
    """Spec 02 §10.8: acknowledged at once, ATTACHED when `storage` says that the driver has mounted it."""
    start()
    live = control_plane.live
    properties = {
        "volumeId": "vol-0123456789abcdef0", "volumeSizeGib": "20", "deviceName": "/dev/xvdba",
        "sourceVolumeHostPath": "5555_vol-0123456789abcdef0", "volumeName": "data", "fileSystem": "xfs",
    }  # fmt: skip
    attachment = {
        "attachmentArn": ATTACHMENT, "attachmentType": "amazonebs",
        "attachmentProperties": [{"name": name, "value": value} for name, value in properties.items()],
    }  # fmt: skip
    message = {
        "clusterArn": control_plane.cluster_arn, "containerInstanceArn": control_plane.instance_arn, "taskArn": TASK,
        "messageId": "v-1", "attachment": attachment,
    }  # fmt: skip
    live.push("ConfirmAttachmentMessage", message)
    eventually(lambda: live.replies("AckRequest"))
    volume = TaskVolume(revision=1, volume_id="vol-0123456789abcdef0", attachment_arn=ATTACHMENT)
    bus.durable.commit(Change().save(keys.VOLUME, volume.volume_id, volume))
    time.sleep(0.6)
    assert control_plane.bodies("SubmitAttachmentStateChanges") == []
    bus.durable.commit(Change().save(keys.VOLUME, volume.volume_id, replace(volume, revision=2, staged=True)))
    eventually(lambda: bus.durable.get(keys.ATTACHMENT, "3333").sent)
    (call,) = [c for c in control_plane.calls if c.operation == "SubmitAttachmentStateChanges"]
    assert call.raw == f'{{"attachments":[{{"attachmentArn":"{ATTACHMENT}","status":"ATTACHED"}}],"cluster":"default"}}'
