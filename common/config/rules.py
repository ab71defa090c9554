"""What is decided after the sources were merged: bounds, required values, derived values, platform rules.

Each rule is a small function on the merge in progress, and `AFTER_DEFAULTS` is their order (spec 01 §3.4). A rule
changes values and leaves remarks; it never stops the load, because `ecs-agent config check` wants every fault.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from common import routes
from common.config.declarations import OPTIONS
from common.config.findings import REDACTED
from common.config.grammar import Malformed, format_duration, parse_duration, parse_json
from common.config.kinds import PortRange
from common.config.sources import Layer, ReadFile, Remark, as_text

LOGGING_DRIVERS = frozenset(
    (
        "json-file", "syslog", "journald", "gelf", "fluentd", "awslogs", "splunk", "logentries", "sumologic", "none",
        "awsfirelens",
    )
)  # fmt: skip
PROMETHEUS_PORT = 51680
KERNEL_PORT_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"
FALLBACK_PORT_RANGE = PortRange(49153, 65535)
INSTALLED_RUN_DIR = "/run/ecs-init"
STEADY_RATE, BURST_RATE = 40, 60
TRUNKING = "ECS_ENABLE_HIGH_DENSITY_ENI"


class Merge:
    """The values of all sources while they are put together, with the environment at hand and the host's files."""

    __slots__ = ("environment", "exists", "read", "remarks", "sources", "values")

    def __init__(self, environment: Layer, read: ReadFile, exists: Callable[[str], bool]) -> None:
        self.environment = environment
        self.read = read
        self.exists = exists
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self.remarks: list[Remark] = []

    def put(self, name: str, value: Any, source: str) -> None:
        """Set a value, whatever was there."""
        self.values[name] = value
        self.sources[name] = source

    def remark(self, name: str, problem: str, **more: Any) -> None:
        """Remember something odd about the value that an option has now."""
        option = OPTIONS[name]
        text = REDACTED if option.secret else option.kind.show(self.values[name])
        self.remarks.append(Remark(name, text, problem, self.sources.get(name, "default"), **more))


def require_reachable_timeouts(merge: Merge) -> None:
    """Stop and start timeouts below their minimum are fatal; only the JSON sources can bring them this far."""
    for name, what in (("ECS_CONTAINER_STOP_TIMEOUT", "stop"), ("ECS_CONTAINER_START_TIMEOUT", "start")):
        bounds, value = OPTIONS[name].bounds, merge.values[name]
        if bounds is not None and value < parse_duration(str(bounds.low)):
            error = f"config: invalid value for docker container {what} timeout: {format_duration(value)}"
            merge.remark(name, f"is below the minimum of {bounds.low}", level="fatal", error=error, stage="validation")


def require_known_logging_drivers(merge: Merge) -> None:
    """A log driver that the agent does not know is fatal."""
    unknown = [name for name in merge.values["ECS_AVAILABLE_LOGGING_DRIVERS"] if name not in LOGGING_DRIVERS]
    if unknown:
        names = ", ".join(unknown)
        problem = f"names unknown log drivers: {names} (known: {', '.join(sorted(LOGGING_DRIVERS))})"
        error = f"Invalid logging drivers: {names}"
        merge.remark("ECS_AVAILABLE_LOGGING_DRIVERS", problem, level="fatal", error=error, stage="validation")


def apply_bounds(merge: Merge) -> None:
    """Replace merged values outside their bounds; the polling bounds hold only while polling is on (spec 07 §2)."""
    for option in OPTIONS.values():
        bounds = option.bounds
        if bounds is None or bounds.when == "environment":
            continue
        value = merge.values[option.name]
        if bounds.when == "polling" and not merge.values["ECS_POLL_METRICS"]:
            replaced = (option.default_value(), "is not a period") if value <= 0 else None
        else:
            replaced = bounds.replace(value, option.kind)
        if replaced is not None:
            merge.remark(option.name, replaced[1])
            merge.values[option.name] = replaced[0]


