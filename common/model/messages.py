"""What the processes say to each other over the streams.

Commands go from acs (and local tools) to the engine; events go from the engine to acs, which submits them. Every
message is complete in itself: its reader needs no other lookup to act on it. Tagged unions of msgspec: an unknown
tag is a decoding error and the entry is set aside.
"""

from __future__ import annotations

from msgspec import Struct

from common.model.status import ContainerStatus, TaskStatus
from common.model.task import PortBinding, Task


class Message(Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """Base of everything that travels in a stream."""


class RunOrUpdateTask(Message, frozen=True, kw_only=True):
    """A valid task of a payload, with the desired status that the backend wants (RUNNING or STOPPED)."""

    task: Task


class StopVerified(Message, frozen=True, kw_only=True):
    """The backend confirmed that this task must stop (task manifest)."""

    arn: str


class CredentialsChanged(Message, frozen=True, kw_only=True):
    """The credentials of a task arrived or changed; `execution` tells which of its two roles."""

    arn: str
    credentials_id: str
    execution: bool = False


class ImageRemoved(Message, frozen=True, kw_only=True):
    """The image cleanup removed an image (or one of its names, when `name` is set): drop the reference."""

    image_id: str
    name: str = ""


class ForgetEverything(Message, frozen=True, kw_only=True):
    """This machine is another instance than the one whose tasks are stored (a copied disk): drop all of them.

    Nothing of it is reported: ECS would take it for news of this instance. It comes before any task of the new one.
    """

    reason: str = ""


Command = RunOrUpdateTask | StopVerified | CredentialsChanged | ImageRemoved | ForgetEverything


class ContainerChanged(Message, frozen=True, kw_only=True):
    """A container reached a status that ECS hears about; travels inside the next report of its task."""

    arn: str
    name: str
    status: ContainerStatus  # MANIFEST_PULLED, RUNNING (steady) or STOPPED
    runtime_id: str = ""
    exit_code: int | None = None
    reason: str = ""
    image_digest: str = ""
    port_bindings: tuple[PortBinding, ...] = ()
    single_ports: tuple[int, ...] = ()
    port_ranges: dict[str, str] = {}


class TaskChanged(Message, frozen=True, kw_only=True):
    """A task reached a status that ECS hears about: one SubmitTaskStateChange."""

    arn: str
    status: TaskStatus
    reason: str = ""
    pull_started_at: float = 0.0
    pull_stopped_at: float = 0.0
    execution_stopped_at: float = 0.0


class ManagedAgentChanged(Message, frozen=True, kw_only=True):
    """The state of a managed agent (ECS Exec) of a container."""

    arn: str
    container_name: str
    name: str
    status: str
    reason: str = ""


class CredentialsReleased(Message, frozen=True, kw_only=True):
    """The engine has no more use for these credentials ids: acs forgets them once it has read this."""

    arn: str
    credentials_ids: tuple[str, ...]


class TaskForgotten(Message, frozen=True, kw_only=True):
    """The engine has cleaned the task up and knows it no more: the last event of its life.

    Should ECS send the ARN again, that is a new task; what was reported of the old one is no news of it.
    """

    arn: str


Event = ContainerChanged | TaskChanged | ManagedAgentChanged | CredentialsReleased | TaskForgotten
