"""The attributes of a registration: one table, each row a capability and the condition under which it is offered.

Order and conditions are the reference's (ECS agent behaviour, spec 01 §6.4, §6.5): ECS places tasks by these names, so
an attribute too many gets tasks that cannot run here, and one too few keeps tasks away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.docker import KNOWN_API_VERSIONS
from common.model.agent import DockerFacts
from common.wire.ecs import attribute
from services.acs.host import HostFacts
from services.acs.settings import Settings

COM = "com.amazonaws.ecs.capability."
ECS = "ecs.capability."

LOGGING_API = {
    "json-file": "1.18",
    "syslog": "1.18",
    "journald": "1.19",
    "none": "1.19",
    "gelf": "1.20",
    "fluentd": "1.20",
    "awslogs": "1.21",
    "splunk": "1.22",
    "logentries": "1.25",
    "sumologic": "1.29",
}
UNNAMED_API = ("1.26", "1.27", "1.31")  # versions that have no attribute
LAST_NAMED_MINOR = 32
PREFIX_FROM_MINOR = 24  # a daemon whose lowest version is this or higher counts as speaking all older ones
NOT_EXTERNAL = frozenset(
    ECS + name
    for name in (
        "aws-appmesh",
        "task-eia",
        "task-eia.optimized-cpu",
        "storage.ebsta-non-root-user",
        "fault-injection",
    )
)

# What the engine refuses to run is not offered, whatever the configuration says: ECS would place such tasks here.
# Capabilities -> (condition under which the reference offers them, the sentence for whoever asked for them).
NOT_SERVED: tuple[tuple[str, Callable[[Mapping[str, Any], HostFacts], bool], str], ...] = (
    (
        "task-eni*",
        lambda config, host: bool(config["ECS_ENABLE_TASK_ENI"] and not config["ECS_EXTERNAL"]),
        "ECS_ENABLE_TASK_ENI is on, but this agent does not run tasks in network mode awsvpc; they are not offered",
    ),
    (
        "storage.ebs-task-volume-attach",
        # On by default: only where the driver is installed does anybody expect such tasks.
        lambda config, host: bool(config["ECS_EBSTA_SUPPORTED"] and not config["ECS_EXTERNAL"] and host.ebs_driver),
        "ECS_EBSTA_SUPPORTED is on, but this agent does not attach EBS volumes to tasks; they are not offered",
    ),
    (
        "gmsa*",
        lambda config, host: bool(config["GMSACapable"] or config["GMSADomainlessCapable"]),
        "ECS_GMSA_SUPPORTED is on, but this agent does not run tasks with credential specs; they are not offered",
    ),
)


def not_offered(config: Mapping[str, Any], host: HostFacts) -> list[str]:
    """What the configuration switches on in vain, a sentence each."""
    return [sentence for _, asked_for, sentence in NOT_SERVED if asked_for(config, host)]


@dataclass(frozen=True)
class Situation:
    """Everything the conditions look at."""

    config: Mapping[str, Any]
    settings: Settings
    docker: DockerFacts
    host: HostFacts
    outpost_arn: str = ""
    versions: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "versions", extended_versions(self.docker.usable_api_versions))

    def speaks(self, version: str) -> bool:
        """Docker can be asked for this API version."""
        return version in self.versions

    def on(self, option: str) -> bool:
        """A boolean option is set to true."""
        return bool(self.config[option])


def _minor(version: str) -> int:
    return int(version.partition(".")[2])


def extended_versions(usable: tuple[str, ...]) -> tuple[str, ...]:
    """The API versions that count as supported, lowest first (spec 01 §5.3)."""
    if not usable:
        return ()
    lowest = max(_minor(usable[0]), 21)
    older = [v for v in KNOWN_API_VERSIONS if _minor(v) < lowest] if lowest >= PREFIX_FROM_MINOR else []
    return tuple(dict.fromkeys([*older, *usable]))


Condition = Callable[[Situation], bool]
Row = tuple[str, Condition]


def always(_: Situation) -> bool:
    """No condition."""
    return True


def _option(name: str) -> Condition:
    return lambda s: s.on(name)


def _api(version: str, *options: str) -> Condition:
    return lambda s: s.speaks(version) and all(s.on(option) for option in options)


def _limits(s: Situation) -> bool:
    return s.docker.task_limits_enabled and s.speaks("1.22")


FIRST: tuple[Row, ...] = (
    (ECS + "private-registry-authentication.secretsmanager", always),
    (ECS + "secrets.ssm.environment-variables", always),
    (ECS + "secrets.ssm.bootstrap.log-driver", always),
    (ECS + "ecr-endpoint", always),
    (ECS + "secrets.asm.environment-variables", always),
    (ECS + "secrets.asm.bootstrap.log-driver", always),
    (ECS + "container-ordering", always),
    (ECS + "full-sync", always),
    (ECS + "env-files.s3", always),
    (ECS + "network.container-port-range", always),
    (ECS + "container-restart-policy", always),
    (COM + "privileged-container", lambda s: not s.on("ECS_DISABLE_PRIVILEGED")),
)
SECURITY: tuple[Row, ...] = (
    (COM + "selinux", _option("ECS_SELINUX_CAPABLE")),
    (COM + "apparmor", _option("ECS_APPARMOR_CAPABLE")),
    (COM + "task-iam-role", _api("1.19", "ECS_ENABLE_TASK_IAM_ROLE")),
    (COM + "task-iam-role-network-host", _api("1.19", "ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST")),
    (ECS + "task-cpu-mem-limit", _limits),
    (ECS + "increased-task-cpu-limit", _limits),
)
IMAGES: tuple[Row, ...] = (
    (COM + "ecr-auth", _api("1.19")),
    (ECS + "execution-role-ecr-pull", _api("1.19")),
    (
        ECS + "container-health-check",
        lambda s: s.speaks("1.24") and not s.on("ECS_DISABLE_DOCKER_HEALTH_CHECK"),
    ),
    (ECS + "execution-role-awslogs", _option("ECS_ENABLE_AWSLOGS_EXECUTIONROLE_OVERRIDE")),
    (ECS + "docker-plugin.local", always),
)
LAST: tuple[Row, ...] = (
    (ECS + "pid-ipc-namespace-sharing", lambda s: s.docker.pause_image_loaded),
    (ECS + "aws-appmesh", always),
    (ECS + "task-eia", always),
    (ECS + "task-eia.optimized-cpu", lambda s: s.host.optimized_for_inference),
    (ECS + "firelens.fluentd", always),
    (ECS + "firelens.fluentbit", always),
    (COM + "logging-driver.awsfirelens", always),
    (ECS + "logging-driver.awsfirelens.log-driver-buffer-limit", always),
    (ECS + "firelens.non-root-user", always),
    (ECS + "efs", always),
    (ECS + "storage.s3-files", always),
    (ECS + "firelens.options.config.file", always),
    (ECS + "firelens.options.config.s3", always),
)
AFTER_PLUGINS: tuple[Row, ...] = (
    (ECS + "execute-command", lambda s: s.host.exec_agent),
    (ECS + "storage.ebsta-non-root-user", _option("ECS_EBSTA_SUPPORTED")),
    (ECS + "external", lambda s: s.settings.external),
    (ECS + "fault-injection", lambda s: s.host.fault_injection),
    (ECS + "ipv6-only", always),
    (ECS + "imds-iam-roles", _option("IMDSIAMRolesEnabled")),
)


def attributes(s: Situation, new_instance: bool) -> list[dict[str, str]]:
    """All attributes of a registration, in order. Custom ones go with a new instance only."""
    custom = [attribute(name, value) for name, value in s.settings.attributes.items()] if new_instance else []
    return [*custom, *capabilities(s), *_about_the_instance(s)]


def capabilities(s: Situation) -> list[dict[str, str]]:
    """What this agent can do here (spec 01 §6.5)."""
    found = list(_capabilities(s))
    return [c for c in found if c["name"] not in NOT_EXTERNAL] if s.settings.external else found


def _capabilities(s: Situation) -> Iterator[dict[str, str]]:
    yield from _rows(FIRST, s)
    yield from _docker_versions(s)
    yield from _logging_drivers(s)
    yield from _rows(SECURITY, s)
    yield from _rows(IMAGES, s)
    yield from _plugins(s)
    if s.host.gpus and s.host.gpus.driver_version:
        yield attribute(f"{ECS}nvidia-driver-version.{s.host.gpus.driver_version}")
        yield attribute(ECS + "gpu-driver-version", s.host.gpus.driver_version)
    yield from _rows(LAST, s)
    for name in s.config["ECS_VOLUME_PLUGIN_CAPABILITIES"]:
        yield attribute(ECS + name)
    yield from _rows(AFTER_PLUGINS, s)


def _rows(rows: tuple[Row, ...], s: Situation) -> Iterator[dict[str, str]]:
    for name, condition in rows:
        if condition(s):
            yield attribute(name)


def _docker_versions(s: Situation) -> Iterator[dict[str, str]]:
    for version in s.versions:
        if _minor(version) <= LAST_NAMED_MINOR and version not in UNNAMED_API:
            yield attribute(f"{COM}docker-remote-api.{version}")


def _logging_drivers(s: Situation) -> Iterator[dict[str, str]]:
    for driver in s.config["ECS_AVAILABLE_LOGGING_DRIVERS"]:
        if driver in LOGGING_API and s.speaks(LOGGING_API[driver]):
            yield attribute(f"{COM}logging-driver.{driver}")


def _plugins(s: Situation) -> Iterator[dict[str, str]]:
    names: list[str] = []
    for plugin in s.docker.volume_plugins:
        name, _, tag = plugin.partition(":")
        names += [name] if tag == "latest" else []
        names.append(plugin.replace(":", "."))
    for name in dict.fromkeys(names):
        if name != "local":  # built in; already a row of its own
            yield attribute(f"{ECS}docker-plugin.{name}")


def _about_the_instance(s: Situation) -> Iterator[dict[str, str]]:
    yield attribute("ecs.os-type", "linux")
    yield attribute("ecs.os-family", "LINUX")
    if s.settings.os_family:
        yield attribute("ecs.os-type-detailed", s.settings.os_family)
    if s.settings.external:
        # Go's names for the rest of the architectures are its own.
        yield attribute("ecs.cpu-architecture", {"aarch64": "arm64", "i686": "i386"}.get(
            s.host.architecture, s.host.architecture))  # fmt: skip
    if s.outpost_arn:
        yield attribute("ecs.outpost-arn", s.outpost_arn)
