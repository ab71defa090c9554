"""Why the service would refuse a task definition.

Called by RegisterTaskDefinition after the shapes were checked, never elsewhere. Each check looks at one thing and
raises ClientException with a sentence; where the service's own sentence is publicly known it is used word for word,
since people search for it. The order is: the task, each container alone, then what containers say about each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from services.local.core.errors import client
from services.local.core.names import check_name

Json = dict[str, Any]
MAX_CONTAINERS = 10  # ECS service quotas: containers per task definition
MIN_MEMORY_MIB = 6  # API reference, ContainerDefinition.memory: 6 MiB is the least Docker takes
# API reference, HealthCheck: (member, least, most), seconds except retries
HEALTH_BOUNDS = (("interval", 5, 300), ("timeout", 2, 60), ("retries", 1, 10), ("startPeriod", 0, 300))
LOG_OPTIONS_REQUIRED = {"awslogs": ("awslogs-region", "awslogs-group"), "splunk": ("splunk-token", "splunk-url")}


def check(definition: Json) -> None:
    """Raise ClientException for the first fault found in a RegisterTaskDefinition request."""
    family = definition.get("family") or ""
    if not family:
        raise client("Family should not be null or empty.")
    check_name(family, "Family")
    containers = definition.get("containerDefinitions") or []
    if not containers:
        raise client("Container definitions should not be null or empty.")
    if len(containers) > MAX_CONTAINERS:
        raise client("Too many containers.")
    volumes = _volumes(definition)
    for container in containers:
        _container(container, definition, volumes)
    names = [c["name"] for c in containers]
    if len(set(names)) != len(names):
        raise client("Container names must be unique within a Task Definition.")
    if not any(c.get("essential", True) for c in containers):
        raise client("At least one container in a task definition must be essential.")
    _sizes(definition, containers)
    _host_ports(containers)
    _links(containers, definition)
    _volumes_from(containers)
    _depends_on(containers)
    _proxy(definition, names)


def _volumes(definition: Json) -> set[str]:
    names: set[str] = set()
    kinds = ("dockerVolumeConfiguration", "efsVolumeConfiguration", "fsxWindowsFileServerVolumeConfiguration", "host")
    for volume in definition.get("volumes") or []:
        name = check_name(volume.get("name") or "", "Volume name") if volume.get("name") else ""
        if not name:
            raise client("Volume.name should not be null or empty.")
        if name in names:
            raise client(f"Duplicate volume name '{name}'.")
        names.add(name)
        given = [kind for kind in kinds if volume.get(kind)]
        if len(given) > 1:
            raise client(f"Volume '{name}' has more than one configuration: {', '.join(given)}. Give one.")
        if volume.get("configuredAtLaunch") or volume.get("s3filesVolumeConfiguration"):
            raise client(
                f"Volume '{name}' is of a kind that the local control plane cannot provide; "
                "use host, dockerVolumeConfiguration or efsVolumeConfiguration."
            )
        docker = volume.get("dockerVolumeConfiguration") or {}
        if docker.get("autoprovision") and docker.get("scope") != "shared":
            raise client(f"Volume '{name}': autoprovision can only be used when scope is 'shared'.")
        if volume.get("efsVolumeConfiguration") and not volume["efsVolumeConfiguration"].get("fileSystemId"):
            raise client(f"Volume '{name}': efsVolumeConfiguration.fileSystemId should not be null or empty.")
    return names


def _container(container: Json, definition: Json, volumes: set[str]) -> None:
    if not container.get("name"):
        raise client("Container.name should not be null or empty.")
    name = check_name(container["name"], "Container.name")
    if not container.get("image"):
        raise client("Container.image should not be null or empty.")
    _memory(container, definition)
    if container.get("cpu", 0) < 0:
        raise client(f"Invalid 'cpu' setting for container '{name}'.")
    for mount in container.get("mountPoints") or []:
        if (mount.get("sourceVolume") or "") not in volumes:
            raise client(f"Unknown volume '{mount.get('sourceVolume') or ''}'.")
        if not mount.get("containerPath"):
            raise client(f"Invalid 'containerPath' setting for a mount point of container '{name}'.")
    _named(container, "environment", "name")
    _named(container, "secrets", "name", "valueFrom")
    _ports(container, definition.get("networkMode") or "bridge")
    _health_check(container)
    _logging(container)
    for option, most in (("startTimeout", None), ("stopTimeout", None)):
        if container.get(option) is not None and (container[option] < 0 or (most and container[option] > most)):
            raise client(f"Invalid '{option}' setting for container '{name}': {container[option]}.")
    period = (container.get("restartPolicy") or {}).get("restartAttemptPeriod")
    if period is not None and not 60 <= period <= 1800:
        raise client(f"Invalid 'restartAttemptPeriod' setting for container '{name}': 60 to 1800 seconds.")


def _memory(container: Json, definition: Json) -> None:
    name, hard, soft = container["name"], container.get("memory"), container.get("memoryReservation")
    if not hard and not soft and not definition.get("memory"):
        raise client(
            f"Invalid setting for container '{name}'. "
            "At least one of 'memory' or 'memoryReservation' must be specified."
        )
    for option, value in (("memory", hard), ("memoryReservation", soft)):
        if value is not None and value < MIN_MEMORY_MIB:
            raise client(f"Invalid '{option}' setting for container '{name}': at least {MIN_MEMORY_MIB} MiB.")
    if hard and soft and soft >= hard:
        raise client(f"Invalid setting for container '{name}'. 'memory' must be greater than 'memoryReservation'.")


def _named(container: Json, member: str, *required: str) -> None:
    for entry in container.get(member) or []:
        for key in required:
            if not entry.get(key):
                raise client(f"Container '{container['name']}': an entry of '{member}' has no '{key}'.")


def _ports(container: Json, network_mode: str) -> None:
    name = container["name"]
    for port in container.get("portMappings") or []:
        if port.get("containerPortRange"):
            _port_range(name, port)
            continue
        if not 1 <= (port.get("containerPort") or 0) <= 65535:
            raise client(f"Invalid 'containerPort' setting for container '{name}'.")
        host = port.get("hostPort") or 0
        if not 0 <= host <= 65535:
            raise client(f"Invalid 'hostPort' setting for container '{name}'.")
        if network_mode in ("host", "awsvpc") and host not in (0, port["containerPort"]):
            raise client(
                f"When networkMode={network_mode}, the host ports and container ports in port mappings must match."
            )
        if network_mode == "none":
            raise client("Port mappings are not valid when networkMode=none.")


def _port_range(name: str, port: Json) -> None:
    first, _, last = port["containerPortRange"].partition("-")
    if port.get("containerPort") or port.get("hostPort"):
        raise client(f"Container '{name}': containerPortRange cannot be given together with containerPort or hostPort.")
    if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last) <= 65535):
        raise client(f"Invalid 'containerPortRange' setting for container '{name}'.")


def _health_check(container: Json) -> None:
    probe, name = container.get("healthCheck"), container["name"]
    if probe is None:
        return
    command = probe.get("command") or []
    if not command or command[0] not in ("CMD", "CMD-SHELL", "NONE") or (command[0] != "NONE" and len(command) < 2):
        raise client(
            f"Invalid 'healthCheck' setting for container '{name}': the command must start with CMD or "
            "CMD-SHELL, followed by what to run."
        )
    for member, least, most in HEALTH_BOUNDS:
        value = probe.get(member)
        if value is not None and not least <= value <= most:
            raise client(f"Invalid 'healthCheck' setting for container '{name}': {member} must be {least} to {most}.")


def _logging(container: Json) -> None:
    logging = container.get("logConfiguration") or {}
    driver = logging.get("logDriver")
    if logging and not driver:
        raise client(f"Container '{container['name']}': logConfiguration.logDriver should not be null or empty.")
    needed = LOG_OPTIONS_REQUIRED.get(driver or "", ())
    given = {**(logging.get("options") or {}), **{s.get("name"): 1 for s in logging.get("secretOptions") or []}}
    if any(option not in given for option in needed):
        raise client(f"Log driver {driver} requires options: {', '.join(needed)}")


def task_cpu_units(value: str) -> int:
    """CPU units of a task's `cpu` ("256", ".25 vCPU"); ClientException when it is neither."""
    text = value.strip()
    vcpu = text.lower().removesuffix("vcpu").strip()
    try:
        units = round(float(vcpu) * 1024) if vcpu != text.lower() else int(text)
    except (ValueError, OverflowError):
        units = 0
    if units <= 0:
        raise client(f"Invalid 'cpu' setting for task: '{value}' (CPU units such as 256, or vCPU such as '.25 vCPU').")
    return units


