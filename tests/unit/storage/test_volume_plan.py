"""What becomes of a volume: decided from documents alone (spec 05 §4)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from common.model.agent import DeviceAttachment, TaskVolume
from common.model.status import TaskStatus
from common.model.task import Task, Volume
from services.storage import devices
from services.storage.core.driver import Condition, condition, new_arn, task_of
from services.storage.core.plan import is_below, plan, volume_of

NOW = 1000.0
ARN, USER = "arn:aws:ecs:r:1:attachment/a", "arn:aws:ecs:r:1:task/t"
WAITING = DeviceAttachment(
    arn=ARN, kind="amazonebs", device="vol-1", task_arn=USER, expires_at=NOW + 1,
    properties={"sourceVolumeHostPath": "t_vol-1", "fileSystem": "ext4"},
)  # fmt: skip
SENT = replace(WAITING, attached=True, sent=True)
EXPIRED = replace(WAITING, expires_at=NOW)
RECORD = volume_of(WAITING)
MOUNTED = replace(RECORD, staged=True, device="/dev/nvme1n1")
RUNNING = Task(arn=USER, known=TaskStatus.RUNNING)
STOPPED = Task(arn=USER, known=TaskStatus.STOPPED)
NOBODYS = replace(RECORD, task_arn="")
MOUNTS_IT = (Volume(name="d", type="amazonebs", configuration={"volumeId": "vol-1"}),)


def decided(attachment: DeviceAttachment | None, volume: TaskVolume | None, *tasks: Task, complete: bool = True) -> str:
    """The one thing to do, in a word."""
    found = plan(
        [attachment] if attachment else [], {volume.volume_id: volume} if volume else {}, {t.arn: t for t in tasks},
        NOW, complete,
    )  # fmt: skip
    words = [w for w, which in (("new", found.new), ("stage", found.stage), ("unstage", found.unstage)) if which]
    assert len(words) <= 1 and bool(found) == bool(words)
    return "".join(words)


@pytest.mark.parametrize(
    ("attachment", "volume", "tasks", "what"),
    [
        (WAITING, None, (), "new"),
        (WAITING, RECORD, (), "stage"),
        (WAITING, MOUNTED, (), ""),
        (SENT, MOUNTED, (), ""),  # its task is on its way
        (SENT, MOUNTED, (RUNNING,), ""),
        (None, MOUNTED, (RUNNING,), ""),  # the attachment is not what keeps it
        (SENT, MOUNTED, (STOPPED,), "unstage"),
        (SENT, RECORD, (STOPPED,), "unstage"),  # a stage call that ran out of time may have succeeded
        (WAITING, RECORD, (RUNNING,), "stage"),
        (EXPIRED, None, (), ""),
        (EXPIRED, RECORD, (), "unstage"),
        (EXPIRED, MOUNTED, (), "unstage"),
        (None, MOUNTED, (), "unstage"),
        (SENT, None, (), ""),  # given up: never again
        (replace(WAITING, kind="task-eni"), None, (), ""),
        (replace(WAITING, arn="another"), replace(MOUNTED, task_arn="old"), (), "unstage"),  # first, then the new one
        (SENT, replace(NOBODYS, staged=True), (), ""),
        (SENT, replace(NOBODYS, staged=True), (replace(RUNNING, volumes=MOUNTS_IT),), ""),
        (SENT, replace(NOBODYS, staged=True), (replace(STOPPED, volumes=MOUNTS_IT),), "unstage"),
        (WAITING, NOBODYS, (replace(STOPPED, volumes=MOUNTS_IT),), "stage"),  # that was an earlier task
    ],
)
def test_what_is_done_about_a_volume(attachment, volume, tasks, what):
    """Wanted from the attachment's arrival until the task has stopped; staged once, unstaged in any case."""
    assert decided(attachment, volume, *tasks) == what


def test_what_is_absent_proves_nothing_while_the_store_is_filled_again():
    """A mounted volume of a running task must survive a Redis that lost its data; a STOPPED task is proof."""
    assert decided(None, MOUNTED, complete=False) == ""
    assert decided(None, MOUNTED, STOPPED, complete=False) == "unstage"


@given(st.sampled_from([None, WAITING, SENT, EXPIRED]), st.booleans(), st.sampled_from([None, RUNNING, STOPPED]))
def test_a_volume_of_a_task_that_has_not_stopped_is_never_unmounted(attachment, staged, task):
    """Whatever else is known."""
    tasks = [task] if task else []
    if decided(attachment, replace(RECORD, staged=staged), *tasks) == "unstage":
        assert task is not RUNNING


