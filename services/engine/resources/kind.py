"""What every kind of task resource is: one small interface (spec 05 §1).

A kind says which resources a task needs, makes one, removes one, and may amend the create request of a container that
uses it. Which containers wait for it is a row of core/prepare.py. What a kind must know later it puts into
`Resource.detail`, which is saved with the task; secret values are kept in memory only. A kind never looks at the
engine: a `Host` is all it gets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from common.model.agent import Credentials, DockerFacts
from common.model.task import Resource, Task

if TYPE_CHECKING:
    from services.engine.docker.draft import Draft
    from services.engine.docker.settings import Settings


class ResourceFailed(Exception):
    """A resource could not be made; the text is the task's reason on the wire (spec 05 §1.2)."""


class VolumeFailed(Exception):
    """A call about a volume failed; `timed_out` tells a time-out from an answer. The text is Docker's."""

    def __init__(self, text: str, timed_out: bool = False) -> None:
        super().__init__(text)
        self.timed_out = timed_out


class Volumes(Protocol):
    """Docker's volumes. Each call ends within five minutes and raises VolumeFailed."""

    def create(self, name: str, driver: str, options: Mapping[str, str], labels: Mapping[str, str]) -> None:
        """Make a volume; making it again is no error."""

    def inspect(self, name: str) -> dict[str, Any]:
        """Docker's description of a volume."""

    def remove(self, name: str) -> None:
        """Remove a volume, not forced; one that is gone is no error."""


@dataclass
class Host:
    """What a kind may use: configuration, facts about Docker, its volumes, role credentials by id, who this host is.

    `facts` are those of when the task came; `latest_facts`, where there is any, tells what is known by now.
    `refused` tells why the image of the Service Connect agent cannot be loaded, "" as long as it may be.
    """

    settings: Settings
    facts: DockerFacts
    volumes: Volumes
    credentials: Callable[[str], Credentials | None] = lambda id_: None
    region: str = ""
    cluster: str = "default"
    instance_id: str = ""  # of EC2
    latest_facts: Callable[[], DockerFacts] | None = None
    refused: Callable[[], str] = lambda: ""


class ResourceKind(Protocol):
    """One kind of resource. `name` is the kind in Resource.kind; names of resources are unique in a task."""

    name: str

    def prepare(self, task: Task, host: Host) -> list[Resource]:
        """Which resources does the task need? Runs once per task. Raises SetupError with the cause."""

    def create(self, task: Task, resource: Resource, host: Host) -> dict[str, Any]:
        """Make it; must be safe to repeat. Returns what to add to `detail`. Raises ResourceFailed.

        With RENEWED in `detail` it is called again for a resource that is there, to bring it up to date.
        """

    def cleanup(self, task: Task, resource: Resource, host: Host) -> None:
        """Remove what `create` made; nothing there is no error. Raises ResourceFailed."""

    def amend(self, draft: Draft, resource: Resource) -> None:
        """Add this resource's part to a container's create request. Raises docker.draft.Refused."""
