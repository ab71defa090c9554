"""The Docker half of a container's payload: `dockerConfig.config` and `dockerConfig.hostConfig`.

Names are those of the Docker Engine API's container-create body; what each comes from is the table of spec 11 §3.
Absent members stay absent, so that the agent's and Docker's own defaults apply.
"""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]
MIB = 1024 * 1024
SECOND = 1_000_000_000  # Docker gives health check times in nanoseconds


def docker_config(container: Json, network_mode: str | None) -> Json:
    """The `dockerConfig` member: two JSON strings and the Docker API version they need."""
    config, host = _config(container), _host_config(container, network_mode)
    version = "1.24" if "Healthcheck" in config else "1.18"
    if "Init" in host:
        version = "1.25"
    return {"config": json.dumps(config), "hostConfig": json.dumps(host), "version": version}


def _config(container: Json) -> Json:
    config = {}
    for member, name in (
        ("user", "User"),
        ("workingDirectory", "WorkingDir"),
        ("hostname", "Hostname"),
        ("pseudoTerminal", "Tty"),
        ("interactive", "OpenStdin"),
        ("dockerLabels", "Labels"),
        ("disableNetworking", "NetworkDisabled"),
    ):
        if container.get(member):
            config[name] = container[member]
    probe = container.get("healthCheck")
    if probe:
        config["Healthcheck"] = _health_check(probe)
    return config


def _health_check(probe: Json) -> Json:
    check: Json = {"Test": probe["command"]}
    for member, name in (("interval", "Interval"), ("timeout", "Timeout"), ("startPeriod", "StartPeriod")):
        if probe.get(member) is not None:
            check[name] = probe[member] * SECOND
    if probe.get("retries") is not None:
        check["Retries"] = probe["retries"]
    return check


def _host_config(container: Json, network_mode: str | None) -> Json:
    host: Json = {"CapAdd": [], "CapDrop": []}
    if network_mode in ("bridge", "host", "none"):
        host["NetworkMode"] = network_mode
    for member, name in (
        ("privileged", "Privileged"),
        ("readonlyRootFilesystem", "ReadonlyRootfs"),
        ("dnsServers", "Dns"),
        ("dnsSearchDomains", "DnsSearch"),
        ("dockerSecurityOptions", "SecurityOpt"),
    ):
        if container.get(member):
            host[name] = container[member]
    if container.get("extraHosts"):
        host["ExtraHosts"] = [f"{e['hostname']}:{e['ipAddress']}" for e in container["extraHosts"]]
    if container.get("ulimits"):
        host["Ulimits"] = [
            {"Name": u["name"], "Soft": u["softLimit"], "Hard": u["hardLimit"]} for u in container["ulimits"]
        ]
    if container.get("systemControls"):
        host["Sysctls"] = {s["namespace"]: s["value"] for s in container["systemControls"]}
    if container.get("memoryReservation"):
        host["MemoryReservation"] = container["memoryReservation"] * MIB
    logging = container.get("logConfiguration")
    if logging:
        host["LogConfig"] = {"Type": logging["logDriver"], "Config": logging.get("options") or {}}
    host.update(_linux(container.get("linuxParameters") or {}, container.get("memory")))
    return host


def _linux(linux: Json, memory_mib: int | None) -> Json:
    host: Json = {}
    capabilities = linux.get("capabilities") or {}
    for member, name in (("add", "CapAdd"), ("drop", "CapDrop")):
        if capabilities.get(member):
            host[name] = capabilities[member]
    if linux.get("devices"):
        host["Devices"] = [_device(d) for d in linux["devices"]]
    if linux.get("initProcessEnabled") is not None:
        host["Init"] = linux["initProcessEnabled"]
    if linux.get("sharedMemorySize"):
        host["ShmSize"] = linux["sharedMemorySize"] * MIB
    if linux.get("tmpfs"):
        host["Tmpfs"] = {
            t["containerPath"]: ",".join([f"size={t['size']}m", *(t.get("mountOptions") or [])]) for t in linux["tmpfs"]
        }
    if linux.get("swappiness") is not None:
        host["MemorySwappiness"] = linux["swappiness"]
    if linux.get("maxSwap") is not None and memory_mib:
        host["MemorySwap"] = (memory_mib + linux["maxSwap"]) * MIB
    return host


def _device(device: Json) -> Json:
    letters = {"read": "r", "write": "w", "mknod": "m"}
    permissions = "".join(letters[p] for p in device.get("permissions") or letters)
    return {
        "PathOnHost": device["hostPath"],
        "PathInContainer": device.get("containerPath") or device["hostPath"],
        "CgroupPermissions": permissions,
    }
