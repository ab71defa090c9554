"""The attributes of a registration: one table, each row a capability and the condition under which it is offered.

Order and conditions are the reference's (ECS agent behaviour, spec 01 §6.4, §6.5): ECS places tasks by these names, so
an attribute too many gets tasks that cannot run here, and one too few keeps tasks away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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
        "storage.ebs-task-volume-attach",
        "storage.ebsta-non-root-user",
        "fault-injection",
        "service-connect-v1",
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


Attribute = dict[str, str]


@dataclass(frozen=True)
class Row:
    """A capability, when it is offered in words (`ecs-agent -ecs-attributes` prints them), and what is registered then.

    A name with <...> stands for as many as the machine has.
    """

    name: str
    when: str
    emit: Callable[[Situation], Iterable[Attribute]]


def _row(name: str, when: str, holds: Callable[[Situation], bool]) -> Row:
    return Row(name, when, lambda s: [attribute(name)] if holds(s) else [])


def _always(name: str) -> Row:
    return _row(name, "always", lambda s: True)


def _option(name: str, option: str) -> Row:
    return _row(name, f"{option} is true", lambda s: s.on(option))


def _api(name: str, version: str, option: str = "") -> Row:
    when = f"Docker speaks API {version}" + (f", and {option} is true" if option else "")
    return _row(name, when, lambda s: s.speaks(version) and (not option or s.on(option)))


def _limits(s: Situation) -> bool:
    return s.docker.task_limits_enabled and s.speaks("1.22")


def _docker_versions(s: Situation) -> Iterator[Attribute]:
    for version in s.versions:
        if _minor(version) <= LAST_NAMED_MINOR and version not in UNNAMED_API:
            yield attribute(f"{COM}docker-remote-api.{version}")


def _logging_drivers(s: Situation) -> Iterator[Attribute]:
    for driver in s.config["ECS_AVAILABLE_LOGGING_DRIVERS"]:
        if driver in LOGGING_API and s.speaks(LOGGING_API[driver]):
            yield attribute(f"{COM}logging-driver.{driver}")


def _plugins(s: Situation) -> Iterator[Attribute]:
    names: list[str] = []
    for plugin in s.docker.volume_plugins:
        name, _, tag = plugin.partition(":")
        names += [name] if tag == "latest" else []
        names.append(plugin.replace(":", "."))
    for name in dict.fromkeys(names):
        if name != "local":  # built in; already a row of its own
            yield attribute(f"{ECS}docker-plugin.{name}")


def _nvidia(s: Situation) -> Iterator[Attribute]:
    if s.host.gpus and s.host.gpus.driver_version:
        yield attribute(f"{ECS}nvidia-driver-version.{s.host.gpus.driver_version}")


def _gpu_driver(s: Situation) -> Iterator[Attribute]:
    if s.host.gpus and s.host.gpus.driver_version:
        yield attribute(ECS + "gpu-driver-version", s.host.gpus.driver_version)


WITH_GPU = "ECS_ENABLE_GPU_SUPPORT is true, and the driver's version is known"
WITH_LIMITS = "ECS_ENABLE_TASK_CPU_MEM_LIMIT is true, or unset and this host can have task limits"

TABLE: tuple[Row, ...] = (
    _always(ECS + "private-registry-authentication.secretsmanager"),
    _always(ECS + "secrets.ssm.environment-variables"),
    _always(ECS + "secrets.ssm.bootstrap.log-driver"),
    _always(ECS + "ecr-endpoint"),
    _always(ECS + "secrets.asm.environment-variables"),
    _always(ECS + "secrets.asm.bootstrap.log-driver"),
    _always(ECS + "container-ordering"),
    _always(ECS + "full-sync"),
    _always(ECS + "env-files.s3"),
    _always(ECS + "network.container-port-range"),
    _always(ECS + "container-restart-policy"),
    _row(
        COM + "privileged-container", "ECS_DISABLE_PRIVILEGED is not true", lambda s: not s.on("ECS_DISABLE_PRIVILEGED")
    ),
    Row(
        COM + "docker-remote-api.<version>",
        "each API version up to 1.32 that Docker speaks (a lowest of 1.24 or more stands for all before it)",
        _docker_versions,
    ),
    Row(
        COM + "logging-driver.<driver>",
        "each driver in ECS_AVAILABLE_LOGGING_DRIVERS that the API of this Docker has",
        _logging_drivers,
    ),
    _option(COM + "selinux", "ECS_SELINUX_CAPABLE"),
    _option(COM + "apparmor", "ECS_APPARMOR_CAPABLE"),
    _api(COM + "task-iam-role", "1.19", "ECS_ENABLE_TASK_IAM_ROLE"),
    _api(COM + "task-iam-role-network-host", "1.19", "ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST"),
    _row(ECS + "task-cpu-mem-limit", WITH_LIMITS, _limits),
    _row(ECS + "increased-task-cpu-limit", WITH_LIMITS, _limits),
    _api(COM + "ecr-auth", "1.19"),
    _api(ECS + "execution-role-ecr-pull", "1.19"),
    _row(
        ECS + "container-health-check",
        "Docker speaks API 1.24, and ECS_DISABLE_DOCKER_HEALTH_CHECK is not true",
        lambda s: s.speaks("1.24") and not s.on("ECS_DISABLE_DOCKER_HEALTH_CHECK"),
    ),
    _option(ECS + "execution-role-awslogs", "ECS_ENABLE_AWSLOGS_EXECUTIONROLE_OVERRIDE"),
    _always(ECS + "docker-plugin.local"),
    Row(ECS + "docker-plugin.<name>", "each volume plugin of Docker that is on", _plugins),
    Row(ECS + "nvidia-driver-version.<version>", WITH_GPU, _nvidia),
    Row(ECS + "gpu-driver-version", WITH_GPU, _gpu_driver),
    _row(
        ECS + "pid-ipc-namespace-sharing", "Docker has the image amazon/amazon-ecs-pause:0.1.0",
        lambda s: s.docker.pause_image_loaded,
    ),
    _always(ECS + "aws-appmesh"),
    _always(ECS + "task-eia"),
    _row(
        ECS + "task-eia.optimized-cpu", "the CPU has avx, avx2, sse4_1 and sse4_2",
        lambda s: s.host.optimized_for_inference,
    ),
    _always(ECS + "firelens.fluentd"),
    _always(ECS + "firelens.fluentbit"),
    _always(COM + "logging-driver.awsfirelens"),
    _always(ECS + "logging-driver.awsfirelens.log-driver-buffer-limit"),
    _always(ECS + "firelens.non-root-user"),
    _always(ECS + "efs"),
    _always(ECS + "storage.s3-files"),
    _always(ECS + "firelens.options.config.file"),
    _always(ECS + "firelens.options.config.s3"),
    _row(
        ECS + "gmsa",
        "ECS_GMSA_SUPPORTED is true, the credentials fetcher's socket is there, and the instance has joined a domain "
        "or a secret for domainless use is named",
        lambda s: s.on("GMSACapable"),
    ),
    _row(
        ECS + "gmsa-domainless", "ECS_GMSA_SUPPORTED is true, and the credentials fetcher's socket is there",
        lambda s: s.on("GMSADomainlessCapable"),
    ),
    Row(
        ECS + "<name>", "each name in ECS_VOLUME_PLUGIN_CAPABILITIES",
        lambda s: [attribute(ECS + name) for name in s.config["ECS_VOLUME_PLUGIN_CAPABILITIES"]],
    ),
    _row(
        ECS + "execute-command", "the parts of ECS Exec are installed, with one complete version",
        lambda s: s.host.exec_agent,
    ),
    _row(
        ECS + "service-connect-v1", "Docker has loaded the Service Connect agent's image from its archive",
        lambda s: s.docker.service_connect_loaded,
    ),
    _row(
        ECS + "storage.ebs-task-volume-attach", "ECS_EBSTA_SUPPORTED is true, and the EBS driver is installed",
        lambda s: s.on("ECS_EBSTA_SUPPORTED") and s.host.ebs_driver,
    ),
    _option(ECS + "storage.ebsta-non-root-user", "ECS_EBSTA_SUPPORTED"),
    _row(ECS + "external", "ECS_EXTERNAL is true", lambda s: s.settings.external),
    _row(
        ECS + "fault-injection", "iptables, tc, nsenter and the kernel's netem are there",
        lambda s: s.host.fault_injection,
    ),
    _always(ECS + "ipv6-only"),
    _row(
        ECS + "imds-iam-roles", "IMDSIAMRolesEnabled is true in the configuration file",
        lambda s: s.on("IMDSIAMRolesEnabled"),
    ),
)  # fmt: skip


def attributes(s: Situation, new_instance: bool) -> list[Attribute]:
    """All attributes of a registration, in order. Custom ones go with a new instance only."""
    custom = [attribute(name, value) for name, value in s.settings.attributes.items()] if new_instance else []
    return [*custom, *capabilities(s), *_about_the_instance(s)]


def capabilities(s: Situation) -> list[Attribute]:
    """What this agent can do here (spec 01 §6.5)."""
    return [entry for row in TABLE for entry in offered(row, s)]


def offered(row: Row, s: Situation) -> list[Attribute]:
    """What of this row is registered here; instances outside of EC2 do without what needs it."""
    return [] if s.settings.external and row.name in NOT_EXTERNAL else list(row.emit(s))


def conditions(s: Situation) -> Iterator[tuple[str, str, str]]:
    """For people: each capability, "yes" or "no", and the condition."""
    for row in TABLE:
        when = f"{row.when}; not outside of EC2" if row.name in NOT_EXTERNAL else row.when
        yield row.name, "yes" if offered(row, s) else "no", when


def _about_the_instance(s: Situation) -> Iterator[Attribute]:
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
