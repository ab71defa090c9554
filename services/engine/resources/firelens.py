"""The FireLens log router: the kind `firelens` (spec 05 §9).

Makes the router's configuration and the directory of its socket, and gives the router its binds and variables. All of
it follows from the task, so nothing is kept in the resource. An agent in a container writes below its data directory,
which Docker sees as <ECS_HOST_DATA_DIR>/data; an agent that runs on the host uses that path for both.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from common.model.task import Container, Resource, Task
from services.engine.core.effects import SetupError
from services.engine.docker.overlay import CONFIG, HOST_CONFIG, BadOverlay, overlay
from services.engine.resources import aws, files, s3
from services.engine.resources.firelens_config import EXTERNAL, FLUENTBIT, FLUENTD, MAIN, BadOptions, Router, generate
from services.engine.resources.kind import Host, ResourceFailed
from services.engine.resources.secret_values import NotFetched, SecretValues, log_secrets, logs_by_firelens

if TYPE_CHECKING:
    from services.engine.docker.draft import Draft
    from services.engine.docker.settings import Settings

log = logging.getLogger(__name__)

KIND = NAME = "firelens"
METADATA, FILE_TYPE, FILE_VALUE = "enable-ecs-log-metadata", "config-file-type", "config-file-value"
BUFFER_LIMIT = "log-driver-buffer-limit"
TRUE = ("1", "t", "T", "TRUE", "true", "True")
FALSE = ("0", "f", "F", "FALSE", "false", "False")
PLACEHOLDER = {FLUENTD: "\"#{{ENV['{}']}}\"", FLUENTBIT: "${{{}}}"}
EXECUTION_ENV = ("AWS_EXECUTION_ENV", "AWS_ECS_EC2")
MIB = 1048576
DIRECTORY_MODE = 0o777  # as the umask leaves it


def in_container() -> bool:
    """Does this agent run in a container of its own?"""
    from services.engine.docker.facts import in_container

    return in_container()


def host_directory(task: Task, settings: Settings) -> str:
    """The task's directory as Docker sees it."""
    return f"{settings.host_data_dir}/data/firelens/{task.id}"


def router_of(task: Task) -> Container | None:
    """The first container with a FireLens configuration."""
    return next((c for c in task.containers if c.firelens is not None and not c.is_internal), None)


def check(router: Container) -> None:
    """Raises SetupError for a type or options that nobody could serve."""
    assert router.firelens is not None
    prefix, options = "unable to initialize firelens resource: ", router.firelens.options
    if router.firelens.type not in MAIN:
        raise SetupError(f"{prefix}unsupported firelens config type {router.firelens.type}")
    if FILE_TYPE not in options:
        return
    prefix += "error parsing firelens options: "
    if options[FILE_TYPE] not in ("s3", "file"):
        raise SetupError(f"{prefix}invalid value {options[FILE_TYPE]} is specified for option {FILE_TYPE}")
    if FILE_VALUE not in options:
        raise SetupError(f"{prefix}option {FILE_TYPE} is specified but {FILE_VALUE} is not specified")


def decoded_host_config(container: Container) -> dict[str, Any]:
    """The task definition's HostConfig, by Docker's names. Raises SetupError."""
    try:
        return overlay({}, container.docker_host_config, HOST_CONFIG, "HostConfig")
    except BadOverlay as error:
        what = f"unable to decode host config of container {container.name}: {error}"
        raise SetupError(f"unable to initialize firelens resource: {what}") from error