def task_memory_mib(value: str) -> int:
    """MiB of a task's `memory` ("512", "0.5GB", "1 GB"); ClientException when it is neither."""
    text = value.strip().lower()
    number = text.removesuffix("gb").strip()
    try:
        mib = round(float(number) * 1024) if number != text else int(text)
    except (ValueError, OverflowError):
        mib = 0
    if mib <= 0:
        raise client(f"Invalid 'memory' setting for task: '{value}' (MiB such as 512, or GB such as '0.5GB').")
    return mib


def _sizes(definition: Json, containers: list[Json]) -> None:
    fargate = "FARGATE" in (definition.get("requiresCompatibilities") or [])
    for member in ("cpu", "memory"):
        if fargate and not definition.get(member):
            raise client(f"Fargate requires that '{member}' be defined at the task level.")
    if definition.get("cpu"):
        units = task_cpu_units(definition["cpu"])
        if sum(c.get("cpu", 0) for c in containers) > units:
            raise client("The sum of all container 'cpu' values cannot be greater than the value of the task 'cpu'.")
    if definition.get("memory"):
        mib = task_memory_mib(definition["memory"])
        if any((c.get("memory") or 0) > mib for c in containers):
            raise client(
                "Invalid setting for container. The container 'memory' cannot be greater than the value of "
                "the task 'memory'."
            )


