"""The whole process: an attachment comes, its volume is mounted; its task stops, it is unmounted; whatever dies."""

from __future__ import annotations

import json
import os
import subprocess
import time
from itertools import pairwise

from msgspec.structs import replace

from common import keys
from common.bus import Change
from common.model.status import ContainerType, TaskStatus
from tests.fakes.csi_process import FakeDriver
from tests.process.storage.conftest import USER, Eventually, Host

STAGE, UNSTAGE = "NodeStageVolume", "NodeUnstageVolume"


def test_a_volume_is_mounted_once_device_and_driver_are_there(host: Host, driver: FakeDriver, eventually: Eventually):
    """R33; and R36: unmounted when its task has stopped, long before the clean-up. Then nothing is left of it."""
    host.driver_runs()
    driver.start()
    host.start()
    arn = host.announce()
    eventually(lambda: "no block device has the serial number vol0abc yet" in host.log.read_text())
    assert driver.calls() == [] and not host.is_staged()
    host.plug(nvme1n1="vol0123", nvme2n1="vol0abc")
    eventually(host.is_staged, 5)
    (call,) = driver.calls(STAGE)
    assert call["request"]["publish_context"] == [{"key": "devicePath", "value": "/dev/nvme2n1"}]
    assert call["request"]["staging_target_path"] == f"{host.root}/5555_vol-0abc"
    volume = host.volume()
    assert volume is not None and (volume.attachment_arn, volume.device) == (arn, "/dev/nvme2n1")
    host.sent()
    host.task(TaskStatus.RUNNING)
    time.sleep(0.5)
    assert len(driver.calls()) == 1, "a volume that is mounted is left alone"
    host.task(TaskStatus.STOPPED)
    eventually(lambda: host.volume() is None, 5)
    assert [c["request"]["staging_target_path"] for c in driver.calls(UNSTAGE)] == [f"{host.root}/5555_vol-0abc"]
    host.task(TaskStatus.STOPPED)
    began = time.monotonic()
    assert host.stop() == 0 and time.monotonic() - began < 2
    assert len(driver.calls()) == 2