@pytest.mark.parametrize(
    ("path", "fine"),
    [("t_vol-1", True), ("a/b", True), ("", False), ("/etc", False), ("..", False), ("a/../../b", False), (".", False)],
)
def test_a_directory_must_stay_below_that_for_volumes(path, fine):
    """The driver mounts as root."""
    assert is_below(path) is fine
    found = plan([replace(WAITING, properties={"sourceVolumeHostPath": path})], {}, {}, NOW)
    assert (bool(found.new), ARN in (found.refused or {})) == (fine, not fine)


@pytest.mark.parametrize(
    ("task", "how"),
    [
        (None, Condition.ABSENT),
        (Task(arn="d"), Condition.COMES),
        (Task(arn="d", known=TaskStatus.CREATED, desired=TaskStatus.RUNNING), Condition.COMES),
        (Task(arn="d", known=TaskStatus.RUNNING, desired=TaskStatus.RUNNING), Condition.RUNS),
        (Task(arn="d", known=TaskStatus.RUNNING, desired=TaskStatus.STOPPED), Condition.COMES),
        (Task(arn="d", known=TaskStatus.STOPPED), Condition.ENDED),
    ],
)
def test_the_driver_is_there_when_its_task_runs_and_shall_run(task, how):
    """Spec 05 §4.2, step 1."""
    assert condition(task) is how


def test_the_drivers_task_is_the_references():
    """Spec 05 §5, with the default socket."""
    socket_path = "/var/run/ecs/ebs-csi-driver/csi-driver.sock"
    task = task_of(new_arn(), socket_path, "/var/log/ecs/daemons/ebs-csi-driver", "/mnt/ecs/ebs")
    (container,) = task.containers
    assert task.id.startswith("ebs-csi-driver-") and (task.family, container.essential) == ("", True)
    assert container.command == (
        "--endpoint=unix://csi-driver/csi-driver.sock", "--log_file=/var/log/csi.log", "--log_file_max_size=20",
        "--logtostderr=false",
    )  # fmt: skip
    assert container.docker_config == '{"User": "0", "Healthcheck": {}}'
    for source in ('"/var/run/ecs/ebs-csi-driver/"', '"/var/log/ecs/daemons/ebs-csi-driver/"', '"/mnt/ecs/ebs"'):
        assert f'"Source": {source}' in container.docker_host_config


def test_a_device_is_found_by_its_serial_number():
    """R33: the volume's id without its hyphen, top level only, however lsblk pads it."""
    listed = [
        {"name": "nvme1n1", "serial": "vol0def", "children": [{"name": "nvme1n1p1", "serial": "vol0abc"}]},
        {"name": "sda", "serial": None},
        {"name": "nvme2n1", "serial": "vol0abc   "},
    ]
    assert devices.name_of("vol-0abc", listed) == "nvme2n1"
    assert devices.name_of("vol-0123", [*listed, "nonsense"]) == ""


def test_a_missing_or_mad_lsblk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is tried again; the sentence stands in the log until then."""
    for command in (str(tmp_path / "none"), "false", "echo"):
        monkeypatch.setattr(devices, "LSBLK", (command,))
        with pytest.raises(devices.NotFound, match=r"serial number vol1 yet \(.* cannot be asked"):
            devices.find("vol-1", str(tmp_path))


@pytest.mark.parametrize("lsblk", ["false", """{"blockdevices":[{"name":"nvme1n1","serial":null}]}"""])
def test_without_udev_the_kernel_tells_the_serial_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lsblk: str):
    """Trap 22: lsblk has serial numbers from udev's files, which are not everywhere."""
    monkeypatch.setattr(devices, "LSBLK", ("false",) if lsblk == "false" else ("echo", lsblk))
    (tmp_path / "loop0").mkdir()
    (tmp_path / "nvme1n1" / "device").mkdir(parents=True)
    (tmp_path / "nvme1n1" / "device" / "serial").write_text("vol0abc             \n")
    assert devices.find("vol-0abc", str(tmp_path)) == "/dev/nvme1n1"
    with pytest.raises(devices.NotFound):
        devices.find("vol-0abd", str(tmp_path))


def test_whether_a_mount_is_shared_is_read_from_the_mount_that_holds_the_path(tmp_path: Path):
    """Trap 25: below a private mount the driver's mounts never appear on the host."""
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
        "30 22 0:5 / /mnt rw - tmpfs tmpfs rw\n"
        "31 22 0:6 / /mnt/ecs rw shared:7 master:2 - tmpfs tmpfs rw\n"
        "32 22 0:7 / /dev rw shared:3 - devtmpfs udev rw\n"
    )
    shared = [devices.is_shared(p, str(table)) for p in ("/mnt/ecs/ebs", "/mnt/other", "/var", "/dev", "/mnt/ecsx")]
    assert shared == [True, False, True, True, False]
