"""What this machine is and has: size, devices, tools. Read once at start, for registration.

The checks that run programs (each with a deadline) are what decides a capability in the reference (ECS agent
behaviour, spec 01 §6.3, §6.5). Everything is best effort: what cannot be read counts as not there.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)

PROGRAM_SECONDS = 10.0
MANAGED_AGENTS = "/managed-agents/execute-command"
EXEC_FILES = ("amazon-ssm-agent", "ssm-agent-worker", "ssm-session-worker")
VERSION_DIRECTORY = re.compile(r"^\d+(\.\d+)*$")
SERVICE_CONNECT_IMAGE = "/managed-agents/serviceconnect/ecs-service-connect-agent.interface-v1.tar"
EBS_DRIVER_IMAGE = "/var/lib/ecs/deps/daemons/ebs-csi-driver/ebs-csi-driver.tar"
GPU_FILE = "/var/lib/ecs/gpu/nvidia-gpu-info.json"
APP_MESH_PLUGIN, BRANCH_PLUGIN = "aws-appmesh", "vpc-branch-eni"
PLUGINS = ("vpc-eni", "ecs-bridge", "ecs-ipam", APP_MESH_PLUGIN)
TASK_NETWORKING = "awsvpc-network-mode"
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
    cni_version: str | None = None  # of vpc-eni, None when it cannot be asked
    branch_cni_version: str | None = None
    cni_fault: str = ""  # what keeps tasks from having network interfaces of their own

    def offers_task_networking(self, asked_for: bool) -> bool:
        """Task networking is on and everything that it needs is here."""
        return asked_for and not self.cni_fault


def gather(ipv6_only: bool, gpu_support: bool, cni_directory: str, trunking: bool = False) -> HostFacts:
    """Read everything. `cni_directory` is "" when task networking is off."""
    return HostFacts(
        cpus=len(os.sched_getaffinity(0)),
        memory_mib=memory_mib(),
        optimized_for_inference=cpu_flags() >= INFERENCE_FLAGS,
        exec_agent=has_exec_agent(),
        ebs_driver=os.path.exists(EBS_DRIVER_IMAGE),
        fault_injection=can_inject_faults(ipv6_only),
        gpus=gpus() if gpu_support else None,
        architecture=os.uname().machine,
        cni_version=cni_version(cni_directory) if cni_directory else None,
        branch_cni_version=cni_version(cni_directory, BRANCH_PLUGIN) if cni_directory and trunking else None,
        cni_fault=cni_fault(cni_directory, trunking) if cni_directory else "",
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


def has_exec_agent(root: str = MANAGED_AGENTS) -> bool:
    """True when ECS Exec's parts are installed: directories, certificate, and one complete version."""
    wanted = [f"{root}/{name}" for name in ("bin", "config", "certs", "certs/tls-ca-bundle.pem")]
    if not all(os.path.exists(path) for path in wanted):
        return False
    versions = [name for name in os.listdir(f"{root}/bin") if VERSION_DIRECTORY.match(name)]
    complete = [v for v in versions if all(os.path.isfile(f"{root}/bin/{v}/{name}") for name in EXEC_FILES)]
    if versions and not complete:
        log.warning("ECS Exec is not offered: no version below %s/bin has all of %s", root, ", ".join(EXEC_FILES))
    return bool(complete)


def gpus(path: str = GPU_FILE) -> Gpus | None:
    """The GPUs that the host service found; None without a usable file."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
        return Gpus(tuple(map(str, value.get("GPUIDs") or ())), str(value.get("DriverVersion") or ""))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        log.error("GPU support is on, but %s cannot be used: %s; the agent goes on without GPUs", path, error)
        return None


def can_inject_faults(ipv6_only: bool) -> bool:
    """True when the tools and the kernel module for network faults are there."""
    tools = ["iptables", "tc", "nsenter", *(["ip6tables"] if ipv6_only else [])]
    if not all(shutil.which(tool) for tool in tools):
        return False
    if _output(["modinfo", "sch_netem"]) is None:
        return False
    device = default_device()
    return bool(device) and _output(["tc", "-j", "q", "show", "dev", device, "parent", "1:1"]) is not None


def default_device(route_v4: str = "/proc/net/route", route_v6: str = "/proc/net/ipv6_route") -> str:
    """The interface of the default route, "" when there is none."""
    if os.path.exists(route_v4):
        for fields in (line.split() for line in _lines(route_v4)):
            if len(fields) > 7 and fields[1] == fields[7] == "0" * 8 and fields[2] != "0" * 8:
                return fields[0]
    if os.path.exists(route_v6):
        for fields in (line.split() for line in _lines(route_v6)):
            if len(fields) > 9 and fields[0] == "0" * 32 and fields[1] == "00" and fields[4] != "0" * 32:
                return fields[9]
    return ""


def cni_version(folder: str, plugin: str = "vpc-eni") -> str | None:
    """ "[@]<hash>-<version>" of a CNI plugin, None when it cannot be asked."""
    output = _output([os.path.join(folder, plugin), "--version"])
    try:
        value = json.loads(output or "")
        return f"{'@' if value.get('dirty') else ''}{value['gitShortHash']}-{value['version']}"
    except (ValueError, KeyError, AttributeError):
        return None


def cni_fault(folder: str, trunking: bool) -> str:
    """What is wrong with the CNI plugins that task networking needs, "" when nothing is (spec 04 §5)."""
    for plugin in (*PLUGINS, *([BRANCH_PLUGIN] if trunking else ())):
        path = os.path.join(folder, plugin)
        output = _output([path, "--capabilities"])
        try:
            known = json.loads(output or "")["capabilities"]
        except (ValueError, KeyError, TypeError):
            return f"the CNI plugin {path} is missing or does not tell its capabilities"
        if plugin != APP_MESH_PLUGIN and TASK_NETWORKING not in (known or ()):
            return f"plugin '{plugin}' doesn't support the capability: {TASK_NETWORKING}"
    return ""


def _output(command: Sequence[str]) -> str | None:
    """What a program prints, None when it fails, is missing, or takes too long."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            timeout=PROGRAM_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        log.debug("%s cannot be run: %s", command[0], error)
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None