def _host_ports(containers: list[Json]) -> None:
    taken: dict[tuple[int, str], str] = {}
    for container in containers:
        for port in container.get("portMappings") or []:
            host, protocol = port.get("hostPort") or 0, port.get("protocol") or "tcp"
            other = taken.setdefault((host, protocol), container["name"]) if host else container["name"]
            if host and (other != container["name"] or _repeated(container, host, protocol)):
                raise client(
                    f"Host port {host}/{protocol} is used more than once in the task definition "
                    f"(containers '{other}' and '{container['name']}')."
                )


def _repeated(container: Json, host: int, protocol: str) -> bool:
    same = [
        p for p in container["portMappings"] if p.get("hostPort") == host and (p.get("protocol") or "tcp") == protocol
    ]
    return len(same) > 1


def _links(containers: list[Json], definition: Json) -> None:
    mode = definition.get("networkMode") or "bridge"
    edges: dict[str, list[str]] = {}
    names = {c["name"] for c in containers}
    for container in containers:
        for link in container.get("links") or []:
            if mode != "bridge":
                raise client(f"Links are not supported when networkMode={mode}.")
            target = link.partition(":")[0]
            if target not in names:
                raise client(f"Invalid 'links' setting. Unknown container: '{target}'.")
            edges.setdefault(container["name"], []).append(target)
    if find_cycle(edges):
        raise client("Container links should not have a cycle")


def _volumes_from(containers: list[Json]) -> None:
    names = {c["name"] for c in containers}
    for container in containers:
        for source in container.get("volumesFrom") or []:
            other = source.get("sourceContainer") or ""
            if other not in names or other == container["name"]:
                raise client(f"Invalid 'volumesFrom' setting. Unknown container: '{other}'.")


def _depends_on(containers: list[Json]) -> None:
    by_name = {c["name"]: c for c in containers}
    edges: dict[str, list[str]] = {c["name"]: [] for c in containers}
    for container in containers:
        for need in container.get("dependsOn") or []:
            other, condition = need.get("containerName") or "", need.get("condition") or ""
            if other not in by_name:
                raise client(f"Cannot depend on container + '{other}' because it does not exist")
            if condition in ("SUCCESS", "COMPLETE") and by_name[other].get("essential", True):
                raise client(
                    "A dependency container with SUCCESS or COMPLETE condition cannot be an essential container"
                )
            if condition == "HEALTHY" and not by_name[other].get("healthCheck"):
                raise client(
                    f"Container '{container['name']}' depends on container '{other}' being HEALTHY, but "
                    f"'{other}' has no health check."
                )
            edges[container["name"]].append(other)
    cycle = find_cycle(edges)
    if cycle:
        raise client(f"Container dependencies should not have a cycle: {' -> '.join(cycle)}")


def _proxy(definition: Json, names: Iterable[str]) -> None:
    proxy = definition.get("proxyConfiguration")
    if proxy and proxy.get("containerName") not in names:
        raise client(f"Invalid 'proxyConfiguration' setting. Unknown container: '{proxy.get('containerName')}'.")


def find_cycle(edges: dict[str, list[str]]) -> list[str]:
    """One cycle of the graph as a closed path (`a -> b -> a`), or an empty list."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for following in edges.get(node, []):
            found = walk(following, [*path, node])
            if found:
                return found
        done.add(node)
        return []

    for start in edges:
        if cycle := walk(start, []):
            return cycle
    return []
