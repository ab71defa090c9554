"""Which NVIDIA GPUs this host has, written where the agent looks for them: a step of `pre-start` (spec 09 §10).

Asks NVIDIA's management library (NVML), which comes with the driver, by ctypes: there is nothing to install or to
compile. A host without device files has no GPUs, whatever the configuration says; then nothing is written.
Source of the calls: NVIDIA's NVML API reference, https://docs.nvidia.com/deploy/nvml-api/.
"""

from __future__ import annotations

import ctypes
import glob
import json
import logging
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import wholefile
from common.config.service_host import GPU_DEVICES as DEVICES
from common.errors import AgentError

FILE = Path("/var/lib/ecs/gpu/nvidia-gpu-info.json")
LIBRARY = "libnvidia-ml.so.1"
_CHECKS, _PAUSE_SECONDS = 11, 3.0  # one look and ten more: the device files appear late at boot (spec 09 §4.2)
_VERSION_BYTES, _UUID_BYTES = 80, 96  # NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE, NVML_DEVICE_UUID_V2_BUFFER_SIZE
_NOTICE = (
    "GPU support uses NVIDIA's software under its licence: https://www.nvidia.com/en-us/about-nvidia/eula-agreement/"
)


class GpuError(AgentError):
    """The GPUs cannot be found out or written down."""


def present(wait: bool = False) -> bool:
    """Whether device files of NVIDIA exist; with `wait` up to 30 s are given to a driver that loads late."""
    for check in range(_CHECKS if wait else 1):
        if check:
            time.sleep(_PAUSE_SECONDS)
        if glob.glob(DEVICES):
            return True
    return False


def set_up(log: logging.Logger, file: Path = FILE, load: Callable[[], Any] | None = None) -> None:
    """Write the GPU file of a host that has devices. Raises GpuError with the reference's texts."""
    log.info(_NOTICE)
    if not present():
        log.info("no device file %s: this host has no GPUs", DEVICES)
        return
    try:
        version, ids = _Nvml(load or _load, log).devices()
        _write(file, {"DriverVersion": version, "GPUIDs": ids})
    except GpuError as error:
        raise GpuError(f"Nvidia GPU Manager: setup failed: {error}") from error
    log.info("GPUs: %s (driver %s)", ", ".join(ids), version)


def _load() -> Any:
    return ctypes.CDLL(LIBRARY)


class _Nvml:
    """The few calls that are needed. Raises GpuError."""

    def __init__(self, load: Callable[[], Any], log: logging.Logger) -> None:
        self._log = log
        try:
            self._library = load()
            self._library.nvmlErrorString.restype = ctypes.c_char_p
        except (OSError, AttributeError) as error:
            raise GpuError(f"error initializing nvidia nvml: {error}") from error

    def devices(self) -> tuple[str, list[str]]:
        """(driver version, ids of the devices). A device that does not answer is logged and left out."""
        self._call("error initializing nvidia nvml", "nvmlInit_v2")
        try:
            version = ctypes.create_string_buffer(_VERSION_BYTES)
            what = "error getting nvidia driver version"
            self._call(what, "nvmlSystemGetDriverVersion", version, ctypes.c_uint(_VERSION_BYTES))
            count = ctypes.c_uint()
            what = "error getting GPU device count for UUID detection"
            self._call(what, "nvmlDeviceGetCount_v2", ctypes.byref(count))
            ids = [found for found in map(self._uuid, range(count.value)) if found]
        finally:
            self._library.nvmlShutdown()
        if not ids:
            raise GpuError("error initializing GPU devices")
        return version.value.decode(errors="replace"), ids

    def _uuid(self, index: int) -> str:
        handle = ctypes.c_void_p()
        uuid = ctypes.create_string_buffer(_UUID_BYTES)
        try:
            self._call("no handle", "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
            self._call("no id", "nvmlDeviceGetUUID", handle, uuid, ctypes.c_uint(_UUID_BYTES))
        except GpuError as error:
            self._log.error("GPU %d is left out: %s", index, error)
            return ""
        return uuid.value.decode(errors="replace")

    def _call(self, what: str, name: str, *arguments: Any) -> None:
        try:
            status = getattr(self._library, name)(*arguments)
        except AttributeError as error:
            raise GpuError(f"{what}: {LIBRARY} has no {name}; install a newer driver") from error
        if status != 0:
            text = self._library.nvmlErrorString(status)
            raise GpuError(f"{what}: {text.decode(errors='replace') if text else status}")


def _write(file: Path, content: dict[str, object]) -> None:
    """Replace the file as a whole; a file that exists keeps its mode, a new one gets 0700 as the reference's."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(file.stat().st_mode) if file.exists() else 0o700
        wholefile.replace(file, json.dumps(content, separators=(",", ":")).encode(), mode, durable=True)
    except OSError as error:
        raise GpuError(f"gpu info state save failed: {error}") from error