class Firelens:
    """The kind `firelens`."""

    name = KIND

    def __init__(self, values: SecretValues, in_container: Callable[[], bool] = in_container) -> None:
        self._values, self._in_container = values, in_container

    def prepare(self, task: Task, host: Host) -> list[Resource]:
        """One resource when the task has a router; its options are checked now."""
        router = router_of(task)
        if router is None:
            return []
        for container in task.containers:
            decoded_host_config(container)
        check(router)
        return [Resource(kind=KIND, name=NAME, needs_execution_credentials=_external_type(router) == "s3")]

    # -- create ------------------------------------------------------------------------------

    def create(self, task: Task, resource: Resource, host: Host) -> dict[str, Any]:
        """Directories, external configuration, configuration; each may be made again."""
        router = router_of(task)
        if router is None:
            raise ResourceFailed("unable to generate firelens config file: the task has no log router")
        directory = self._directory(task, host.settings)
        _make_directories(directory, router)
        if _external_type(router) == "s3":
            _download(task, router, directory, host)
        try:
            text = generate(describe(task, router, host))
            _write(directory, "fluent.conf", text.encode())
        except BadOptions as error:
            raise ResourceFailed(f"unable to generate firelens config file: {error}") from error
        except OSError as error:
            cause = files.said("write", os.path.join(directory, "config", "fluent.conf"), error)
            raise ResourceFailed(f"unable to generate firelens config file: {cause}") from error
        return {}

    def cleanup(self, task: Task, resource: Resource, host: Host) -> None:
        """Remove the task's directory."""
        directory = self._directory(task, host.settings)
        try:
            files.remove(directory)
        except OSError as error:
            raise ResourceFailed(files.said("remove", directory, error)) from error

    def _directory(self, task: Task, settings: Settings) -> str:
        root = settings.data_dir if self._in_container() else os.path.join(settings.host_data_dir, "data")
        try:
            return files.task_directory(os.path.join(root, "firelens"), task.id)
        except ValueError as error:
            raise ResourceFailed(f"unable to initialize resource directory: {error}") from error

    # -- the router's request ----------------------------------------------------------------

    def amend(self, draft: Draft, resource: Resource) -> None:
        """Binds and variables of the router. Raises Refused."""
        container, task = draft.container, draft.task
        if container.firelens is None or container.is_internal:
            return
        from services.engine.docker.draft import Refused

        kind, source = container.firelens.type, host_directory(task, draft.world.settings)
        if kind not in MAIN:
            raise Refused("HostConfigError", f"encounter invalid firelens configuration type {kind}")
        draft.bind(f"{source}/config/fluent.conf:{MAIN[kind]}", f"{source}/socket/:/var/run/")
        router = router_of(task)
        if router is not None and _external_type(router) == "s3":
            draft.bind(f"{source}/config/external.conf:{EXTERNAL[kind]}")
        try:
            draft.environment.update(self._secret_options(task))
        except NotFetched as error:
            prefix = "unable to generate config to create firelens container: "
            what = f"{prefix}missing secret value for secret {error.secret.name}"
            raise Refused("DockerClientConfigError", what) from error
        if kind == FLUENTD:
            draft.environment["FLUENT_UID"] = "0"  # the socket that Docker writes to belongs to root

    def _secret_options(self, task: Task) -> dict[str, str]:
        """The values behind the placeholders of the configuration. Raises NotFetched."""
        return {
            f"{secret.name}_{index}": self._values.of(task.arn, secret)
            for index, container in _numbered(task)
            if logs_by_firelens(container)
            for secret in log_secrets(container)
        }


# -- what the configuration is made of -------------------------------------------------------------


def describe(task: Task, router: Container, host: Host) -> Router:
    """What spec 05 §9.1 lists as inputs."""
    assert router.firelens is not None
    options = router.firelens.options
    external = {"s3": EXTERNAL[router.firelens.type], "file": options.get(FILE_VALUE, "")}
    host_config = decoded_host_config(router)
    reserved = int(host_config.get("MemoryReservation") or 0)
    mode = "awsvpc" if task.network_mode == "awsvpc" else str(host_config.get("NetworkMode") or "bridge")
    return Router(
        type=router.firelens.type,
        network_mode=mode,
        memory_mib=reserved // MIB if reserved > 0 else router.memory_mib,
        metadata=_metadata(task, router, host) if _wants_metadata(task, options.get(METADATA, "true")) else None,
        external=external.get(_external_type(router), ""),
        options=_log_options(task, router.firelens.type),
    )


def _wants_metadata(task: Task, word: str) -> bool:
    if word not in TRUE + FALSE:
        text = "task %s: the log router's option %s is %r, neither true nor false; records get no metadata of ECS"
        log.warning(text, task.id, METADATA, word)
    return word in TRUE


def _metadata(task: Task, router: Container, host: Host) -> dict[str, str]:
    found = {
        "ecs_cluster": host.cluster,
        "ecs_task_arn": task.arn,
        "ecs_task_definition": f"{task.family}:{task.version}",
    }
    name, on_ec2 = EXECUTION_ENV
    if router.environment.get(name) == on_ec2 and host.instance_id:
        found["ec2_instance_id"] = host.instance_id
    return found


