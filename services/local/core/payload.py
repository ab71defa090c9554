"""From a task and its definition to the task of an ACS PayloadMessage.

The backend, not the agent, does this translation (spec 11 §3); the member names on the wire are those of spec 02 §2.4.
Overrides of RunTask are merged here, except the command, which the agent itself puts in place of the definition's.
"""

from __future__ import annotations

import json
from typing import Any

from services.local.core.checks import task_cpu_units, task_memory_mib
from services.local.core.definitions import ECR_IMAGE, secret_provider
from services.local.core.dockerconfig import docker_config

Json = dict[str, Any]
_SAME = (
    "name",
    "image",
    "entryPoint",
    "links",
    "dependsOn",
    "startTimeout",
    "stopTimeout",
    "restartPolicy",
    "mountPoints",
    "volumesFrom",
    "firelensConfiguration",
    "credentialSpecs",
)


def task_payload(view: Json, definition: Json, desired: str, role: Json | None, execution_role: Json | None) -> Json:
    """One element of PayloadMessage.tasks.

    `view` is the task as clients see it, `role` and `execution_role` are complete IAMRoleCredentials (spec 02 §2.5) or
    None. A task with `desired` STOPPED carries the same content: the agent may not know it yet.
    """
    overrides = view.get("overrides") or {}
    by_name = {o.get("name"): o for o in overrides.get("containerOverrides") or []}
    arns = {c["name"]: c["containerArn"] for c in view["containers"]}
    mode = definition.get("networkMode") or "bridge"
    has_execution_role = bool(overrides.get("executionRoleArn") or definition.get("executionRoleArn"))
    region = view["taskArn"].split(":")[3]
    task: Json = {
        "arn": view["taskArn"],
        "taskClusterArn": view["clusterArn"],
        "taskDefinitionAccountId": view["taskArn"].split(":")[4],
        "family": definition["family"],
        "version": str(definition["revision"]),
        "desiredStatus": desired,
        "group": view.get("group", ""),
        "launchType": "EC2",
        "networkMode": mode,
        "overrides": "{}",
        "associations": [],
        "enableFaultInjection": bool(definition.get("enableFaultInjection")),
        "volumes": [_volume(v) for v in definition.get("volumes") or []],
        "containers": [
            _container(
                merged(c, by_name.get(c["name"])),
                by_name.get(c["name"]) or {},
                arns.get(c["name"]),
                mode,
                has_execution_role,
                region,
            )
            for c in definition["containerDefinitions"]
        ],
    }
    if view.get("group", "").startswith("service:"):
        task["serviceName"] = view["group"].removeprefix("service:")
    _limits(task, overrides.get("cpu") or definition.get("cpu"), overrides.get("memory") or definition.get("memory"))
    for member in ("pidMode", "ipcMode"):
        if definition.get(member):
            task[member] = definition[member]
    if definition.get("proxyConfiguration"):
        task["proxyConfiguration"] = _proxy(definition["proxyConfiguration"])
    if role:
        task["roleCredentials"] = role
    if execution_role:
        task["executionRoleCredentials"] = execution_role
    return task


def _limits(task: Json, cpu: str | None, memory: str | None) -> None:
    """cpu in vCPU, memory in MiB; absent when the definition gives none."""
    if cpu:
        task["cpu"] = task_cpu_units(cpu) / 1024
    if memory:
        task["memory"] = task_memory_mib(memory)


def merged(container: Json, override: Json | None) -> Json:
    """The container definition with the environment, sizes and files of its override (not the command)."""
    if not override:
        return container
    sizes: Json = {k: override[k] for k in ("cpu", "memory", "memoryReservation") if k in override}
    result: Json = {**container, **sizes}
    environment: dict[str, str] = {}
    for entry in [*(container.get("environment") or []), *(override.get("environment") or [])]:
        environment[entry["name"]] = entry.get("value", "")
    result["environment"] = [{"name": k, "value": v} for k, v in environment.items()]
    if override.get("environmentFiles"):
        result["environmentFiles"] = override["environmentFiles"]
    return result


def _container(
    container: Json, override: Json, arn: str | None, mode: str, has_execution_role: bool, region: str
) -> Json:
    logging = container.get("logConfiguration") or {}
    wire: Json = {k: container[k] for k in _SAME if container.get(k) is not None}
    wire |= {
        "essential": container.get("essential", True),
        "cpu": container.get("cpu") or 0,
        "memory": container.get("memory") or 0,
        "command": container.get("command") or [],
        "environment": {e["name"]: e.get("value", "") for e in container.get("environment") or []},
        "portMappings": [_port(p, mode) for p in container.get("portMappings") or []],
        "overrides": json.dumps({"command": override["command"]} if "command" in override else {}),
        "dockerConfig": docker_config(container, mode),
    }
    if arn:
        wire["containerArn"] = arn
    if container.get("environmentFiles"):
        wire["environmentFiles"] = container["environmentFiles"]
    if container.get("healthCheck"):
        wire["healthCheckType"] = "docker"
    secrets = [_secret(s, "CONTAINER", region) for s in container.get("secrets") or []]
    secrets += [_secret(s, "LOG_DRIVER", region) for s in logging.get("secretOptions") or []]
    if secrets:
        wire["secrets"] = secrets
    registry = _registry(container, has_execution_role, region)
    if registry:
        wire["registryAuthentication"] = registry
    if logging.get("logDriver") == "awslogs" and has_execution_role:
        wire["logsAuthStrategy"] = "ExecutionRole"
    return wire


def _port(port: Json, mode: str) -> Json:
    protocol = port.get("protocol") or "tcp"
    if port.get("containerPortRange"):
        return {"containerPortRange": port["containerPortRange"], "protocol": protocol}
    host = port.get("hostPort") or 0
    if mode in ("host", "awsvpc"):
        host = port["containerPort"]
    return {"containerPort": port["containerPort"], "hostPort": host, "protocol": protocol}


def _secret(secret: Json, target: str, region: str) -> Json:
    value = secret["valueFrom"]
    return {
        "name": secret["name"],
        "valueFrom": value,
        "provider": secret_provider(value),
        "region": _region(value, region),
        "type": "ENVIRONMENT_VARIABLE",
        "target": target,
    }


def _region(name_or_arn: str, default: str) -> str:
    parts = name_or_arn.split(":")
    return parts[3] if parts[0] == "arn" and len(parts) > 3 and parts[3] else default


def _registry(container: Json, has_execution_role: bool, region: str) -> Json | None:
    parameter = (container.get("repositoryCredentials") or {}).get("credentialsParameter")
    if parameter:
        return {"type": "asm", "asmAuthData": {"credentialsParameter": parameter, "region": _region(parameter, region)}}
    ecr = ECR_IMAGE.match(container["image"])
    if ecr:
        return {
            "type": "ecr",
            "ecrAuthData": {"registryId": ecr[1], "region": ecr[2], "useExecutionRole": has_execution_role},
        }
    return None


def _volume(volume: Json) -> Json:
    for kind, member in (
        ("docker", "dockerVolumeConfiguration"),
        ("efs", "efsVolumeConfiguration"),
        ("fsxWindowsFileServer", "fsxWindowsFileServerVolumeConfiguration"),
    ):
        if volume.get(member):
            return {"name": volume["name"], "type": kind, member: volume[member]}
    return {"name": volume["name"], "type": "host", "host": volume.get("host") or {}}


def _proxy(proxy: Json) -> Json:
    return {
        "type": proxy.get("type") or "APPMESH",
        "containerName": proxy["containerName"],
        "properties": {p.get("name", ""): p.get("value", "") for p in proxy.get("properties") or []},
    }
