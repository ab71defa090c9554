"""The CSI client against a real gRPC server."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import gevent
import pytest

from common.csi import CsiError, Driver, Usage
from tests.fakes.csi_process import FakeDriver

Eventually = Callable[..., object]


def test_a_volume_is_staged_measured_and_unstaged_over_grpc(driver: FakeDriver):
    """Spec 05 §4.2: every member of the requests as a server made from the specification's field numbers reads it."""
    driver.start()
    client = Driver(str(driver.socket))
    client.stage("vol-0abc", "/dev/nvme1n1", "/mnt/ecs/ebs/t_vol-0abc", "xfs", 2.0)
    client.stage("vol-0abc", "/dev/nvme1n1", "/mnt/ecs/ebs/t_vol-0abc", "", 2.0)
    driver.behave(usage={"vol-0abc": [16106127360, 21474836480]})
    assert client.usage("vol-0abc", "/mnt/ecs/ebs/t_vol-0abc", 1.0) == Usage(16106127360, 21474836480)
    client.unstage("vol-0abc", "/mnt/ecs/ebs/t_vol-0abc", 30.0)
    staged, again, measured, unstaged = driver.calls()
    assert staged["request"] == {
        "volume_id": "vol-0abc",
        "publish_context": [{"key": "devicePath", "value": "/dev/nvme1n1"}],
        "staging_target_path": "/mnt/ecs/ebs/t_vol-0abc",
        "volume_capability": {"mount": {"fs_type": "xfs"}, "access_mode": {"mode": "SINGLE_NODE_WRITER"}},
    }
    assert again["request"]["volume_capability"] == {"mount": {}, "access_mode": {"mode": "SINGLE_NODE_WRITER"}}
    assert 1.0 < staged["left"] <= 2.0, "the driver knows the deadline"
    assert measured["request"] == {"volume_id": "vol-0abc", "volume_path": "/mnt/ecs/ebs/t_vol-0abc"}
    assert unstaged["request"] == {"volume_id": "vol-0abc", "staging_target_path": "/mnt/ecs/ebs/t_vol-0abc"}


def test_what_a_driver_refuses_is_told_in_its_words(driver: FakeDriver):
    """gRPC escapes the message; the status has a name."""
    driver.start()
    driver.behave(NodeUnstageVolume={"status": "INTERNAL", "message": "umount: Ziel ist beschäftigt 100%"})
    with pytest.raises(CsiError) as caught:
        Driver(str(driver.socket)).unstage("v", "/p", 2.0)
    assert (caught.value.status, str(caught.value)) == ("INTERNAL", "INTERNAL: umount: Ziel ist beschäftigt 100%")


def test_a_driver_that_hangs_costs_its_deadline_and_no_more(driver: FakeDriver, eventually: Eventually):
    """It may go on: a second call meanwhile is ABORTED, one after its end a success (trap 24)."""
    driver.start()
    driver.behave(NodeStageVolume={"seconds": 1.5})
    client = Driver(str(driver.socket))
    began = time.monotonic()
    with pytest.raises(CsiError) as caught:
        client.stage("v", "/dev/a", "/p", "", 0.3)
    assert caught.value.status == "DEADLINE_EXCEEDED" and time.monotonic() - began < 1.4
    with pytest.raises(CsiError) as caught:
        client.stage("v", "/dev/a", "/p", "", 0.3)
    assert caught.value.status == "ABORTED"
    driver.behave()

    def staged() -> bool:
        try:
            client.stage("v", "/dev/a", "/p", "", 0.3)
        except CsiError as error:
            assert error.status == "ABORTED"
            return False
        return True

    eventually(staged)


def test_no_driver_and_no_grpc_are_told_apart(run_dir: Path, driver: FakeDriver):
    """Three in the morning: is it away, or is something else behind the socket?"""
    with pytest.raises(CsiError) as caught:
        Driver(str(run_dir / "none.sock")).unstage("v", "/p", 1.0)
    assert str(caught.value) == f"UNAVAILABLE: no driver at {run_dir}/none.sock: No such file or directory"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run_dir / "other.sock"))
        listener.listen()
        silent = Driver(str(run_dir / "other.sock"))
        with pytest.raises(CsiError) as caught:
            silent.unstage("v", "/p", 0.2)
        assert caught.value.status == "DEADLINE_EXCEEDED"
        listener.accept()[0].close()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run_dir / "web.sock"))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            while connection.recv(4096):
                connection.sendall(bytes(9))  # an HTTP/2 frame with data of no stream

        web = gevent.spawn(answer)
        with pytest.raises(CsiError) as caught:
            Driver(str(run_dir / "web.sock")).unstage("v", "/p", 2.0)
        assert caught.value.status == "INTERNAL" and "does not speak gRPC" in str(caught.value)
        web.kill()
