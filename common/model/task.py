"""The task document: what the control plane asked for and what has become of it.

Written by the engine only; read by acs, endpoint, telemetry and images. Everything is immutable: a change is a new
document (msgspec.structs.replace) with a higher revision. Facts that come from the payload and facts that come from
Docker stand in one struct per container, in two blocks. No secret value is ever part of it: credentials are named by
id, resolved secrets and environment files stay in the engine's memory (spec 03 §1, §11).

Times are Unix seconds (float), 0.0 = not yet. Texts from Docker keep Docker's form (RFC 3339 with nanoseconds).
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from common.errors import NamedError
from common.model.status import ContainerStatus, ContainerType, HealthStatus, ResourceStatus, TaskStatus


class Value(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the parts of a task."""


class PortMapping(Value, frozen=True, kw_only=True):
    """One entry of portMappings. `host_port` 0 means that the agent chooses."""

    container_port: int = 0
    container_port_range: str = ""
    host_port: int = 0
    protocol: str = "tcp"


class PortBinding(Value, frozen=True, kw_only=True):
    """A published port as Docker reports it."""

    container_port: int
    host_port: int
    protocol: str = "tcp"
    bind_ip: str = ""


class MountPoint(Value, frozen=True, kw_only=True):
    source_volume: str = ""
    container_path: str = ""
    read_only: bool = False


class VolumeFrom(Value, frozen=True, kw_only=True):
    source_container: str = ""
    read_only: bool = False


class Dependency(Value, frozen=True, kw_only=True):
    """One entry of dependsOn; condition is START, COMPLETE, SUCCESS, HEALTHY or the agent's own CREATE."""

    container_name: str
    condition: str


class EnvironmentFile(Value, frozen=True, kw_only=True):
    value: str = ""
    type: str = ""


class Secret(Value, frozen=True, kw_only=True):
    """A reference to a secret, never its value."""

    name: str = ""
    value_from: str = ""
    region: str = ""
    container_path: str = ""
    type: str = ""
    provider: str = ""
    target: str = ""


class RegistryAuth(Value, frozen=True, kw_only=True):
    """registryAuthentication; `type` is "ecr" or "asm"."""

    type: str = ""
    registry_id: str = ""
    region: str = ""
    endpoint_override: str = ""
    use_execution_role: bool = False
    credentials_parameter: str = ""


class Firelens(Value, frozen=True, kw_only=True):
    type: str = ""
    options: dict[str, str] = field(default_factory=dict)


class RestartPolicy(Value, frozen=True, kw_only=True):
    enabled: bool = False
    ignored_exit_codes: tuple[int, ...] = ()
    restart_attempt_period_seconds: int = 0


class ManagedAgent(Value, frozen=True, kw_only=True):
    """A program of ECS that runs beside the container's own, such as that of ECS Exec (spec 05 §12)."""

    name: str
    properties: dict[str, str] = field(default_factory=dict)
    status: str = ""  # RUNNING, STOPPED, or nothing yet
    reason: str = ""
    id: str = ""  # UUID in the paths of its files; chosen before the container is created
    init_failed: bool = False  # its files could not be had; the container runs without it
    started_at: float = 0.0
    exec_id: str = ""  # of Docker
    process_id: int = 0
    next_check_at: float = 0.0  # 0 = it is not watched
    starting: int | None = None  # the start under way is for the process after so many restarts of the container


class Health(Value, frozen=True, kw_only=True):
    """Docker's health check as last seen; `since` is the agent's time of the last change of status."""

    status: HealthStatus = HealthStatus.UNKNOWN
    since: float = 0.0
    output: str = ""
    exit_code: int | None = None


class Mount(Value, frozen=True, kw_only=True):
    """A mount as Docker reports it (inspect, Mounts)."""

    name: str = ""
    source: str = ""
    destination: str = ""
    driver: str = ""
    mode: str = ""
    read_write: bool = False
    type: str = ""


class Network(Value, frozen=True, kw_only=True):
    """One network of a container as Docker reports it (inspect, NetworkSettings.Networks)."""

    name: str
    ip_address: str = ""
    ipv6_address: str = ""
    mac_address: str = ""
    gateway: str = ""


