"""The create request of a container, built in the order of spec 03 §6.6 and spec 05 §1.7.

Pure but for the lookups of the World (image environment, bridge address, free ports). The JSON is sent as it stands:
no library renames or adds a member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.model.status import ContainerType
from common.model.task import Container, Task
from services.engine.docker import gpu, host_config, log_config, names
from services.engine.docker.draft import Draft, Refused, World, at_least, of_type
from services.engine.docker.overlay import CONFIG, HOST_CONFIG, BadOverlay, compact, overlay
from services.engine.resources.registry import Registry

CONFIG_ERROR = "DockerClientConfigError"
CREATE_ERROR = "CannotCreateContainerError"
ENDPOINT = "http://169.254.170.2"
REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
PAUSE_TYPES = (ContainerType.CNI_PAUSE, ContainerType.NAMESPACE_PAUSE)


def build(
    task: Task,
    container: Container,
    world: World,
    registry: Registry,
    metadata: Mapping[str, str],
    exec_binds: Sequence[str] = (),
) -> Draft:
    """The request for `container`. `metadata` holds bind and path of its metadata file, or nothing.

    Raises Refused with the error of the transition.
    """
    draft = Draft(task, container, world, version=api_version(container, world))
    draft.environment = _environment(draft)
    host_config.build(draft)
    log_config.set_credentials_endpoint(draft)
    log_config.set_firelens(draft)
    log_config.set_awslogs_endpoint(draft)
    log_config.set_buffer(draft)
    registry.amend(draft)
    draft.bind(*exec_binds)
    _add_region(draft)
    if metadata:
        draft.bind(metadata["bind"])
    host_config.explicit_defaults(draft)
    draft.host = compact(draft.host, HOST_CONFIG)
    config = _config(draft)
    if metadata:  # after the overlay, whose Env takes all other variables away
        config["Env"] = [*(config.get("Env") or ()), f"ECS_CONTAINER_METADATA_FILE={metadata['path']}"]
    draft.config = compact(config, CONFIG)
    _check_version(draft)
    return draft


def api_version(container: Container, world: World) -> str:
    """The API version of create and start: what the task definition asks for, but at least the default."""
    default, wanted = world.facts.default_api_version, container.docker_api_version
    if not wanted or at_least(default, wanted):
        return default
    if wanted not in world.facts.usable_api_versions:
        raise Refused(
            "CannotGetDockerClientVersionError",
            f"docker client factory: client not found for docker version: {wanted}",
        )
    return wanted


# -- environment -----------------------------------------------------------------------------


def _environment(draft: Draft) -> dict[str, str]:
    """The variables of the task definition and those by which a container finds its credentials and metadata."""
    task, container = draft.task, draft.container
    environment = dict(container.environment)
    if container.type == ContainerType.NORMAL:
        if task.credentials_id:
            environment["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"] = f"/v2/credentials/{task.credentials_id}"
        if container.endpoint_id:
            environment["ECS_CONTAINER_METADATA_URI"] = f"{ENDPOINT}/v3/{container.endpoint_id}"
            environment["ECS_CONTAINER_METADATA_URI_V4"] = f"{ENDPOINT}/v4/{container.endpoint_id}"
            environment["ECS_AGENT_URI"] = f"{ENDPOINT}/api/{container.endpoint_id}"
    environment.update(gpu.environment(draft))
    return environment


def _add_region(draft: Draft) -> None:
    region = draft.world.region
    if draft.container.type != ContainerType.NORMAL or not region:
        return
    if any(name in draft.environment for name in REGION_VARIABLES):
        return
    if any(name in draft.world.image_environment(draft.container.image) for name in REGION_VARIABLES):
        return
    draft.environment.update(dict.fromkeys(REGION_VARIABLES, region))


# -- Config ----------------------------------------------------------------------------------


def _config(draft: Draft) -> dict[str, Any]:
    container = draft.container
    base: dict[str, object] = {
        "Image": container.image,
        "Cmd": list(container.command) or None,
        "Entrypoint": list(container.entry_point) or None,
        "ExposedPorts": _exposed_ports(draft) | draft.config.get("ExposedPorts", {}),
        "Env": [f"{name}={value}" for name, value in draft.environment.items()],
        "User": draft.config.get("User"),
    }
    try:
        config = overlay(base, container.docker_config, CONFIG, "Config")
    except BadOverlay as error:
        raise Refused(CONFIG_ERROR, f"Unable decode given docker config: {error}") from error
    if container.health_check_type == "docker" and config.get("Healthcheck") is None:
        raise Refused(CONFIG_ERROR, "docker health check is nil while container health check type is DOCKER")
    _set_pause_facts(draft, config)
    own = names.labels(draft.task, container, draft.world.cluster)
    config["Labels"] = {**(config.get("Labels") or {}), **own}
    return config


def _set_pause_facts(draft: Draft, config: dict[str, object]) -> None:
    container, task = draft.container, draft.task
    if container.type in PAUSE_TYPES and draft.world.settings.pause_labels:
        config["Labels"] = {**dict(config.get("Labels") or {}), **draft.world.settings.pause_labels}  # type: ignore[call-overload]
    if container.type == ContainerType.CNI_PAUSE and task.network_mode == "awsvpc":
        host_name = next((i.private_dns_name for i in task.interfaces[:1]), "")
        if host_name:
            config["Hostname"] = host_name


def _exposed_ports(draft: Draft) -> dict[str, dict[str, str]]:
    ports: dict[str, dict[str, str]] = {}
    for mapping in host_config.published(draft):
        try:
            numbers = host_config.container_ports(mapping)
        except ValueError as error:
            raise Refused(
                CONFIG_ERROR, f"error resolving docker exposed ports for container: {mapping.container_port_range}"
            ) from error
        ports.update({f"{number}/{mapping.protocol or 'tcp'}": {} for number in numbers})
    return ports


def _check_version(draft: Draft) -> None:
    """Members that the reference's client refuses below their API version, before any call."""
    health = draft.config.get("Healthcheck") or {}
    for present, what, since in (
        (draft.config.get("StopTimeout") is not None, "stop timeout", "1.25"),
        (bool(health.get("StartInterval")), "specify health-check start interval", "1.44"),
    ):
        if present and not at_least(draft.version, since):
            raise Refused(
                CREATE_ERROR,
                f'"{what}" requires API version {since}, but the Docker daemon API version is {draft.version}',
            )


def namespace_pause_missing(task: Task) -> bool:
    """The task shares namespaces and their owner is not there: then the whole task must stop (spec 03 §6.6.7)."""
    if "task" not in (task.pid_mode, task.ipc_mode):
        return False
    pause = of_type(task, ContainerType.NAMESPACE_PAUSE)
    return pause is None or not pause.docker_id
