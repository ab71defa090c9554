"""What the control plane remembers: one record per cluster, task definition, container instance and task.

`view` is the thing as a client sees it, in the service's own shape; the other members are the control plane's. No
record holds a credential: payloads are built when they are sent, and only then get the role's credentials. Records do
not change; State.change puts a new one in the place of the old when it is on the disk.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from services.local.core.placement import Holding

Json = dict[str, Any]


class Cluster(Struct, frozen=True):
    """A cluster, also a deleted one (INACTIVE)."""

    name: str
    view: Json


class Definition(Struct, frozen=True):
    """One revision of a task definition."""

    family: str
    revision: int
    view: Json


class Instance(Struct, frozen=True):
    """A container instance: an agent that registered."""

    arn: str
    cluster: str
    view: Json
    client_token: str = ""


class Delivery(Struct, frozen=True):
    """The last word that the agent must have heard about a task: `desired`, sent until `acked`."""

    desired: str
    message_id: str
    sequence: int
    acked: bool = False


class Task(Struct, frozen=True):
    """A task placed on an instance. The credential ids name what the payload carries; they are not secrets."""

    arn: str
    cluster: str
    instance: str
    view: Json
    delivery: Delivery
    holding: Holding
    credentials_id: str = ""
    execution_credentials_id: str = ""
    protected_until: float | None = None
    essential: list[str] = field(default_factory=list)

    @property
    def live(self) -> bool:
        """Not yet STOPPED, as far as the agent has told."""
        return bool(self.view["lastStatus"] != "STOPPED")
