"""Containers of a task payload (ECS agent behaviour, spec 02 §2.4.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from common.model.task import (
    Container,
    Dependency,
    EnvironmentFile,
    Firelens,
    ManagedAgent,
    MountPoint,
    PortMapping,
    RegistryAuth,
    RestartPolicy,
    Secret,
    VolumeFrom,
)
from common.wire import gojson
from common.wire.invalid import InvalidTask
from common.wire.shapes import Mismatch, strings

PORT_MAX = 65535


def parse_container(value: Mapping[str, Any] | None) -> Container:
    """One container, in canonical form. Raises InvalidTask."""
    if value is None:
        raise InvalidTask("the list of containers has a null element")
    owner = f"container {value.get('name', '')!r}"
    override = _command_override(value["overrides"]) if "overrides" in value else None
    docker = value.get("dockerConfig", {})
    return Container(
        name=value.get("name", ""),
        image=value.get("image", ""),
        essential=value.get("essential", False),
        cpu_shares=at_least_zero(value, "cpu", owner),
        memory_mib=at_least_zero(value, "memory", owner),
        command=tuple(value.get("command", ())) if override is None else override,
        entry_point=tuple(value.get("entryPoint", ())),
        environment=value.get("environment", {}),
        links=tuple(value.get("links", ())),
        start_timeout_seconds=at_least_zero(value, "startTimeout", owner),
        stop_timeout_seconds=at_least_zero(value, "stopTimeout", owner),
        docker_config=docker.get("config"),
        docker_host_config=docker.get("hostConfig"),
        docker_api_version=docker.get("version", ""),
        health_check_type=value.get("healthCheckType", ""),
        logs_auth_strategy=value.get("logsAuthStrategy", ""),
        registry_auth=_registry_auth(value.get("registryAuthentication")),
        firelens=_firelens(value.get("firelensConfiguration")),
        restart_policy=_restart_policy(value.get("restartPolicy")),
        credential_specs=tuple(value.get("credentialSpecs", ())),
        container_arn=value.get("containerArn", ""),
        **_parts(value, owner),
    )


def _parts(value: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """The members that are lists of objects; null elements count for nothing."""

    def each(name: str, build: Callable[[Mapping[str, Any]], Any]) -> tuple[Any, ...]:
        return tuple(build(element) for element in value.get(name, ()) if element is not None)

    return {
        "environment_files": each(
            "environmentFiles", lambda f: EnvironmentFile(value=f.get("value", ""), type=f.get("type", ""))
        ),
        "secrets": each("secrets", _secret),
        "port_mappings": each("portMappings", lambda p: _port_mapping(p, owner)),
        "mount_points": each("mountPoints", _mount_point),
        "volumes_from": each(
            "volumesFrom",
            lambda v: VolumeFrom(source_container=v.get("sourceContainer", ""), read_only=v.get("readOnly", False)),
        ),
        "depends_on": each(
            "dependsOn",
            lambda d: Dependency(container_name=d.get("containerName", ""), condition=d.get("condition", "")),
        ),
        "managed_agents": each(
            "managedAgents", lambda a: ManagedAgent(name=a.get("name", ""), properties=a.get("properties", {}))
        ),
    }


def at_least_zero(value: Mapping[str, Any], name: str, owner: str) -> int:
    """An integer member that must not be negative; absent is 0. Raises InvalidTask."""
    result: int = value.get(name, 0)
    if result < 0:
        raise InvalidTask(f"{name} of {owner} must not be negative; Got {result}")
    return result


def _mount_point(value: Mapping[str, Any]) -> MountPoint:
    return MountPoint(
        source_volume=value.get("sourceVolume", ""),
        container_path=value.get("containerPath", ""),
        read_only=value.get("readOnly", False),
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
        value = gojson.whole_value(text)
    except gojson.NotJson as error:
        raise _bad_override(str(error)) from None
    if value is None:
        return None
    if not isinstance(value, gojson.Pairs):
        kind = gojson.kind_of(value)
        raise _bad_override(f"json: cannot unmarshal {kind} into Go value of type container.ContainerOverridesCopy")
    unknown = [key for key, _ in value if key.lower() != "command"]
    if unknown:
        numbered = "".join(f"\n\t{number}: Unrecognized key: {key}" for number, key in enumerate(unknown, 1))
        raise _bad_override(f"Multiple error:\n\t0: Error unmarshalling ContainerOverrides{numbered}")
    command = value[-1][1] if value else None
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