class TransitionDependency(Value, frozen=True, kw_only=True):
    """`target` (a container or resource of the task) must be at least at `status` before a transition."""

    target: str
    status: int


class TransitionDependencies(Value, frozen=True, kw_only=True):
    """What one transition of a container waits for, besides dependsOn."""

    containers: tuple[TransitionDependency, ...] = ()
    resources: tuple[TransitionDependency, ...] = ()


class Container(Value, frozen=True, kw_only=True):
    """A container of a task: the payload's facts, then what has become of it."""

    name: str
    image: str = ""
    type: ContainerType = ContainerType.NORMAL
    essential: bool = False
    cpu_shares: int = 0
    memory_mib: int = 0
    command: tuple[str, ...] = ()
    entry_point: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    environment_files: tuple[EnvironmentFile, ...] = ()
    secrets: tuple[Secret, ...] = ()
    links: tuple[str, ...] = ()
    port_mappings: tuple[PortMapping, ...] = ()
    mount_points: tuple[MountPoint, ...] = ()
    volumes_from: tuple[VolumeFrom, ...] = ()
    depends_on: tuple[Dependency, ...] = ()
    start_timeout_seconds: int = 0
    stop_timeout_seconds: int = 0
    docker_config: str | None = None  # JSON of Docker's Config, laid over the agent's own; parsed at create
    docker_host_config: str | None = None  # JSON of Docker's HostConfig
    docker_api_version: str = ""
    health_check_type: str = ""
    logs_auth_strategy: str = ""
    registry_auth: RegistryAuth | None = None
    firelens: Firelens | None = None
    restart_policy: RestartPolicy | None = None
    managed_agents: tuple[ManagedAgent, ...] = ()
    credential_specs: tuple[str, ...] = ()
    container_arn: str = ""

    # what has become of it
    steady: ContainerStatus = ContainerStatus.RUNNING
    desired: ContainerStatus = ContainerStatus.NONE
    known: ContainerStatus = ContainerStatus.NONE
    applied: ContainerStatus = ContainerStatus.NONE  # the transition in flight; reset on restore
    emitted: ContainerStatus = ContainerStatus.NONE  # highest status put into the outbox
    transition_dependencies: dict[int, TransitionDependencies] = field(default_factory=dict)  # by target status
    endpoint_id: str = ""  # UUID of the metadata endpoints v3, v4 and /api
    docker_id: str = ""
    docker_name: str = ""
    pulled: bool = False
    image_id: str = ""
    image_digest: str = ""
    error: NamedError | None = None  # the first error of its life
    exit_code: int | None = None
    created_at: str = ""  # Docker's times, RFC 3339
    started_at: str = ""
    finished_at: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    port_bindings: tuple[PortBinding, ...] = ()
    port_ranges: dict[str, str] = field(default_factory=dict)  # containerPortRange -> hostPortRange
    mounts: tuple[Mount, ...] = ()
    network_mode: str = ""
    ip_address: str = ""  # NetworkSettings.IPAddress
    ipv6_address: str = ""
    networks: tuple[Network, ...] = ()
    log_driver: str = ""
    log_options: dict[str, str] = field(default_factory=dict)
    health: Health = field(default_factory=Health)
    restart_count: int = 0
    boot: str = ""  # of the machine, when the container came to run
    last_restart_at: float = 0.0
    restarted_exit: str = ""  # Docker's finish time of the exit that the last restart by policy answered

    @property
    def is_internal(self) -> bool:
        """True for containers that the agent added itself; they are never reported."""
        return self.type != ContainerType.NORMAL

    @property
    def single_ports(self) -> frozenset[int]:
        """Container ports that were asked for one by one, not as a range."""
        return frozenset(p.container_port for p in self.port_mappings if not p.container_port_range)


class Volume(Value, frozen=True, kw_only=True):
    """One entry of `volumes`. `type` is host, docker, efs, ...; `configuration` is its member as it came."""

    name: str
    type: str = "host"
    host_path: str = ""
    configuration: dict[str, Any] = field(default_factory=dict)


