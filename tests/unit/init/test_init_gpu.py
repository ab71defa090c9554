"""The GPU file, with NVIDIA's library replaced (spec 09 §10, §17 cases 46 to 48, 57, 58)."""

from __future__ import annotations

import logging
import os

import pytest

from services.init import gpu

LOG = logging.getLogger("test")


class Nvml:
    """Two devices; `fails` maps a call, or a call and device, to a status."""

    def __init__(self, count=2, fails=None):
        self.count, self.fails, self.ended = count, fails or {}, 0
        self.nvmlErrorString = lambda status: b"Unknown Error"

    def nvmlInit_v2(self):
        return self.fails.get("init", 0)

    def nvmlShutdown(self):
        self.ended += 1
        return 1  # its error is ignored

    def nvmlSystemGetDriverVersion(self, buffer, size):
        buffer.value = b"550.54.15"
        return self.fails.get("version", 0)

    def nvmlDeviceGetCount_v2(self, count):
        count._obj.value = self.count
        return self.fails.get("count", 0)

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        handle._obj.value = index.value + 1
        return self.fails.get(("handle", index.value), 0)

    def nvmlDeviceGetUUID(self, handle, buffer, size):
        buffer.value = f"GPU-{handle.value}".encode()
        return self.fails.get(("uuid", handle.value - 1), 0)


@pytest.fixture(autouse=True)
def devices(monkeypatch, tmp_path):
    """A host with one device file."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(gpu, "DEVICES", str(tmp_path / "nvidia*"))
    monkeypatch.setattr(gpu, "_PAUSE_SECONDS", 0.0)


def test_the_file_has_the_driver_and_the_ids_in_one_line(tmp_path):
    """The agent of either edition reads it; mode 0700 for both, and no newline at the end."""
    file, nvml = tmp_path / "gpu" / "info.json", Nvml()
    gpu.set_up(LOG, file, lambda: nvml)
    assert file.read_bytes() == b'{"DriverVersion":"550.54.15","GPUIDs":["GPU-1","GPU-2"]}'
    assert (os.stat(file).st_mode & 0o777, os.stat(file.parent).st_mode & 0o777) == (0o700, 0o700)
    assert nvml.ended == 1 and os.listdir(file.parent) == ["info.json"]


def test_an_existing_file_keeps_its_mode(tmp_path):
    """Somebody may have made it readable."""
    file = tmp_path / "info.json"
    file.write_text("old")
    file.chmod(0o644)
    gpu.set_up(LOG, file, Nvml)
    assert os.stat(file).st_mode & 0o777 == 0o644 and file.read_text().startswith('{"DriverVersion"')


def test_a_device_that_fails_is_left_out(tmp_path):
    """Case 57."""
    gpu.set_up(LOG, tmp_path / "info.json", lambda: Nvml(fails={("handle", 1): 999}))
    assert (tmp_path / "info.json").read_text().endswith('"GPUIDs":["GPU-1"]}')


@pytest.mark.parametrize(("nvml", "text"), [
    (Nvml(1, {("handle", 0): 999}), "error initializing GPU devices"), (Nvml(0), "error initializing GPU devices"),
    (Nvml(fails={"init": 9}), "error initializing nvidia nvml: Unknown Error"),
    (Nvml(fails={"version": 9}), "error getting nvidia driver version: Unknown Error"),
    (Nvml(fails={"count": 9}), "error getting GPU device count for UUID detection: Unknown Error"),
])  # fmt: skip
def test_what_fails_is_told_in_the_reference_s_words(nvml, text, tmp_path):
    """Case 58: pre-start ends with 255."""
    with pytest.raises(gpu.GpuError, match=f"^Nvidia GPU Manager: setup failed: {text}$"):
        gpu.set_up(LOG, tmp_path / "info.json", lambda: nvml)
    assert not (tmp_path / "info.json").exists()


def test_a_missing_library_and_a_full_disk_are_named(tmp_path):
    """The driver is half installed, or the directory cannot be made."""
    with pytest.raises(gpu.GpuError, match="error initializing nvidia nvml: libnvidia-ml"):
        gpu.set_up(LOG, tmp_path / "info.json")
    (tmp_path / "file").touch()
    with pytest.raises(gpu.GpuError, match="setup failed: gpu info state save failed: "):
        gpu.set_up(LOG, tmp_path / "file" / "info.json", Nvml)


def test_a_host_without_devices_gets_no_file(tmp_path):
    """Case 48: one configuration for hosts with and without GPUs; the wait has an end (case 47)."""
    (tmp_path / "nvidia0").unlink()
    gpu.set_up(LOG, tmp_path / "info.json", lambda: pytest.fail("asked"))
    assert not (tmp_path / "info.json").exists() and gpu.present(wait=True) is False
