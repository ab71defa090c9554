"""A create request in the making, and the world that its rules look at.

`World` is what every request needs to know about this host; `Draft` is one request, which the steps of spec 03 §6.6
fill in order. Resource kinds (secrets, environment files ...) may amend a draft; they see nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from common.errors import NamedError
from common.model.agent import DockerFacts
from common.model.status import ContainerType
from common.model.task import Container, Task
from services.engine.docker.ports import PortPicker
from services.engine.docker.settings import Settings

Json = dict[str, Any]


class Refused(Exception):
    """The request cannot be built: the error of the transition to CREATED."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.error = NamedError(name, text)


@dataclass
class World:
    """This host, as far as create requests depend on it."""

    settings: Settings
    facts: DockerFacts
    picker: PortPicker
    region: str = ""
    cluster: str = ""
    instance_arn: str = ""
    image_environment: Callable[[str], tuple[str, ...]] = lambda image: ()  # names that the image's ENV sets
    bridge_ip: Callable[[Task, Container], str] = lambda task, container: ""
    execution_credentials: Callable[[str], bool] = lambda id_: False  # are they in the credentials store?


@dataclass
class Draft:
    """One create request, filled step by step; `body` is what is sent.

    What a step puts into `config` is overruled by the task definition's own Config.
    """

    task: Task
    container: Container
    world: World
    version: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    host: Json = field(default_factory=dict)
    config: Json = field(default_factory=dict)
    port_ranges: dict[str, str] = field(default_factory=dict)

    def bind(self, *binds: str) -> None:
        """Append to HostConfig.Binds: these stay whatever the task definition's own HostConfig says."""
        self.host["Binds"] = [*(self.host.get("Binds") or ()), *binds]

    @property
    def log_config(self) -> Json:
        """HostConfig.LogConfig, with both members present."""
        log_config = dict(self.host.get("LogConfig") or {})
        log_config["Config"] = dict(log_config.get("Config") or {})
        log_config.setdefault("Type", "")
        self.host["LogConfig"] = log_config
        return log_config

    @property
    def body(self) -> Json:
        """The JSON of POST /containers/create."""
        return {**self.config, "HostConfig": self.host, "NetworkingConfig": {}}


def of_type(task: Task, kind: ContainerType) -> Container | None:
    """The first container of this type."""
    return next((c for c in task.containers if c.type == kind), None)


def at_least(version: str, minimum: str) -> bool:
    """Compare Docker API versions, such as 1.9 and 1.41."""
    return _numbers(version) >= _numbers(minimum)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))
