"""A registered task definition: defaults filled in, and what an instance must be able to do to run it.

The view is what RegisterTaskDefinition and DescribeTaskDefinition answer, in the service's own shape.
"""

from __future__ import annotations

import re
from typing import Any

from services.local.core.checks import task_cpu_units, task_memory_mib

Json = dict[str, Any]
P1, P2 = "com.amazonaws.ecs.capability.", "ecs.capability."
ECR_IMAGE = re.compile(r"(\d{12})\.dkr[.-]ecr(?:-fips)?\.([a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|on\.aws)/")
_KEPT = (
    "family",
    "taskRoleArn",
    "executionRoleArn",
    "networkMode",
    "requiresCompatibilities",
    "cpu",
    "memory",
    "pidMode",
    "ipcMode",
    "proxyConfiguration",
    "inferenceAccelerators",
    "ephemeralStorage",
    "runtimePlatform",
    "enableFaultInjection",
)


def register(request: Json, arn: str, revision: int, now: float, registered_by: str) -> Json:
    """The TaskDefinition view of a valid request, with the defaults that the service fills in."""
    mode = request.get("networkMode")
    view: Json = {k: request[k] for k in _KEPT if request.get(k) is not None}
    for member, units in (("cpu", task_cpu_units), ("memory", task_memory_mib)):
        if request.get(member):
            view[member] = str(units(request[member]))
    view |= {
        "taskDefinitionArn": arn,
        "revision": revision,
        "status": "ACTIVE",
        "registeredAt": now,
        "registeredBy": registered_by,
        "containerDefinitions": [_container(c, mode) for c in request["containerDefinitions"]],
        "volumes": [_volume(v) for v in request.get("volumes") or []],
        "placementConstraints": request.get("placementConstraints") or [],
    }
    view["compatibilities"] = _compatibilities(view)
    view["requiresAttributes"] = [{"name": name} for name in sorted(required_attributes(view))]
    return view


def _container(given: Json, mode: str | None) -> Json:
    container: Json = {
        "cpu": 0,
        "portMappings": [],
        "essential": True,
        "environment": [],
        "mountPoints": [],
        "volumesFrom": [],
        "systemControls": [],
        **given,
    }
    container["portMappings"] = [_port(p, mode) for p in container["portMappings"]]
    if "healthCheck" in container:
        container["healthCheck"] = {"interval": 30, "timeout": 5, "retries": 3, **container["healthCheck"]}
    return container


def _volume(given: Json) -> Json:
    """A volume with only a name is one of the host; one of Docker's is the task's own and local unless it says more."""
    if list(given) == ["name"]:
        return {"host": {}, **given}
    if "dockerVolumeConfiguration" not in given:
        return given
    configuration = {"scope": "task", "driver": "local", **given["dockerVolumeConfiguration"]}
    return {**given, "dockerVolumeConfiguration": configuration}


def _port(port: Json, mode: str | None) -> Json:
    filled = {**port, "protocol": port.get("protocol") or "tcp"}
    if port.get("containerPortRange"):
        return filled
    host = port.get("hostPort") or 0
    filled["hostPort"] = port["containerPort"] if mode in ("host", "awsvpc") else host
    return filled


def _compatibilities(view: Json) -> list[str]:
    possible = ["EXTERNAL", "EC2"] if view.get("networkMode") != "awsvpc" else ["EC2", "FARGATE"]
    return [c for c in possible if c != "FARGATE" or (view.get("cpu") and view.get("memory"))]


def required_attributes(view: Json) -> set[str]:
    """The capabilities that an instance must have registered (ECS agent behaviour, spec 01 §6.5 names them)."""
    needed = {P1 + "docker-remote-api.1.18"}
    host = view.get("networkMode") == "host"
    if view.get("taskRoleArn"):
        needed.add(P1 + ("task-iam-role-network-host" if host else "task-iam-role"))
    if view.get("networkMode") == "awsvpc":
        needed.add(P2 + "task-eni")
    if view.get("cpu") or view.get("memory"):
        needed.add(P2 + "task-cpu-mem-limit")
    if view.get("pidMode") or view.get("ipcMode"):
        needed.add(P2 + "pid-ipc-namespace-sharing")
    if view.get("proxyConfiguration"):
        needed.add(P2 + "aws-appmesh")
    for volume in view.get("volumes") or []:
        docker = volume.get("dockerVolumeConfiguration") or {}
        if docker:
            needed.add(P2 + "docker-plugin." + (docker.get("driver") or "local").replace(":", "."))
        if volume.get("efsVolumeConfiguration"):
            needed.add(P2 + "efs")
    for container in view["containerDefinitions"]:
        needed |= _container_attributes(container, bool(view.get("executionRoleArn")))
    return needed


def _container_attributes(container: Json, execution_role: bool) -> set[str]:
    logging = container.get("logConfiguration") or {}
    needed = set()
    if logging.get("logDriver"):
        needed.add(P1 + "logging-driver." + logging["logDriver"])
        if logging["logDriver"] == "awslogs" and execution_role:
            needed.add(P2 + "execution-role-awslogs")
    for secret in container.get("secrets") or []:
        needed.add(P2 + f"secrets.{secret_provider(secret['valueFrom'])}.environment-variables")
    for secret in logging.get("secretOptions") or []:
        needed.add(P2 + f"secrets.{secret_provider(secret['valueFrom'])}.bootstrap.log-driver")
    if ECR_IMAGE.match(container["image"]):
        needed.add(P2 + "execution-role-ecr-pull" if execution_role else P1 + "ecr-auth")
    for member, attribute in (
        ("privileged", P1 + "privileged-container"),
        ("healthCheck", P2 + "container-health-check"),
        ("dependsOn", P2 + "container-ordering"),
        ("environmentFiles", P2 + "env-files.s3"),
        ("repositoryCredentials", P2 + "private-registry-authentication.secretsmanager"),
        ("restartPolicy", P2 + "container-restart-policy"),
    ):
        if container.get(member):
            needed.add(attribute)
    if any(p.get("containerPortRange") for p in container.get("portMappings") or []):
        needed.add(P2 + "network.container-port-range")
    if container.get("firelensConfiguration"):
        needed.add(P2 + "firelens." + container["firelensConfiguration"]["type"])
    return needed


def secret_provider(value_from: str) -> str:
    """`asm` for the ARN of a Secrets Manager secret, else `ssm` (a parameter's name or ARN)."""
    return "asm" if value_from.startswith("arn:") and ":secretsmanager:" in value_from else "ssm"
