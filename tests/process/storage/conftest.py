"""The fake CSI driver as a process, and the process `storage` on a real Redis with a list of block devices to find."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from common import keys
from common.bus import Bus, Change, Entry
from common.model.agent import DeviceAttachment, DockerFacts, TaskVolume
from common.model.messages import Command, RunOrUpdateTask
from common.model.status import TaskStatus
from common.model.task import Task, Volume
from tests.fakes.csi_process import FakeDriver

LIMITS = {"NodeStageTimeout": int(0.5e9), "NodeUnstageTimeout": int(2e9)}  # ns, shorter than usual
USER = "arn:aws:ecs:us-west-2:123456789012:task/default/5555"


@pytest.fixture
def driver(run_dir: Path) -> Iterator[FakeDriver]:
    """A driver that is not started yet; its directory is named by its socket's."""
    directory = run_dir / "csi"
    directory.mkdir()
    driver = FakeDriver(directory)
    yield driver
    driver.kill()


class Host:
    """A machine with its stores; `storage` runs there, the test is `acs` and `engine`."""

    def __init__(self, run_dir: Path, driver: FakeDriver) -> None:
        self.run_dir, self.driver, self.bus = run_dir, driver, Bus(str(run_dir))
        self.log = run_dir / "storage.log"
        self.root, self.logs = run_dir / "ebs", run_dir / "logs"
        self._tools = run_dir / "tools"
        self._tools.mkdir()
        self._config = run_dir / "config.json"
        self._config.write_text(json.dumps({"CSIDriverSocketPath": str(driver.socket), **LIMITS}))
        self._commands = self.bus.durable.consumer(keys.COMMANDS, "engine", Command)
        self._process: subprocess.Popen[bytes] | None = None
        self.plug()

    def plug(self, **serials: str) -> None:
        """Let these block devices be there: nvme1n1="vol0abc"."""
        listed = {"blockdevices": [{"name": n, "serial": s} for n, s in {"sda": "", **serials}.items()]}
        tool = self._tools / "lsblk"
        tool.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(listed)}\nEND\n")
        tool.chmod(0o755)

    def start(self) -> None:
        """Start the process."""
        environment = {
            **os.environ,
            "ECS_AGENT_CONFIG_FILE_PATH": str(self._config),
            "ECS_RUN_DIR": str(self.run_dir),
            "ECS_DATADIR": str(self.run_dir),
            "AWS_DEFAULT_REGION": "us-west-2",
            "STORAGE_TEST_ROOT": str(self.root),
            "STORAGE_TEST_LOGS": str(self.logs),
            "PATH": f"{self._tools}:{os.environ['PATH']}",
        }
        command = [sys.executable, str(Path(__file__).parent / "run_storage.py")]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def begin(self, **behaviour: Any) -> str:
        """A volume is announced that can be mounted at once, and the process starts; the attachment's ARN.

        `behaviour` is the driver's, which is started here.
        """
        self.plug(nvme1n1="vol0abc")
        self.driver_runs()
        self.driver.behave(**behaviour)
        self.driver.start()
        arn = self.announce()
        self.start()
        return arn

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def stop(self) -> int:
        """SIGTERM; the status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(10)

    # -- what the others write -----------------------------------------------------------------

    def announce(self, volume_id: str = "vol-0abc", seconds: float = 300.0, task: str = USER, **more: Any) -> str:
        """As acs does when ECS announces a volume; returns the attachment's ARN."""
        id_ = more.pop("id_", "a1")
        record = DeviceAttachment(
            revision=1, arn=f"arn:aws:ecs:us-west-2:123456789012:attachment/{id_}", kind="amazonebs", device=volume_id,
            task_arn=task, expires_at=time.time() + seconds,
            properties={"sourceVolumeHostPath": f"5555_{volume_id}", "fileSystem": "xfs"} | more,
        )  # fmt: skip
        self.bus.durable.commit(Change().save(keys.ATTACHMENT, id_, record))
        return record.arn

    def withdraw(self, id_: str = "a1") -> None:
        """As acs does when the time is over."""
        self.bus.durable.commit(Change().delete(keys.ATTACHMENT, id_))

    def sent(self, id_: str = "a1") -> None:
        """ECS was told."""
        record = self.bus.durable.get(keys.ATTACHMENT, id_)
        assert record is not None
        record = replace(record, revision=record.revision + 1, attached=True, sent=True)
        self.bus.durable.commit(Change().save(keys.ATTACHMENT, id_, record))

    def task(self, known: TaskStatus, arn: str = USER, **more: Any) -> None:
        """A task as the engine keeps it."""
        before = self.bus.durable.get(keys.TASK, arn)
        volume = Volume(name="data", type="amazonebs", configuration={"volumeId": "vol-0abc"})
        desired = TaskStatus.STOPPED if known == TaskStatus.STOPPED else TaskStatus.RUNNING
        task = Task(
            arn=arn, revision=(before.revision if before else 0) + 1, known=known, known_at=time.time(),
            desired=desired, volumes=(volume,), **more,
        )  # fmt: skip
        self.bus.durable.commit(Change().save(keys.TASK, arn, task))

    def driver_image(self) -> None:
        """The engine has loaded the driver's image."""
        self.bus.durable.commit(Change().save(keys.FACTS, keys.FACTS_ID, DockerFacts(volume_driver_loaded=True)))

    def driver_runs(self) -> str:
        """The driver's image is there, and its task runs, as if it had been asked for earlier; its ARN."""
        from common.model.agent import VolumeDriver

        self.driver_image()
        arn = "arn:::::/ebs-csi-driver-test"
        document = VolumeDriver(revision=1, task_arn=arn)
        self.bus.durable.commit(Change().save(keys.VOLUME_DRIVER, keys.VOLUME_DRIVER_ID, document))
        self.task(TaskStatus.RUNNING, arn, is_internal=True)
        return arn

    # -- what can be seen ----------------------------------------------------------------------

    def volume(self, volume_id: str = "vol-0abc") -> TaskVolume | None:
        """The volume's document."""
        return self.bus.durable.get(keys.VOLUME, volume_id)

    def is_staged(self, volume_id: str = "vol-0abc") -> bool:
        """Whether it says that the volume is mounted."""
        volume = self.volume(volume_id)
        return volume is not None and volume.staged

    def asked_for(self) -> list[Task]:
        """The tasks that the engine has been asked for since the last look."""
        entries: list[Entry[Any]] = []
        for _ in range(3):  # the unacknowledged first, then what is new
            entries += self._commands.read(0.05)
        self._commands.acknowledge(*(e.id for e in entries))
        return [e.message.task for e in entries if isinstance(e.message, RunOrUpdateTask)]


@pytest.fixture
def host(run_dir: Path, redis_servers: object, driver: FakeDriver) -> Iterator[Host]:
    """A machine where nothing runs yet."""
    host = Host(run_dir, driver)
    yield host
    host.kill()
    print(host.log.read_text() if host.log.exists() else "")


Eventually = Callable[..., object]


@pytest.fixture
def mounted(host: Host, eventually: Eventually) -> Host:
    """A machine whose one volume is mounted."""
    host.begin()
    eventually(host.is_staged, 5)
    return host