def apply_rates(merge: Merge) -> None:
    """Join the two rates of the task metadata server; one that is not positive resets both."""
    name = "ECS_TASK_METADATA_RPS_LIMIT"
    rates = (merge.values["TaskMetadataSteadyStateRate"], merge.values["TaskMetadataBurstRate"])
    source = merge.sources["TaskMetadataSteadyStateRate"]
    if source == "default":
        source = merge.sources["TaskMetadataBurstRate"]
    merge.put(name, rates, source)
    if min(rates) <= 0:
        merge.remark(name, "has a rate that is not positive")
        rates = (STEADY_RATE, BURST_RATE)
        merge.values.update({name: rates, "TaskMetadataSteadyStateRate": rates[0], "TaskMetadataBurstRate": rates[1]})


def apply_platform(merge: Merge) -> None:
    """Prometheus port, trunk interfaces, and what Linux decides whatever was configured."""
    if merge.values["ECS_ENABLE_PROMETHEUS_METRICS"]:
        merge.values["ECS_RESERVED_PORTS"] += (PROMETHEUS_PORT,)
    value, where = merge.environment.values.get(TRUNKING), merge.environment.where.get(TRUNKING, "default")
    if merge.values["ECS_ENABLE_TASK_ENI"]:
        merge.put(TRUNKING, value is not False, where)
    elif value is not None:
        problem = "is not looked at, because ECS_ENABLE_TASK_ENI is off"
        merge.remarks.append(Remark(TRUNKING, OPTIONS[TRUNKING].kind.show(value), problem, where, "note"))
    merge.put("ECS_FSX_WINDOWS_FILE_SERVER_SUPPORTED", False, "default")


def apply_external(merge: Merge) -> None:
    """External instances have no identity document (spec 01 §5.1, step 4)."""
    if merge.values["ECS_EXTERNAL"]:
        merge.put("NoIID", True, "ECS_EXTERNAL")


def apply_checkpoint(merge: Merge) -> None:
    """Without a word on checkpoints, a data directory in the environment turns them on (spec 01 §2.2)."""
    if merge.environment.values.get("ECS_CHECKPOINT") is None and merge.environment.values.get("ECS_DATADIR"):
        merge.put("ECS_CHECKPOINT", True, f"{merge.environment.where['ECS_DATADIR']} (ECS_DATADIR)")


def apply_backend_host(merge: Merge) -> None:
    """An endpoint without a scheme is reached by https."""
    host = merge.values["ECS_BACKEND_HOST"]
    if host and not host.startswith(("http://", "https://")):
        merge.values["ECS_BACKEND_HOST"] = f"https://{host}"


def apply_ip_compatibility(merge: Merge) -> None:
    """The routes tell whether the instance is IPv6-only when nobody says so; IPv6 port bindings follow (spec 01 §3.6).

    The tree hands what was found at its start to its programs, so that all of them go by one answer.
    """
    name, bindings = "ECS_INSTANCE_IP_COMPATIBILITY", "ECS_EXCLUDE_IPV6_PORTBINDING"
    if not merge.values[name]:
        only = routes.ipv6_only(_table(merge, routes.IPV4_TABLE), _table(merge, routes.IPV6_TABLE))
        merge.put(name, "ipv6" if only else "ipv4", "routes" if only else "default")
    if merge.values[bindings] is None:
        merge.put(bindings, merge.values[name] == "ipv4", merge.sources[name])


def _table(merge: Merge, path: str) -> str:
    try:
        return as_text(merge.read(path) or "")
    except OSError as error:
        problem = f"cannot be read ({error.strerror}), so it counts as empty"
        merge.remarks.append(Remark(path, "", problem, path))
        return ""


def apply_port_range(merge: Merge) -> None:
    """The default range of host ports is the kernel's."""
    name = "ECS_DYNAMIC_HOST_PORT_RANGE"
    if merge.values[name] is not None:
        return
    try:
        first, last = as_text(merge.read(KERNEL_PORT_RANGE) or "").split()
        merge.put(name, PortRange(int(first), int(last)), "default")
    except (OSError, ValueError):
        merge.put(name, FALLBACK_PORT_RANGE, "default")
        problem = f"is not set, and {KERNEL_PORT_RANGE} cannot be read"
        merge.remarks.append(Remark(name, "", problem, KERNEL_PORT_RANGE))


