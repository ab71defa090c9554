"""The environment that the service's processes get: one reading of the configuration files, one list of defaults.

Pure; `ecs-init` starts the service with it, and `ecs-agent config` shows it. The files are read literally, as the
reference's init does for its agent (no quotes, no comments, no expansion); a reading by dotenv or the shell would
change values (spec 09 §4.2, §18 trap 1). Order, later wins: the defaults, the environment of the launcher, the instance
file, the user file, and what is forced.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from common.config.declarations import installed_defaults
from common.config.grammar import trim
from common.host_paths import host_path

INSTANCE_FILE = "/var/lib/ecs/ecs.config"
USER_FILE = "/etc/ecs/ecs.config"
PACKAGE_DIRECTORY = Path("/usr/lib/ecs-init")
GPU = "ECS_ENABLE_GPU_SUPPORT"

DEFAULTS: dict[str, str] = installed_defaults()  # spec 09 §8.3, column "for host processes"
SWITCHES = (  # what only ecs-init reads: as systemd reads the files, not literally (spec 09 §4.1)
    "ECS_SKIP_LOCALHOST_TRAFFIC_FILTER", "ECS_ALLOW_OFFHOST_INTROSPECTION_ACCESS",
)  # fmt: skip
WITHOUT_EFFECT = (  # settings of the agent container, which this edition does not have (spec 09 §16.4)
    "ECS_AGENT_LABELS", "ECS_AGENT_RUN_PRIVILEGED", "ECS_AGENT_PID_NAMESPACE_HOST", "ECS_LOG_OPTS",
    "ECS_INIT_DOCKER_LOG_FILE_SIZE", "ECS_INIT_DOCKER_LOG_FILE_NUM",
)  # fmt: skip
_PATH_OPTIONS = (
    "ECS_LOGFILE", "ECS_AUDIT_LOGFILE", "ECS_DATADIR", "ECS_AGENT_CONFIG_FILE_PATH", "AWS_SHARED_CREDENTIALS_FILE",
)  # fmt: skip
_FETCHER_SOCKET = "/var/credentials-fetcher/socket/credentials_fetcher.sock"


class Host(Struct, frozen=True):
    """What the environment depends on outside the files."""

    os_release: str = ""
    ebs_directory: bool = False
    gpu_devices: bool = False
    domain_joined: bool = False


def parse(text: str) -> tuple[dict[str, str], list[int]]:
    """Literal `NAME=value` lines: each trimmed, split at the first "=", the last one wins.

    Also the numbers of lines that are neither an assignment, nor a comment, nor empty.
    """
    values: dict[str, str] = {}
    skipped: list[int] = []
    for number, line in enumerate(text.split("\n"), 1):
        name, equals, value = trim(line).partition("=")
        if name.startswith(("#", ";")):
            continue
        if equals:
            values[name] = value
        elif name:
            skipped.append(number)
    return values, skipped


def os_family(os_release: str) -> str:
    """`<ID>_<VERSION_ID>` of /etc/os-release, or "linux" (spec 09 §12.3)."""
    found: dict[str, str] = {}
    for line in os_release.split("\n"):
        for key in ("ID=", "VERSION_ID="):
            if line.startswith(key):
                found[key] = line.removeprefix(key).strip().strip("\"'")
    name, version = found.get("ID=", ""), found.get("VERSION_ID=", "")
    return f"{name}_{version}" if name and version else "linux"


def merge(instance: str, user: str, gpu_devices: bool) -> dict[str, str]:
    """Both files, the user's last."""
    return {**of_instance(parse(instance)[0], gpu_devices), **parse(user)[0]}


def of_instance(values: Mapping[str, str], gpu_devices: bool) -> dict[str, str]:
    """What counts of the instance file: its GPU line does on a host with GPUs only (spec 09 §4.2)."""
    absent = values.get(GPU) == "true" and not gpu_devices
    return {name: value for name, value in values.items() if not (absent and name == GPU)}


def unquoted(value: str) -> str:
    """The value less one pair of surrounding quotes, which systemd would have taken off."""
    return value[1:-1] if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'" else value


def as_systemd(name: str, environ: Mapping[str, str], files: Mapping[str, str]) -> str:
    """A setting that only ecs-init reads: the environment's, or where that lacks it the files', less the quotes."""
    return environ[name] if name in environ else unquoted(files.get(name, ""))


def build(environ: Mapping[str, str], instance: str, user: str, host: Host) -> tuple[dict[str, str], list[str]]:
    """The environment of the service, and what the operator should be told about the settings."""
    return settle(environ, merge(instance, user, host.gpu_devices), host)


def settle(environ: Mapping[str, str], files: Mapping[str, str], host: Host) -> tuple[dict[str, str], list[str]]:
    """The same for files that were merged already. Names that are no variables are left out."""
    files = {name: value for name, value in files.items() if name.isidentifier()}
    fetcher = as_systemd("CREDENTIALS_FETCHER_HOST", environ, files)
    result = {
        **DEFAULTS,
        "ECS_DETAILED_OS_FAMILY": os_family(host.os_release),
        **({"ECS_DOMAIN_JOINED_LINUX_INSTANCE": "true"} if host.domain_joined else {}),
        **environ,
        "CREDENTIALS_FETCHER_HOST_DIR": (
            fetcher.removeprefix("unix://") if fetcher.startswith("unix://") else _FETCHER_SOCKET
        ),
        **files,
    }
    result |= {name: as_systemd(name, environ, files) for name in SWITCHES if name in environ or name in files}
    notes = _forced(result, environ, files, host)
    for name in _PATH_OPTIONS:
        if name in result:
            result[name] = host_path(result[name])
    return result, notes


def _forced(result: dict[str, str], environ: Mapping[str, str], files: Mapping[str, str], host: Host) -> list[str]:
    """Settings that no file can change here (layer 6 of spec 09 §8.3); returns what to tell the operator."""
    notes: list[str] = []
    if result.get("ECS_UPDATES_ENABLED", "false").lower() not in ("false", ""):
        notes.append("ECS_UPDATES_ENABLED has no effect: this agent is upgraded through the package manager")
    result["ECS_UPDATES_ENABLED"] = "false"
    if as_systemd("ECS_EXTERNAL", environ, files) == "true":
        result["ECS_ENABLE_TASK_ENI"] = "false"
        if not result.get("AWS_DEFAULT_REGION"):
            notes.append("ECS_EXTERNAL is true and AWS_DEFAULT_REGION is empty: set it to the region of the cluster")
    if not host.ebs_directory:
        result["ECS_EBSTA_SUPPORTED"] = "false"
    without = [name for name in WITHOUT_EFFECT if result.get(name)]
    if without:
        notes.append(f"without effect, since there is no agent container: {', '.join(without)}")
    return notes
