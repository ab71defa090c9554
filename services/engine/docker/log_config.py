"""The log configuration of a create request (ECS agent behaviour, spec 03 §6.6.8, spec 05 §9.5)."""

from __future__ import annotations

import re

from common.model.status import ContainerType
from common.model.task import Container, Task
from common.serviceconnect import in_bridge_mode
from services.engine.docker.draft import Draft, Refused

FIRELENS_DRIVER = "awsfirelens"
FIRELENS_PORT = "24224"
BUFFER_LIMIT = "log-driver-buffer-limit"
ASYNC_SINCE = (20, 10, 0)
DUAL_STACK_SINCE = (18, 9, 0)
NON_BLOCKING_BUFFER = "10m"

# Regions whose awslogs endpoint Docker's driver cannot work out, by the suffix of their names.
ISOLATED_ENDPOINTS = {
    "us-iso-east-1": "c2s.ic.gov",
    "us-iso-west-1": "c2s.ic.gov",
    "us-isob-east-1": "sc2s.sgov.gov",
    "us-isob-west-1": "sc2s.sgov.gov",
    "eu-isoe-west-1": "cloud.adc-e.uk",
    "us-isof-south-1": "csp.hci.ic.gov",
    "us-isof-east-1": "csp.hci.ic.gov",
    "eusc-de-east-1": "amazonaws.eu",
}


def driver(draft: Draft) -> str:
    """The log driver that the task definition names, or ""."""
    return str((draft.host.get("LogConfig") or {}).get("Type") or "")


def set_credentials_endpoint(draft: Draft) -> None:
    """logsAuthStrategy ExecutionRole: the awslogs driver fetches the execution role's credentials."""
    if draft.container.logs_auth_strategy != "ExecutionRole":
        return
    id_ = draft.task.execution_credentials_id
    if not id_:
        raise Refused("HostConfigError", "No execution credentials set for the task")
    if not draft.world.execution_credentials(id_):
        raise Refused("HostConfigError", "Unable to get execution role credentials for task")
    draft.log_config["Config"]["awslogs-credentials-endpoint"] = f"/v2/credentials/{id_}"


def set_firelens(draft: Draft) -> None:
    """awsfirelens becomes the fluentd driver, which speaks to the router's socket."""
    if driver(draft) != FIRELENS_DRIVER:
        return
    options = draft.log_config["Config"]
    settings, task = draft.world.settings, draft.task
    wanted = {
        "tag": f"{draft.container.name}-firelens-{task.id}",
        "fluentd-address": f"unix://{settings.host_data_dir}/data/firelens/{task.id}/socket/fluent.sock",
        "fluentd-sub-second-precision": "true",
        _async_option(draft.world.facts.server_version): "true" if settings.firelens_async else "false",
    }
    if options.get(BUFFER_LIMIT):
        wanted["fluentd-buffer-limit"] = options[BUFFER_LIMIT]
    draft.host["LogConfig"] = {"Type": "fluentd", "Config": wanted}
    draft.environment.update(_fluent_address(draft))


def _async_option(server_version: str) -> str:
    prefix = "failed to create container - container uses awsfirelens log driver and we failed to "
    if not server_version:
        raise Refused(
            "CannotCreateContainerError",
            prefix + "determine the Docker server version for Firelens log config generation",
        )
    try:
        newer = _server_at_least(server_version, ASYNC_SINCE)
    except ValueError as error:
        raise Refused(
            "CannotCreateContainerError",
            prefix + "generate the Firelens log config: unable to determine whether the Docker server version is at "
            f"least 20.10.0: {error}",
        ) from error
    return "fluentd-async" if newer else "fluentd-async-connect"


def _server_at_least(version: str, minimum: tuple[int, int, int]) -> bool:
    """Three numbers are required; "+suffix" is ignored, a "-suffix" on exactly the minimum is older."""
    match = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)(-[^+]*)?(\+.*)?", version)
    if match is None:
        raise ValueError(f"invalid version string {version!r}: three numbers are needed")
    numbers = (int(match[1]), int(match[2]), int(match[3]))
    return numbers > minimum or (numbers == minimum and not match[4])


def _fluent_address(draft: Draft) -> dict[str, str]:
    task = draft.task
    if task.network_mode == "awsvpc":
        return {"FLUENT_HOST": "127.0.0.1", "FLUENT_PORT": FIRELENS_PORT}
    if not in_bridge_mode(task) and (draft.host.get("NetworkMode") or "bridge") != "bridge":
        return {}
    router = router_of(task)
    address = draft.world.bridge_ip(task, router) if router else ""
    if not address:
        raise Refused("DockerClientConfigError", "unable to get BridgeIP for task in bridge mode")
    return {"FLUENT_HOST": address, "FLUENT_PORT": FIRELENS_PORT}


def router_of(task: Task) -> Container | None:
    """The firelens router container."""
    return next((c for c in task.containers if c.firelens is not None and c.type == ContainerType.NORMAL), None)


def set_awslogs_endpoint(draft: Draft) -> None:
    """Endpoints that the awslogs driver cannot find by itself."""
    if driver(draft) != "awslogs":
        return
    options, world = draft.log_config["Config"], draft.world
    region = options.get("awslogs-region")
    wants_dual_stack = world.settings.ipv6_only and region and not options.get("awslogs-endpoint")
    if wants_dual_stack and _new_enough_for_dual_stack(world.facts.server_version):
        suffix = "api.amazonwebservices.com.cn" if region.startswith("cn-") else "api.aws"
        options["awslogs-endpoint"] = f"https://logs.{region}.{suffix}"
        return
    if world.region in ISOLATED_ENDPOINTS:
        options["awslogs-endpoint"] = f"https://logs.{world.region}.{ISOLATED_ENDPOINTS[world.region]}"


def _new_enough_for_dual_stack(version: str) -> bool:
    try:
        return _server_at_least(version, DUAL_STACK_SINCE)
    except ValueError:
        return False


def set_buffer(draft: Draft) -> None:
    """A non-blocking log driver without a buffer size gets ten mebibytes."""
    if (draft.host.get("LogConfig") or {}).get("Config", None) is None:
        return
    options = draft.log_config["Config"]
    if options.get("mode") == "non-blocking" and not options.get("max-buffer-size"):
        options["max-buffer-size"] = NON_BLOCKING_BUFFER
