"""What this machine is and has: size, devices, tools. Read once at start, for registration.

The checks that run programs (each with a deadline) are what decides a capability in the reference (ECS agent
behaviour, spec 01 §6.3, §6.5). What cannot be read counts as not there, except a file of GPUs that is there.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from common import routes
from common.command import CommandFailed, run
from common.ebs import DRIVER_ARCHIVE
from common.errors import Temporary

log = logging.getLogger(__name__)

PROGRAM_SECONDS = 10.0
# Where the packages put ECS Exec's files, and where an agent in a container, or the image of the reference, has them.
EXEC_ROOT, EXEC_INNER_ROOT = "/var/lib/ecs/deps/execute-command", "/managed-agents/execute-command"
EXEC_FILES = ("amazon-ssm-agent", "ssm-agent-worker", "ssm-session-worker")
VERSION_DIRECTORY = re.compile(r"^\d+(\.\d+)*$")
GPU_FILE = "/var/lib/ecs/gpu/nvidia-gpu-info.json"
INFERENCE_FLAGS = {"avx", "avx2", "sse4_1", "sse4_2"}


@dataclass(frozen=True)
class Gpus:
    """The GPU file of the host service."""

    ids: tuple[str, ...] = ()
    driver_version: str = ""


@dataclass(frozen=True)
class HostFacts:
    """Facts about the machine; memory in MiB."""

    cpus: int = 1
    memory_mib: int = 0
    optimized_for_inference: bool = False
    exec_agent: bool = False
    ebs_driver: bool = False
    fault_injection: bool = False
    gpus: Gpus | None = None
    architecture: str = ""


def gather(ipv6_only: bool, gpu_support: bool) -> HostFacts:
    """Read everything."""
    return HostFacts(
        cpus=len(os.sched_getaffinity(0)),
        memory_mib=memory_mib(),
        optimized_for_inference=cpu_flags() >= INFERENCE_FLAGS,
        exec_agent=has_exec_agent(),
        ebs_driver=os.path.exists(DRIVER_ARCHIVE),
        fault_injection=can_inject_faults(ipv6_only),
        gpus=gpus() if gpu_support else None,
        architecture=os.uname().machine,
    )


def memory_mib(path: str = "/proc/meminfo") -> int:
    """MemTotal in whole MiB, 0 when it cannot be read (proc(5))."""
    for line in _lines(path):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    return 0


def cpu_flags(path: str = "/proc/cpuinfo") -> set[str]:
    """The union of the flags of all CPUs."""
    flags: set[str] = set()
    for line in _lines(path):
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            flags.update(value.split())
    return flags


def _lines(path: str) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            yield from file
    except OSError as error:
        log.warning("%s cannot be read: %s", path, error)


def _text(path: str) -> str:
    return "".join(_lines(path)) if os.path.exists(path) else ""


def exec_root() -> str:
    """Where the engine takes ECS Exec's files from (spec 09 §8.4): the host's place unless only the other is there."""
    inside = os.path.exists("/.dockerenv") or (os.path.isdir(EXEC_INNER_ROOT) and not os.path.isdir(EXEC_ROOT))
    return EXEC_INNER_ROOT if inside else EXEC_ROOT


def has_exec_agent(root: str = "") -> bool:
    """True when ECS Exec's parts are installed: directories, certificate, and one complete version."""
    root = root or exec_root()
    wanted = [f"{root}/{name}" for name in ("bin", "config", "certs", "certs/tls-ca-bundle.pem")]
    if not all(os.path.exists(path) for path in wanted):
        return False
    versions = [name for name in os.listdir(f"{root}/bin") if VERSION_DIRECTORY.match(name)]
    complete = [v for v in versions if all(os.path.isfile(f"{root}/bin/{v}/{name}") for name in EXEC_FILES)]
    if versions and not complete:
        log.warning("ECS Exec is not offered: no version below %s/bin has all of %s", root, ", ".join(EXEC_FILES))
    return bool(complete)


def gpus(path: str = GPU_FILE) -> Gpus | None:
    """The GPUs that the host service found; None without its file. Raises Temporary when it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
        return Gpus(tuple(map(str, value.get("GPUIDs") or ())), str(value.get("DriverVersion") or ""))
    except FileNotFoundError:
        log.error("GPU support is on, but there is no %s; the agent goes on without GPUs", path)
        return None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise Temporary(
            f"GPU support is on, but {path} cannot be used: {error}. Restart the service that writes it, or switch "
            "ECS_ENABLE_GPU_SUPPORT off"
        ) from error


def can_inject_faults(ipv6_only: bool) -> bool:
    """True when the tools and the kernel module for network faults are there."""
    tools = ["iptables", "tc", "nsenter", *(["ip6tables"] if ipv6_only else [])]
    if not all(shutil.which(tool) for tool in tools):
        return False
    if _output(["modinfo", "sch_netem"]) is None:
        return False
    device = routes.default_device(_text(routes.IPV4_TABLE), _text(routes.IPV6_TABLE))
    return bool(device) and _output(["tc", "-j", "q", "show", "dev", device, "parent", "1:1"]) is not None


def _output(command: Sequence[str]) -> str | None:
    """What a program prints, None when it fails, is missing, or takes too long."""
    try:
        done = run(command, PROGRAM_SECONDS)
    except CommandFailed as error:
        log.debug("%s", error)
        return None
    return done.out if done.status == 0 else None
