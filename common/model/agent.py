"""Documents about the agent itself: who it is, which Docker it has, what it told ECS, which credentials it holds."""

from __future__ import annotations

from msgspec import Struct, field

from common.model.status import ContainerStatus, TaskStatus


class Document(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the documents below."""


class Instance(Document, frozen=True, kw_only=True):
    """The container instance as ECS knows it. Written by acs; there is one, under the id "instance"."""

    revision: int = 0
    arn: str = ""
    cluster: str = ""  # as configured, `default` when it was empty
    ec2_instance_id: str = ""
    availability_zone: str = ""
    availability_zone_id: str = ""
    vpc_id: str = ""
    region: str = ""
    agent_version: str = ""
    status: str = ""  # of the last answer: ACTIVE, DRAINING ...
    manifest_sequence: int = 0
    registered_at: float = 0.0
    acs_endpoint: str = ""  # of the last answer of DiscoverPollEndpoint
    service_connect_endpoint: str = ""  # of the same


class DockerFacts(Document, frozen=True, kw_only=True):
    """What the engine found out about its Docker. Written by the engine under the id "docker"."""

    revision: int = 0
    server_version: str = ""
    api_version: str = ""  # the server's highest
    usable_api_versions: tuple[str, ...] = ()  # of the reference's list, lowest first
    default_api_version: str = ""  # the version the agent's client speaks
    cpu_count: int = 0
    memory_bytes: int = 0
    architecture: str = ""
    os_type: str = ""
    root_dir: str = ""
    security_options: tuple[str, ...] = ()
    cgroup_version: str = "1"
    cgroup_driver: str = ""
    log_drivers: tuple[str, ...] = ()
    volume_plugins: tuple[str, ...] = ()
    volume_plugins_error: str = ""
    runtimes: tuple[str, ...] = ()
    task_limits_enabled: bool = False  # effective ECS_ENABLE_TASK_CPU_MEM_LIMIT
    reserved_memory_mib: int = 0
    pause_image_loaded: bool = False  # amazon/amazon-ecs-pause:0.1.0 is there: pid and ipc namespaces can be shared
    volume_driver_loaded: bool = False  # the image of the EBS driver is there
    service_connect_loaded: bool = False  # that of the Service Connect agent is there
    service_connect_digest: str = ""  # of the image in its archive


class Sent(Document, frozen=True, kw_only=True):
    """The statuses of one task that ECS accepted. Written by acs under the task's ARN; the engine reads it."""

    revision: int = 0
    task: TaskStatus = TaskStatus.NONE
    containers: dict[str, ContainerStatus] = field(default_factory=dict)
    managed_agents: dict[str, str] = field(default_factory=dict)  # "<container>/<agent>" -> status


class DeviceAttachment(Document, frozen=True, kw_only=True):
    """A network interface or volume that ECS announced for this instance. Written by acs under the attachment's id.

    It is waited for until `expires_at`; once the device is there, ECS is told ATTACHED (spec 02 §6).
    """

    revision: int = 0
    arn: str = ""
    kind: str = ""  # task-eni, instance-eni, amazonebs
    device: str = ""  # MAC address in lower case, or volume id: what the device is recognised by
    task_arn: str = ""  # "" for the interfaces of the instance itself
    cluster_arn: str = ""
    instance_arn: str = ""
    expires_at: float = 0.0  # Unix seconds
    attached: bool = False  # the device is there
    sent: bool = False  # ECS accepted ATTACHED
    properties: dict[str, str] = field(default_factory=dict)


class TaskVolume(Document, frozen=True, kw_only=True):
    """An EBS volume that the driver mounts for a task. Written by storage under the volume's id.

    It is there from before the first attempt to stage the volume until it was unstaged, so that no mount is forgotten.
    """

    revision: int = 0
    volume_id: str = ""
    attachment_arn: str = ""
    task_arn: str = ""
    path: str = ""  # its directory below /mnt/ecs/ebs: sourceVolumeHostPath
    file_system: str = ""  # as asked for, "" = the driver's choice
    device: str = ""  # where it was found: /dev/nvme1n1
    staged: bool = False  # the driver says that it is mounted


class VolumeDriver(Document, frozen=True, kw_only=True):
    """The task of the EBS driver on this host. Written by storage under the id "driver".

    Saved with the command that starts it: after a crash the same task is asked for, not a second one.
    """

    revision: int = 0
    task_arn: str = ""


class Session(Document, frozen=True, kw_only=True):
    """How the session with the control plane stands. Written by acs under "acs" (and telemetry under "tcs")."""

    revision: int = 0
    connected: bool = False
    since: float = 0.0  # Unix seconds of the last change
    reason: str = ""  # why it is down, in plain words
    inactive: bool = False  # acs: ECS says that this instance was deregistered
    heartbeat_at: float = 0.0  # acs: Unix seconds of the last HeartbeatMessage; telemetry then checks the runtime


class Credentials(Document, frozen=True, kw_only=True):
    """Role credentials of a task. Only ever in the volatile Redis and in memory; never logged.

    `expiration` is echoed verbatim, never parsed by the agent (spec 02 §2.5).
    """

    credentials_id: str
    task_arn: str
    role_type: str  # TaskApplication or TaskExecution
    role_arn: str = ""
    access_key_id: str = ""
    secret_access_key: str = ""
    session_token: str = ""
    expiration: str = ""
    revision: int = 0

    def __repr__(self) -> str:
        return f"Credentials({self.credentials_id!r}, {self.role_type}, role {self.role_arn!r})"


class ImageReference(Document, frozen=True, kw_only=True):
    """An image that containers of tasks use or used. Written by the engine under the image id (spec 08 §2)."""

    revision: int = 0
    image_id: str = ""
    names: tuple[str, ...] = ()
    size_bytes: int = 0
    pulled_at: float = 0.0
    last_used_at: float = 0.0
    pull_succeeded: bool = False
    containers: tuple[str, ...] = ()  # "<task arn>/<container>" that use it now


class ContainerStats(Document, frozen=True, kw_only=True):
    """The latest stats of one container, rendered once by telemetry as the endpoint serves them (spec 06 §14)."""

    docker_id: str
    name: str = ""
    rendered: bytes = b"null"  # JSON of the Docker stats object with network_rate_stats


class TaskStats(Document, frozen=True, kw_only=True):
    """The latest stats of one task. Written by telemetry under the task's ARN; volatile."""

    revision: int = 0
    arn: str = ""
    containers: tuple[ContainerStats, ...] = ()


class Restarted(Document, frozen=True, kw_only=True):
    """The last restart of one container by its policy, for stats that go on counting (spec 07 §7).

    Written by telemetry under the Docker id, at a restart only; `before` is the stats object of the moment before.
    """

    revision: int = 0
    docker_id: str = ""
    seen_at: int = 0  # nanoseconds since 1970
    before: bytes = b""


DOCKER_CALL_SECONDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0, 120.0)  # upper bounds of DockerOperation.buckets


class DockerOperation(Document, frozen=True, kw_only=True):
    """The calls of one operation of the Docker Engine API since the engine process started."""

    name: str
    buckets: tuple[int, ...] = ()  # calls by duration; the last number is of those longer than every bound
    seconds: float = 0.0  # of all calls together
    errors: dict[str, int] = field(default_factory=dict)  # refused (4xx), failed (5xx), timeout, unreachable -> calls


class DockerCalls(Document, frozen=True, kw_only=True):
    """How Docker answers. Written by the engine under the id "docker", every few seconds while it makes calls."""

    operations: tuple[DockerOperation, ...] = ()
