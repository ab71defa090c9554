"""What kind of Docker this is: versions, host, drivers, plugins (ECS agent behaviour, spec 03 §6.1, spec 01 §6.5).

The reference probes 28 API versions one by one; the daemon's own /version answer names the lowest and the highest that
it speaks, which says the same in one call.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from common.docker import KNOWN_API_VERSIONS, REFERENCE_API_VERSION
from common.errors import AgentError, Temporary, Terminal
from common.model.agent import DockerFacts
from services.engine.docker import pause_image
from services.engine.docker.agent_images import EBS_DRIVER, SERVICE_CONNECT
from services.engine.docker.api import Api, DockerCallError
from services.engine.docker.draft import at_least
from services.engine.docker.settings import Settings
from services.engine.resources import cgroup

log = logging.getLogger(__name__)

VERSION_SECONDS = INFO_SECONDS = 10.0
PLUGIN_SECONDS = 60.0
OLDEST_LIMITS_VERSION = "1.22"
PLUGINS_SINCE = "1.25"
UNVERSIONED = "none"  # Api: a path without a version
SOCKETS = "/run/docker/plugins"
SPECS = ("/etc/docker/plugins", "/usr/lib/docker/plugins")


def in_container() -> bool:
    """Does this agent run in a Docker container of its own? Then Docker sees its data directory elsewhere."""
    return os.path.exists("/.dockerenv")


def usable_versions(lowest: str, highest: str) -> tuple[str, ...]:
    """The reference's versions that the daemon speaks, lowest first; a newer daemon's own lowest if there is none."""
    usable = tuple(v for v in KNOWN_API_VERSIONS if at_least(v, lowest) and at_least(highest, v))
    return usable or (lowest,)


def default_version(usable: tuple[str, ...]) -> str:
    """1.21, or the lowest usable one when that is higher."""
    return REFERENCE_API_VERSION if REFERENCE_API_VERSION in usable else usable[0]


def read(api: Api, settings: Settings, plugin_dirs: tuple[str, ...] = (SOCKETS, *SPECS)) -> DockerFacts:
    """The facts. Raises DockerCallError; Terminal, or Temporary for an old Docker, when task limits were demanded."""
    version = api.call("GET", "/version", VERSION_SECONDS, version=UNVERSIONED).json()
    usable = usable_versions(version.get("MinAPIVersion") or "1.17", version.get("ApiVersion") or "1.17")
    default = default_version(usable)
    api.version = default
    info = api.call("GET", "/info", INFO_SECONDS).json()
    service_connect = SERVICE_CONNECT.is_here(api, settings)
    plugins, plugin_error = _volume_plugins(api, usable, plugin_dirs)
    return DockerFacts(
        server_version=version.get("Version") or info.get("ServerVersion") or "",
        api_version=version.get("ApiVersion") or "",
        usable_api_versions=usable,
        default_api_version=default,
        cpu_count=int(info.get("NCPU") or 0),
        memory_bytes=int(info.get("MemTotal") or 0),
        architecture=info.get("Architecture") or "",
        os_type=info.get("OSType") or version.get("Os") or "",
        root_dir=info.get("DockerRootDir") or "",
        security_options=tuple(info.get("SecurityOptions") or ()),
        cgroup_version="2" if cgroup.is_unified(settings.cgroup_path) else "1",
        cgroup_driver=info.get("CgroupDriver") or "",
        log_drivers=tuple((info.get("Plugins") or {}).get("Log") or ()),
        volume_plugins=plugins,
        volume_plugins_error=plugin_error,
        runtimes=tuple(sorted(info.get("Runtimes") or {})),
        task_limits_enabled=_limits(settings, usable),
        reserved_memory_mib=settings.reserved_memory_mib,
        pause_image_loaded=pause_image.is_here(api),
        volume_driver_loaded=EBS_DRIVER.is_here(api, settings),
        service_connect_loaded=service_connect,
        service_connect_digest=SERVICE_CONNECT.digest() if service_connect else "",
    )


def _limits(settings: Settings, usable: tuple[str, ...]) -> bool:
    """Are task limits on? Unset means on, unless this host cannot; then a warning says why (spec 03 §9)."""
    if settings.limits is False:
        return False
    if not at_least(usable[-1], OLDEST_LIMITS_VERSION):
        # Another Docker may answer next time (spec 01: exit status 1); the root cgroup will not come by itself (5).
        return _no_limits(settings, f"Docker lacks API {OLDEST_LIMITS_VERSION}", Temporary)
    try:
        cgroup.initialise_root(settings.cgroup_path)
    except OSError as error:
        return _no_limits(settings, f"the root cgroup of ECS cannot be made: {error}", Terminal)
    return True


def _no_limits(settings: Settings, problem: str, failure: type[AgentError]) -> bool:
    if settings.limits:
        raise failure(f"ECS_ENABLE_TASK_CPU_MEM_LIMIT is true, but {problem}; unset it or mend the host")
    log.warning("task CPU and memory limits are off: %s", problem)
    return False


# -- plugins ---------------------------------------------------------------------------------


def _volume_plugins(api: Api, usable: tuple[str, ...], directories: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Names of installed volume plugins beside `local`: legacy ones, then enabled managed ones as `name:tag`."""
    found, problems = [], []
    try:
        found += _legacy_plugins(directories)
    except OSError as error:
        problems.append(f"the directories of legacy Docker plugins cannot be read: {error}")
    newest = usable[-1]
    if at_least(newest, PLUGINS_SINCE):
        try:
            found += _managed_plugins(api, newest)
        except DockerCallError as error:
            problems.append(f"Docker's plugins cannot be listed: {error}")
    for problem in problems:
        log.warning("%s", problem)
    return tuple(dict.fromkeys(found)), "; ".join(problems)


def _managed_plugins(api: Api, version: str) -> list[str]:
    query = {"filters": '{"capability":["volumedriver"],"enabled":["true"]}'}
    answer: Any = api.call("GET", "/plugins", PLUGIN_SECONDS, query=query, version=version).json()
    return [str(plugin.get("Name") or "") for plugin in answer or () if plugin.get("Name")]


def _legacy_plugins(directories: tuple[str, ...]) -> list[str]:
    """Plugins of Docker's first kind: sockets, .spec and .json files, also in a directory of the same name."""
    found = []
    for directory in directories:
        if not os.path.isdir(directory):
            continue
        suffixes = (".sock",) if directory == directories[0] else (".spec", ".json")
        for entry in sorted(os.scandir(directory), key=lambda e: e.name):
            if entry.is_dir():
                inner = (os.path.join(entry.path, entry.name + suffix) for suffix in suffixes)
                found += [entry.name] if any(map(os.path.exists, inner)) else []
            else:
                name, suffix = os.path.splitext(entry.name)
                found += [name] if suffix in suffixes else []
    return found