def test_the_driver_is_asked_for_at_the_first_need_and_again_when_it_has_ended(
    host: Host, driver: FakeDriver, eventually: Eventually
):
    """Spec 05 §4.2 and §5: no driver without a volume or its image; one task at a time."""
    host.start()
    eventually(lambda: "storage is ready" in host.log.read_text())
    host.announce()
    eventually(lambda: "Docker has not got the image" in host.log.read_text())
    assert host.asked_for() == []
    host.driver_image()
    (task,) = eventually(host.asked_for)  # type: ignore[misc]
    assert task.arn.startswith("arn:::::/ebs-csi-driver-") and task.is_internal and task.desired == TaskStatus.RUNNING
    (container,) = task.containers
    assert (container.name, container.type) == ("ecs-managed-ebs-csi-driver", ContainerType.MANAGED_DAEMON)
    assert container.command[0] == "--endpoint=unix://csi-driver/csi-driver.sock"
    host_config = json.loads(container.docker_host_config)
    assert host_config["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 0}
    assert [(m["Source"], m["Target"], "BindOptions" in m) for m in host_config["Mounts"]] == [
        (f"{driver.directory}/", "/csi-driver/", False),
        (f"{host.logs}/", "/var/log/", False),
        (str(host.root), str(host.root), True),
        ("/dev", "/dev", True),
    ]
    assert oct(host.root.stat().st_mode)[-4:] == oct(host.logs.stat().st_mode)[-4:] == "0755"
    host.task(TaskStatus.CREATED, task.arn, is_internal=True)
    time.sleep(0.6)
    assert host.asked_for() == [], "it is on its way"
    host.task(TaskStatus.STOPPED, task.arn, is_internal=True)
    (another,) = eventually(host.asked_for)  # type: ignore[misc]
    assert another.arn != task.arn


def test_a_crash_after_asking_for_the_driver_asks_for_the_same_one(host: Host, eventually: Eventually):
    """The ARN is saved with the command: two drivers on one socket would be one too many."""
    host.driver_image()
    host.announce()
    host.start()
    (first,) = eventually(host.asked_for)  # type: ignore[misc]
    host.kill()
    host.start()
    (second,) = eventually(host.asked_for)  # type: ignore[misc]
    assert first == second


def test_a_slow_stage_is_repeated_until_the_driver_is_done(host: Host, driver: FakeDriver, eventually: Eventually):
    """Formatting takes longer than one call may; the driver goes on meanwhile (trap 24)."""
    host.begin(NodeStageVolume={"seconds": 0.8})
    eventually(lambda: driver.calls(STAGE))
    driver.behave()
    eventually(host.is_staged, 8)
    times = [c["at"] for c in driver.calls(STAGE)]
    assert len(times) >= 2 and min(b - a for a, b in pairwise(times)) > 0.15
    assert "DEADLINE_EXCEEDED" in host.log.read_text()


def test_a_task_that_stops_while_its_volume_is_staged_leaves_no_mount(
    host: Host, driver: FakeDriver, eventually: Eventually
):
    """The stage call is waited for, then undone; the driver refuses two calls for one volume at a time."""
    host.begin(NodeStageVolume={"seconds": 0.4})
    eventually(lambda: driver.calls(STAGE))
    host.task(TaskStatus.STOPPED)
    eventually(lambda: host.volume() is None, 6)
    assert [c["method"] for c in driver.calls()] == [STAGE, UNSTAGE]


def test_an_attachment_that_expires_gives_its_volume_back(mounted: Host, driver: FakeDriver, eventually: Eventually):
    """R59: ECS was not told in time and will detach it. The reference leaves it mounted."""
    mounted.withdraw()
    eventually(lambda: mounted.volume() is None, 5)
    assert [c["method"] for c in driver.calls()] == [STAGE, UNSTAGE]


def test_a_killed_storage_takes_up_what_it_left(host: Host, driver: FakeDriver, eventually: Eventually):
    """kill -9 while staging, while mounted, and while the task stops."""
    host.begin(NodeStageVolume={"seconds": 0.8})
    eventually(lambda: driver.calls(STAGE))
    host.kill()
    assert host.volume() is not None and not host.is_staged()
    driver.behave()
    host.start()
    eventually(host.is_staged, 6)
    host.kill()
    host.sent()
    host.task(TaskStatus.STOPPED)
    host.start()
    eventually(lambda: host.volume() is None, 5)
    assert driver.calls()[-1]["method"] == UNSTAGE


def test_a_volume_that_a_restart_of_the_machine_unmounted_is_mounted_again(
    host: Host, driver: FakeDriver, eventually: Eventually
):
    """The document says mounted, the mount table does not; else a container would write to the machine's own disk."""
    host.begin(mount=True)
    path = f"{host.root}/5555_vol-0abc"
    try:
        eventually(host.is_staged, 5)
        host.sent()
        host.task(TaskStatus.RUNNING)
        host.stop()
        subprocess.run(["umount", path], check=True)
        driver.kill()
        driver.start()
        host.start()
        eventually(lambda: os.path.ismount(path) and host.is_staged(), 5)
        assert len(driver.calls(STAGE)) == 2
        host.stop()
        host.start()
        eventually(lambda: host.log.read_text().count("storage is ready") == 3, 5)
        assert len(driver.calls(STAGE)) == 2, "one that is there is left alone"
    finally:
        host.stop()
        subprocess.run(["umount", path], check=False)


def test_a_driver_that_was_restarted_is_found_again(host: Host, driver: FakeDriver, eventually: Eventually):
    """Docker restarts it after a crash; nothing of ours holds on to the old one."""
    host.plug(nvme1n1="vol0abc")
    host.driver_runs()
    host.announce()
    host.start()
    eventually(lambda: "UNAVAILABLE: no driver at" in host.log.read_text())
    driver.start()
    eventually(host.is_staged, 5)
    driver.kill()
    driver.start()
    host.task(TaskStatus.STOPPED)
    eventually(lambda: host.volume() is None, 5)
    assert driver.calls()[-1]["method"] == UNSTAGE, "the new driver was asked"


def test_a_volume_that_cannot_be_unmounted_is_given_up_within_its_time(
    host: Host, driver: FakeDriver, eventually: Eventually
):
    """Spec 05 §4.4, with shorter times (2 s, pauses from 1 s): two attempts, then an error that says what to do."""
    host.begin(NodeUnstageVolume={"status": "INTERNAL", "message": "target is busy"})
    eventually(host.is_staged, 5)
    host.task(TaskStatus.STOPPED)
    began = time.monotonic()
    eventually(lambda: host.volume() is None, 8)
    assert time.monotonic() - began < 5
    first, second = driver.calls(UNSTAGE)
    assert 0.95 < second["at"] - first["at"] < 1.9
    assert f"the volume stays mounted; see whether `umount {host.root}/5555_vol-0abc` works" in host.log.read_text()


def test_a_volume_that_comes_again_for_another_task_is_mounted_again(
    mounted: Host, driver: FakeDriver, eventually: Eventually
):
    """The reference ignores a known volume id for ever. The first mount ends before the second begins."""
    mounted.task(TaskStatus.STOPPED)
    mounted.withdraw()
    second = mounted.announce(task=USER + "-2", id_="a2")
    eventually(lambda: (v := mounted.volume()) is not None and v.staged and v.attachment_arn == second, 6)
    assert [c["method"] for c in driver.calls()] == [STAGE, UNSTAGE, STAGE]


def test_a_directory_outside_of_that_for_volumes_is_refused(host: Host, driver: FakeDriver, eventually: Eventually):
    """Staged by root, it could hide any directory of the host."""
    host.plug(nvme1n1="vol0abc")
    host.driver_runs()
    driver.start()
    host.announce(sourceVolumeHostPath="../../etc")
    host.start()
    eventually(lambda: "does not lie below the directory of volumes" in host.log.read_text())
    assert host.volume() is None and driver.calls() == []


def test_a_store_that_lost_its_data_costs_no_mounted_volume(mounted: Host, driver: FakeDriver, eventually: Eventually):
    """Absent documents prove nothing until the others have written theirs again."""
    store = mounted.bus.durable
    before = store.get(keys.VOLUME_DRIVER, keys.VOLUME_DRIVER_ID)
    store.call(lambda client: client.flushall())
    eventually(lambda: "the durable store has lost its data" in mounted.log.read_text(), 8)
    eventually(mounted.is_staged, 5)
    document = eventually(lambda: store.get(keys.VOLUME_DRIVER, keys.VOLUME_DRIVER_ID))
    assert before is not None and document.task_arn == before.task_arn  # type: ignore[attr-defined]
    time.sleep(0.6)
    assert [c["method"] for c in driver.calls()] == [STAGE]
    volume = mounted.volume()
    assert volume is not None
    store.commit(Change().save(keys.VOLUME, "other", replace(volume, revision=1)))  # and it writes no more