def _log_options(task: Task, kind: str) -> dict[str, dict[str, str]]:
    """The options of each container that logs to the router; secret ones stand as placeholders."""
    found = {}
    for index, container in _numbered(task):
        if not logs_by_firelens(container):
            continue
        log_config = decoded_host_config(container).get("LogConfig") or {}
        given = {k: v for k, v in (log_config.get("Config") or {}).items() if k != BUFFER_LIMIT}
        secret = {s.name: PLACEHOLDER[kind].format(f"{s.name}_{index}") for s in log_secrets(container)}
        found[container.name] = given | secret
    return found


def _numbered(task: Task) -> enumerate[Container]:
    return enumerate(c for c in task.containers if not c.is_internal)


def _external_type(router: Container) -> str:
    return "" if router.firelens is None else router.firelens.options.get(FILE_TYPE, "")


# -- files -----------------------------------------------------------------------------------------


def _make_directories(directory: str, router: Container) -> None:
    failed = f"unable to initialize resource directory {directory}: "
    for name in ("config", "socket"):
        path = os.path.join(directory, name)
        try:
            os.makedirs(path, DIRECTORY_MODE, exist_ok=True)
        except OSError as error:
            cause = files.said("mkdir", path, error)
            raise ResourceFailed(f"{failed}unable to create {name} directory: {cause}") from error
    prefix = f"{failed}unable to set socket directory ownership: "
    try:
        owner = parse_user(_user(router))
    except ValueError as error:
        raise ResourceFailed(f"{prefix}{error}") from error
    if owner is None:
        return
    path = os.path.join(directory, "socket")
    try:
        os.chown(path, *owner)
    except (OSError, OverflowError) as error:
        cause = files.said("chown", path, error) if isinstance(error, OSError) else str(error)
        raise ResourceFailed(f"{prefix}unable to set directory ownership: {cause}") from error


def _user(router: Container) -> str:
    try:
        return str(overlay({}, router.docker_config, CONFIG, "Config").get("User") or "")
    except BadOverlay:
        return ""  # the create reports what is wrong with it


def parse_user(user: str) -> tuple[int, int] | None:
    """(uid, gid) of Docker's `User`; a group by name counts as the agent's. Raises ValueError."""
    if not user:
        return None
    name, *groups = user.split(":")
    if len(groups) > 1 or not name or groups == [""]:
        raise ValueError(f"unable to parse Firelens user: invalid format of user {user}")
    if not name.isascii() or not name.isdigit():
        raise ValueError(f"unable to determine the user ID: {name} is not a number")
    group = groups[0] if groups else ""
    return int(name), int(group) if group.isascii() and group.isdigit() else os.getgid()


def _download(task: Task, router: Container, directory: str, host: Host) -> None:
    """The external configuration. Raises ResourceFailed."""
    assert router.firelens is not None
    prefix = "unable to download firelens s3 config file: "
    role = aws.execution_role(task, host)
    if role is None:
        raise ResourceFailed(f"{prefix}unable to get execution role credentials")
    try:
        wanted = s3.parse_arn(router.firelens.options[FILE_VALUE])
    except ValueError as error:
        raise ResourceFailed(f"{prefix}unable to parse bucket and key from s3 arn: {error}") from error
    try:
        client = s3.client_for(wanted.bucket, role, host)
    except aws.AwsError as error:
        raise ResourceFailed(f"{prefix}unable to initialize s3 client for bucket {wanted.bucket}: {error}") from error
    try:
        with files.Writer(directory, "temp_config_file", 0o644) as writer:
            s3.download(client, wanted, writer)
            writer.finish(os.path.join(directory, "config", "external.conf"))
    except (aws.AwsError, OSError) as error:
        what = f"unable to download s3 config {wanted.key} from bucket {wanted.bucket}: {error}"
        raise ResourceFailed(f"{prefix}{what}") from error


def _write(directory: str, name: str, content: bytes) -> None:
    """A file of the router's configuration, readable for whichever user the router runs as. Raises OSError."""
    with files.Writer(directory, "temp_config_file", 0o644) as writer:
        writer.write(content)
        writer.finish(os.path.join(directory, "config", name))