class Association(Value, frozen=True, kw_only=True):
    name: str
    type: str
    containers: tuple[str, ...] = ()
    encoding: str = ""
    value: str = ""


class NetworkInterface(Value, frozen=True, kw_only=True):
    """An ENI of an awsvpc task, as validated from the payload (spec 02 §2.6)."""

    ec2_id: str
    mac_address: str
    attachment_arn: str = ""
    ipv4_addresses: tuple[str, ...] = ()  # the primary one first
    ipv6_addresses: tuple[str, ...] = ()
    subnet_gateway_ipv4: str = ""  # address/length
    subnet_gateway_ipv6: str = ""
    domain_name_servers: tuple[str, ...] = ()
    domain_name_search: tuple[str, ...] = ()
    private_dns_name: str = ""
    association_protocol: str = "default"
    vlan_id: str = ""
    trunk_mac_address: str = ""


class Proxy(Value, frozen=True, kw_only=True):
    """proxyConfiguration (App Mesh)."""

    container_name: str = ""
    properties: dict[str, str] = field(default_factory=dict)


class Attachment(Value, frozen=True, kw_only=True):
    """An attachment of the payload that belongs to the task (Service Connect, EBS, S3 files), as it came."""

    arn: str = ""
    type: str = ""
    properties: dict[str, str] = field(default_factory=dict)


class Resource(Value, frozen=True, kw_only=True):
    """A task resource: a cgroup, a volume, secrets to fetch ... `detail` is what its kind needs to go on."""

    kind: str
    name: str
    known: ResourceStatus = ResourceStatus.NONE
    desired: ResourceStatus = ResourceStatus.NONE
    applied: ResourceStatus = ResourceStatus.NONE
    needs_execution_credentials: bool = False
    depends_on: tuple[TransitionDependency, ...] = ()  # containers that must be at a status before CREATED
    detail: dict[str, Any] = field(default_factory=dict)


class Task(Value, frozen=True, kw_only=True):
    """A task as the engine keeps it. Identity is the ARN."""

    arn: str
    revision: int = 0
    family: str = ""
    version: str = ""
    service_name: str = ""
    group: str = ""
    containers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    associations: tuple[Association, ...] = ()
    cpu: float = 0.0  # vCPU, 0 = no limit
    memory_mib: int = 0
    pid_mode: str = ""
    ipc_mode: str = ""
    network_mode: str = "bridge"
    launch_type: str = ""
    enable_fault_injection: bool = False
    interfaces: tuple[NetworkInterface, ...] = ()
    proxy: Proxy | None = None
    attachments: tuple[Attachment, ...] = ()
    credentials_id: str = ""
    execution_credentials_id: str = ""

    # what has become of it
    desired: TaskStatus = TaskStatus.NONE
    known: TaskStatus = TaskStatus.NONE
    known_at: float = 0.0
    emitted: TaskStatus = TaskStatus.NONE  # highest status put into the outbox
    pull_started_at: float = 0.0
    pull_stopped_at: float = 0.0
    execution_stopped_at: float = 0.0
    terminal_reason: str = ""
    resources: tuple[Resource, ...] = ()
    prepared: bool = False  # the set-up after decoding was done; it must never run twice
    rejected: bool = False  # it never runs, and its report has no containers
    admitted: bool = False  # host resources are held
    unexpected_start_handled: bool = False
    credentials_released: bool = False  # the endpoint answers 400 for its task role from here on
    limits_enabled: bool = False
    is_internal: bool = False
    local_ip_address: str = ""
    network_namespace: str = ""
    interface_name: str = ""
    arrival: int = 0  # counts the tasks of this host; waiting tasks keep their order over a restart by it

    @property
    def id(self) -> str:
        """The text after the last slash of the ARN."""
        return self.arn.rsplit("/", 1)[-1]

    def container(self, name: str) -> Container | None:
        """The container called `name`, or None."""
        return next((c for c in self.containers if c.name == name), None)