def apply_gmsa(merge: Merge) -> None:
    """Evaluate the two gMSA capabilities from the environment alone (spec 01 §2.6)."""
    values = merge.environment.values
    directory = values.get("CREDENTIALS_FETCHER_HOST_DIR", "")
    fetcher = False
    supported = bool(values.get("ECS_GMSA_SUPPORTED"))
    skip_join = bool(values.get("ZZZ_SKIP_DOMAIN_JOIN_CHECK_NOT_SUPPORTED_IN_PRODUCTION"))
    skip_domainless = bool(values.get("ZZZ_SKIP_DOMAIN_LESS_CHECK_NOT_SUPPORTED_IN_PRODUCTION"))
    if supported and directory:
        fetcher = merge.exists(directory)
        if not fetcher and not (skip_join and skip_domainless):
            merge.remark("CREDENTIALS_FETCHER_HOST_DIR", "does not exist, so gMSA is not available")
    secret = bool(values.get("CREDENTIALS_FETCHER_SECRET_NAME_FOR_DOMAINLESS_GMSA"))
    joined = bool(values.get("ECS_DOMAIN_JOINED_LINUX_INSTANCE"))
    if supported and fetcher and not (skip_join or secret or joined):
        merge.remark("ECS_GMSA_SUPPORTED", "is on, but the instance has joined no domain and no secret is named")
    merge.put("GMSACapable", supported and (skip_join or (fetcher and (secret or joined))), "default")
    merge.put("GMSADomainlessCapable", supported and (skip_domainless or fetcher), "default")


def apply_run_dir(merge: Merge) -> None:
    """Sockets and pid files go under /run where the package made room for them, else beside the data."""
    if merge.values["ECS_RUN_DIR"]:
        return
    directory = merge.environment.values.get("ECS_DATADIR", "")
    if directory.rstrip("/") in ("", "/data") and merge.exists(INSTALLED_RUN_DIR):
        merge.put("ECS_RUN_DIR", INSTALLED_RUN_DIR, "default")
    else:
        merge.put("ECS_RUN_DIR", os.path.join(merge.values["ECS_DATADIR"], "run"), "default")


def check_registry_credentials(merge: Merge) -> None:
    """Static registry credentials that cannot be read mean none at all; the values stay out of the remarks."""
    form, data = merge.values["ECS_ENGINE_AUTH_TYPE"], merge.values["ECS_ENGINE_AUTH_DATA"]
    if form not in ("", "docker", "dockercfg"):
        merge.remark("ECS_ENGINE_AUTH_TYPE", "is neither docker nor dockercfg, so no registry credentials are used")
    elif form and not data:
        merge.remark("ECS_ENGINE_AUTH_TYPE", "is set without ECS_ENGINE_AUTH_DATA, so no registry credentials are used")
    elif form:
        try:
            parse_json(data)
        except Malformed as error:
            merge.remark("ECS_ENGINE_AUTH_DATA", f"{error.problem}, so no registry credentials are used")


def check_cluster_arn(merge: Merge) -> None:
    """The old key still works, and says so."""
    if merge.values["ClusterArn"]:
        merge.remark("ClusterArn", "is deprecated: use Cluster")


def check_without_effect(merge: Merge) -> None:
    """Options that are accepted for compatibility are named, so that nobody waits for an effect."""
    for name in sorted(merge.environment.values):
        option = OPTIONS[name]
        if option.no_effect and merge.environment.where[name] != "default":
            text = REDACTED if option.secret else option.kind.show(merge.environment.values[name])
            problem = f"has no effect: {option.no_effect}"
            merge.remarks.append(Remark(name, text, problem, merge.environment.where[name], "note"))


AFTER_DEFAULTS: tuple[Callable[[Merge], None], ...] = (
    check_cluster_arn,
    require_reachable_timeouts,
    require_known_logging_drivers,
    apply_bounds,
    apply_rates,
    apply_platform,
    apply_external,
    apply_backend_host,
    apply_ip_compatibility,
    apply_port_range,
    apply_gmsa,
    apply_run_dir,
    check_registry_credentials,
    check_without_effect,
)


def rate_values(layer: Layer) -> Mapping[str, int]:
    """The two keys behind ECS_TASK_METADATA_RPS_LIMIT, as the environment sets them."""
    steady, burst = layer.values.get("ECS_TASK_METADATA_RPS_LIMIT", (0, 0))
    return {"TaskMetadataSteadyStateRate": steady, "TaskMetadataBurstRate": burst}
