"""From a task of a payload to the Task the engine works with (ECS agent behaviour, spec 02 §2.4-2.9 and §4.2).

Tolerant at the border, strict inside: `parse_task` takes any JSON value, lets only the known members pass, and raises
InvalidTask with the text that ECS gets to see when the task cannot be run. Nothing here has effects: credentials are
returned by `role_credentials`, to be stored by the caller.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from common.model.agent import Credentials
from common.model.status import TaskStatus
from common.model.task import (
    Association,
    Container,
    Dependency,
    EnvironmentFile,
    Firelens,
    ManagedAgent,
    MountPoint,
    PortMapping,
    Proxy,
    RegistryAuth,
    RestartPolicy,
    Secret,
    Task,
    VolumeFrom,
)
from common.wire import jsontext
from common.wire.attachments import parse_attachments
from common.wire.interfaces import parse_interface
from common.wire.invalid import InvalidTask
from common.wire.messages import TASK
from common.wire.shapes import Mismatch, strings
from common.wire.volumes import parse_volumes

__all__ = ["InvalidTask", "parse_task", "role_credentials"]

log = logging.getLogger(__name__)

DESIRED = {
    "NONE": TaskStatus.NONE,
    "MANIFEST_PULLED": TaskStatus.MANIFEST_PULLED,
    "CREATED": TaskStatus.CREATED,
    "RUNNING": TaskStatus.RUNNING,
    "STOPPED": TaskStatus.STOPPED,
    "UNKNOWN": TaskStatus.NONE,  # names that older control planes use
    "DEAD": TaskStatus.STOPPED,
}
NETWORK_MODES = ("awsvpc", "host", "bridge", "none")
METADATA_ADDRESSES = ("169.254.170.2", "169.254.169.254")  # never sent through a task's proxy
PORT_MAX = 65535


def parse_task(member: Any) -> Task:
    """The task that `member` (one element of a payload's `tasks`) describes. Raises InvalidTask, and nothing else."""
    try:
        value = TASK(member)
    except (Mismatch, RecursionError) as error:
        raise InvalidTask(str(error)) from None
    arn = value.get("arn", "")
    desired = value.get("desiredStatus", "NONE")
    if desired not in DESIRED:
        raise InvalidTask("Unrecognized TaskStatus")
    containers = tuple(parse_container(c) for c in value.get("containers", []))
    mode = _network_mode(arn, value)
    volumes = parse_volumes(value)
    attachments = parse_attachments(value, mode, [c.name for c in containers])
    roles = role_credentials(value)
    return Task(
        arn=arn,
        family=value.get("family", ""),
        version=value.get("version", ""),
        service_name=value.get("serviceName", ""),
        group=value.get("group", ""),
        containers=containers,
        volumes=volumes,
        associations=tuple(_association(a) for a in value.get("associations", []) if a),
        cpu=value.get("cpu", 0.0),
        memory_mib=_at_least_zero(value, "memory", "the task"),
        pid_mode=value.get("pidMode", ""),
        ipc_mode=value.get("ipcMode", ""),
        network_mode=mode,
        launch_type=value.get("launchType", ""),
        enable_fault_injection=value.get("enableFaultInjection", False),
        interfaces=tuple(parse_interface(e) for e in value.get("elasticNetworkInterfaces", [])),
        proxy=_proxy(value["proxyConfiguration"]) if "proxyConfiguration" in value else None,
        attachments=attachments,
        credentials_id=next((r.credentials_id for r in roles if r.role_type == "TaskApplication"), ""),
        execution_credentials_id=next((r.credentials_id for r in roles if r.role_type == "TaskExecution"), ""),
        desired=DESIRED[desired],
    )


def role_credentials(member: Mapping[str, Any]) -> tuple[Credentials, ...]:
    """The credentials of a task's two roles, the task role first. `member` is in canonical form."""
    found = []
    for name, role_type in (("roleCredentials", "TaskApplication"), ("executionRoleCredentials", "TaskExecution")):
        if name in member:
            found.append(credentials(member[name], member.get("arn", ""), role_type))
    return tuple(found)


def credentials(value: Mapping[str, Any], arn: str, role_type: str) -> Credentials:
    """One set of role credentials. Raises InvalidTask when it cannot be stored."""
    if not value.get("credentialsId"):
        raise InvalidTask("CredentialsId is empty")
    if not arn:
        raise InvalidTask("task ARN is empty")
    return Credentials(
        credentials_id=value["credentialsId"],
        task_arn=arn,
        role_type=role_type,
        role_arn=value.get("roleArn", ""),
        access_key_id=value.get("accessKeyId", ""),
        secret_access_key=value.get("secretAccessKey", ""),
        session_token=value.get("sessionToken", ""),
        expiration=value.get("expiration", ""),
    )


def _network_mode(arn: str, value: Mapping[str, Any]) -> str:
    mode: str = value.get("networkMode") or "bridge"
    if mode not in NETWORK_MODES:
        log.warning("task %s has the unknown network mode %r; it is kept as it is", arn, mode)
    return mode


def _at_least_zero(value: Mapping[str, Any], name: str, owner: str) -> int:
    result: int = value.get(name, 0)
    if result < 0:
        raise InvalidTask(f"{name} of {owner} must not be negative; Got {result}")
    return result


def _association(value: Mapping[str, Any]) -> Association:
    content = value.get("content", {})
    return Association(
        name=value.get("name", ""),
        type=value.get("type", ""),
        containers=tuple(value.get("containers", ())),
        encoding=content.get("encoding", ""),
        value=content.get("value", ""),
    )


def _proxy(value: Mapping[str, Any]) -> Proxy:
    if value.get("type") != "APPMESH":
        raise InvalidTask("agent does not support proxy type other than app mesh")
    properties = dict(value.get("properties", {}))
    ignored = [ip for ip in properties.get("EgressIgnoredIPs", "").split(",") if ip]
    ignored += [ip for ip in METADATA_ADDRESSES if ip not in ignored]
    properties["EgressIgnoredIPs"] = ",".join(ignored)
    return Proxy(container_name=value.get("containerName", ""), properties=properties)


# -- containers --------------------------------------------------------------------------------


def parse_container(value: Mapping[str, Any] | None) -> Container:
    """One container, in canonical form. Raises InvalidTask."""
    if value is None:
        raise InvalidTask("the list of containers has a null element")
    name = value.get("name", "")
    owner = f"container {name!r}"
    override = _command_override(value["overrides"]) if "overrides" in value else None
    docker = value.get("dockerConfig", {})
    return Container(
        name=name,
        image=value.get("image", ""),
        essential=value.get("essential", False),
        cpu_shares=_at_least_zero(value, "cpu", owner),
        memory_mib=_at_least_zero(value, "memory", owner),
        command=tuple(value.get("command", ())) if override is None else override,
        entry_point=tuple(value.get("entryPoint", ())),
        environment=value.get("environment", {}),
        environment_files=tuple(
            EnvironmentFile(value=f.get("value", ""), type=f.get("type", ""))
            for f in value.get("environmentFiles", ())
            if f
        ),
        secrets=tuple(_secret(s) for s in value.get("secrets", ()) if s),
        links=tuple(value.get("links", ())),
        port_mappings=tuple(_port_mapping(p, owner) for p in value.get("portMappings", ()) if p is not None),
        mount_points=tuple(
            MountPoint(
                source_volume=m.get("sourceVolume", ""),
                container_path=m.get("containerPath", ""),
                read_only=m.get("readOnly", False),
            )
            for m in value.get("mountPoints", ())
            if m
        ),
        volumes_from=tuple(
            VolumeFrom(source_container=v.get("sourceContainer", ""), read_only=v.get("readOnly", False))
            for v in value.get("volumesFrom", ())
            if v
        ),
        depends_on=tuple(
            Dependency(container_name=d.get("containerName", ""), condition=d.get("condition", ""))
            for d in value.get("dependsOn", ())
            if d
        ),
        start_timeout_seconds=_at_least_zero(value, "startTimeout", owner),
        stop_timeout_seconds=_at_least_zero(value, "stopTimeout", owner),
        docker_config=docker.get("config", ""),
        docker_host_config=docker.get("hostConfig", ""),
        docker_api_version=docker.get("version", ""),
        health_check_type=value.get("healthCheckType", ""),
        logs_auth_strategy=value.get("logsAuthStrategy", ""),
        registry_auth=_registry_auth(value.get("registryAuthentication")),
        firelens=_firelens(value.get("firelensConfiguration")),
        restart_policy=_restart_policy(value.get("restartPolicy")),
        managed_agents=tuple(
            ManagedAgent(name=a.get("name", ""), properties=a.get("properties", {}))
            for a in value.get("managedAgents", ())
            if a
        ),
        credential_specs=tuple(value.get("credentialSpecs", ())),
        container_arn=value.get("containerArn", ""),
    )


def _secret(value: Mapping[str, Any]) -> Secret:
    return Secret(
        name=value.get("name", ""),
        value_from=value.get("valueFrom", ""),
        region=value.get("region", ""),
        container_path=value.get("containerPath", ""),
        type=value.get("type", ""),
        provider=value.get("provider", ""),
        target=value.get("target", ""),
    )


def _port_mapping(value: Mapping[str, Any], owner: str) -> PortMapping:
    protocol = value.get("protocol", "tcp")
    if protocol not in ("tcp", "udp"):
        raise InvalidTask(f'TransportProtocol must be "tcp" or "udp"; Got "{protocol}"')
    for name in ("containerPort", "hostPort"):
        if not 0 <= value.get(name, 0) <= PORT_MAX:
            raise InvalidTask(f"{name} of {owner} must be from 0 to {PORT_MAX}; Got {value[name]}")
    return PortMapping(
        container_port=value.get("containerPort", 0),
        container_port_range=value.get("containerPortRange", ""),
        host_port=value.get("hostPort", 0),
        protocol=protocol,
    )


def _registry_auth(value: Mapping[str, Any] | None) -> RegistryAuth | None:
    if value is None:
        return None
    ecr, asm = value.get("ecrAuthData", {}), value.get("asmAuthData", {})
    return RegistryAuth(
        type=value.get("type", ""),
        registry_id=ecr.get("registryId", ""),
        region=ecr.get("region") or asm.get("region", ""),
        endpoint_override=ecr.get("endpointOverride", ""),
        use_execution_role=ecr.get("useExecutionRole", False),
        credentials_parameter=asm.get("credentialsParameter", ""),
    )


def _firelens(value: Mapping[str, Any] | None) -> Firelens | None:
    return None if value is None else Firelens(type=value.get("type", ""), options=value.get("options", {}))


def _restart_policy(value: Mapping[str, Any] | None) -> RestartPolicy | None:
    if value is None:
        return None
    return RestartPolicy(
        enabled=value.get("enabled", False),
        ignored_exit_codes=tuple(value.get("ignoredExitCodes", ())),
        restart_attempt_period_seconds=value.get("restartAttemptPeriod", 0),
    )


def _command_override(text: str) -> tuple[str, ...] | None:
    """The command in a container's `overrides`, a JSON text that may hold nothing else; None when there is none.

    The numbered lines are what the reference's decoder says; only the fixed parts are meant to be matched.
    """
    try:
        value = jsontext.loads(text)
    except jsontext.NotJson as error:
        raise _bad_override(str(error) if text else "unexpected end of JSON input") from None
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _bad_override("json: cannot unmarshal a value that is not an object")
    unknown = [key for key in value if key.lower() != "command"]
    if unknown:
        numbered = "".join(f"\n\t{number}: Unrecognized key: {key}" for number, key in enumerate(unknown, 1))
        raise _bad_override(f"Multiple error:\n\t0: Error unmarshalling ContainerOverrides{numbered}")
    command = next(reversed(value.values()), None)
    if command is None:
        return None
    try:
        return tuple(strings(command))
    except Mismatch:
        raise _bad_override("json: cannot unmarshal command, which is not a list of strings") from None


def _bad_override(cause: str) -> InvalidTask:
    return InvalidTask(
        "Multiple error:\n\t0: Could not unmarshal ContainerOverrides in any supported way\n\t1: json: cannot "
        f"unmarshal string into Go value of type container.ContainerOverridesCopy\n\t2: {cause}"
    )
