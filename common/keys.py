"""Every name in Redis, in one place.

Two servers: `durable` (append-only file, every write on disk before it is answered) and `volatile` (memory only:
credentials, stats, sessions, readiness). A document is one key, "doc:<kind>:<id>"; exactly one program writes a kind.
"""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from msgspec import Struct

from common.model.agent import (
    Credentials,
    DeviceAttachment,
    DockerCalls,
    DockerFacts,
    ImageReference,
    Instance,
    Restarted,
    Sent,
    Session,
    TaskStats,
    TaskVolume,
    VolumeDriver,
)
from common.model.task import Task

T = TypeVar("T", bound=Struct)

COMMANDS = "stream:commands"  # acs, images, local tools -> engine
EVENTS = "stream:events"  # engine -> acs: the outbox
FEED = "stream:feed"  # one in each server: "document X changed, revision n"
REVISIONS = "revisions"  # hash "<kind>:<id>" -> revision: makes a repeated commit harmless
EPOCH = "epoch"  # random; another value means that the server lost its data
FEED_LENGTH = 2_000  # entries kept; a reader that fell behind reloads the documents


class Kind(Generic[T]):
    """A kind of document: its name, type, schema version, where it lives and which program writes it."""

    def __init__(self, name: str, type_: type[T], writer: str, store: Literal["durable", "volatile"], schema: int = 1):
        self.name, self.type, self.writer, self.store, self.schema = name, type_, writer, store, schema

    def key(self, id_: str) -> str:
        """The Redis key of the document `id_`."""
        return f"doc:{self.name}:{id_}"

    def __repr__(self) -> str:
        return f"Kind({self.name})"


TASK = Kind("task", Task, "engine", "durable")
FACTS = Kind("facts", DockerFacts, "engine", "durable")
IMAGE = Kind("image", ImageReference, "engine", "durable")
INSTANCE = Kind("instance", Instance, "acs", "durable")
SENT = Kind("sent", Sent, "acs", "durable")
ATTACHMENT = Kind("attachment", DeviceAttachment, "acs", "durable")
SESSION = Kind("session", Session, "acs", "volatile")
CREDENTIALS = Kind("credentials", Credentials, "acs", "volatile")
STATS = Kind("stats", TaskStats, "telemetry", "volatile")
DOCKER_CALLS = Kind("docker_calls", DockerCalls, "engine", "volatile")  # under FACTS_ID; the feed does not tell of it
RESTARTS = Kind("restarts", Restarted, "telemetry", "durable")
VOLUME = Kind("volume", TaskVolume, "storage", "durable")
VOLUME_DRIVER = Kind("volume_driver", VolumeDriver, "storage", "durable")

INSTANCE_ID = "instance"
FACTS_ID = "docker"
VOLUME_DRIVER_ID = "driver"
