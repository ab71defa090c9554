"""What the engine's decisions ask for, and what comes back.

The border between the pure core and the hands that touch Docker and the host. An Effect names one action on one
container or resource of a task; performing it never raises, blocks at most until the action's own deadline, and
yields exactly one Outcome. An Observation is what Docker said about a container, in the product's own terms.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Struct

from common.errors import NamedError, Permanent
from common.model.status import ContainerStatus, HealthStatus
from common.model.task import ManagedAgent, Mount, Network, PortBinding


class SetupError(Permanent):
    """The task cannot be set up on this host; the text is the cause, as spec 03 §3.7 lists them.

    The core puts "resource cannot be initialized for task <arn>: " in front; `bare` texts go out as they are.
    """

    def __init__(self, text: str, bare: bool = False) -> None:
        super().__init__(text)
        self.bare = bare


class Action(StrEnum):
    """What can be done to a container (first block) or a resource (second block).

    STOP comprises the five attempts of spec 03 §6.9; when it fails, the crew asks PING, and the core wants it again
    as long as the process runs. REMOVE ends a process that is left: afterwards nobody knows of the container.
    INSPECT looks up by the container's Docker id, then by its Docker name; `gone` means 404, an error without `gone`
    means that Docker did not answer. START of a running container and STOP of a stopped one are successes.
    """

    RESOLVE_MANIFEST = "resolve manifest"
    PULL = "pull"
    CREATE = "create"
    START = "start"
    PROVISION = "provision"
    STOP = "stop"
    INSPECT = "inspect"
    REMOVE = "remove"

    START_AGENT = "start agent"  # ECS Exec's, in a container that runs; one that runs already is left alone
    CHECK_AGENT = "check agent"  # the same, some time later

    CREATE_RESOURCE = "create resource"
    REMOVE_RESOURCE = "remove resource"

    PING = "ping"  # is Docker there?


class Effect(Struct, frozen=True, kw_only=True):
    """One action on `target`, a container's or a resource's name. `reason` is logged."""

    action: Action
    target: str = ""
    reason: str = ""
    after: Observation | None = None  # of a restart by policy: the exit that it answers; the hands ignore it


class HealthReport(Struct, frozen=True, kw_only=True):
    """Docker's health check as inspect shows it; `output` is cut to 1024 bytes."""

    status: HealthStatus = HealthStatus.UNKNOWN
    output: str = ""
    exit_code: int | None = None


class Observation(Struct, frozen=True, kw_only=True):
    """A container as Docker describes it (inspect), or the little that an event tells.

    `status` follows spec 03 §6.11: CREATED, RUNNING or STOPPED. None stands for "not told".
    """

    docker_id: str = ""
    docker_name: str = ""
    status: ContainerStatus = ContainerStatus.NONE
    exit_code: int | None = None
    error: NamedError | None = None  # OutOfMemoryError, DockerStateError, UnparsablePort ...
    running: bool = False  # State.Running, which a stale OOMKilled flag does not change
    created_at: str = ""
    started_at: str = ""
    finished_at: str = ""
    image_id: str = ""
    labels: dict[str, str] | None = None
    port_bindings: tuple[PortBinding, ...] = ()
    host_ports: tuple[tuple[int, str], ...] = ()  # (number, protocol) asked for, whether or not it runs
    mounts: tuple[Mount, ...] | None = None
    network_mode: str = ""
    ip_address: str = ""
    ipv6_address: str = ""
    networks: tuple[Network, ...] = ()
    health: HealthReport | None = None
    process_id: int = 0


class Outcome(Struct, frozen=True, kw_only=True):
    """The result of one effect.

    `error` is the named error of the transition, as it must be recorded with the container; `gone` says that Docker
    does not know the container (404), which is not the same as not answering. `port_ranges`, `image_digest`,
    `image_id` and `pulled_*` are filled by the actions that find them out. `detail` belongs to a resource.
    """

    action: Action
    target: str = ""
    error: NamedError | None = None
    observation: Observation | None = None
    gone: bool = False
    retriable: bool = True
    skipped: bool = False  # nothing was done: when its turn came, nobody wanted it any more
    image_digest: str = ""
    image_id: str = ""
    image_size_bytes: int = 0
    registry_pull_began_at: float = 0.0  # Unix seconds; 0 when nothing was pulled from a registry
    registry_pull_ended_at: float = 0.0
    port_ranges: dict[str, str] = {}
    agent: ManagedAgent | None = None  # as it is by now; None = unchanged
    stop_task: bool = False  # the action found that the whole task must stop
    reason: str = ""  # terminal reason of a resource
    detail: dict[str, Any] = {}
    docker_answers: bool = True  # the crew's finding (PING) after a failed STOP or REMOVE


class Resync(Struct, frozen=True):
    """In the event stream: a stream was opened (the first one too), so anything may have happened: inspect all.

    Events that follow it are later than the moment at which the stream was open.
    """


class DockerEvent(Struct, frozen=True, kw_only=True):
    """One container event of Docker's stream, in order. `observation` comes from the inspect that followed it."""

    docker_id: str
    action: str  # create, start, stop, die, restart, oom, health_status: healthy ...
    exit_code: int | None = None  # the event's own attribute
    at: float = 0.0
    observation: Observation | None = None
    error: NamedError | None = None
    gone: bool = False
