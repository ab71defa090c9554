"""The values of secrets, in memory only, and their way into a create request (spec 05 §6.1, §6.4).

One store serves both providers, so that a container's secrets are applied in the order of its definition. It is never
saved: after a restart of the engine the values are fetched again for containers that are still to be created.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from common.model.task import Container, Secret, Task
from services.engine.core.hosts import folded, host_config
from services.engine.core.prepare import AWSFIRELENS

if TYPE_CHECKING:
    from services.engine.docker.draft import Draft

ENVIRONMENT = "ENVIRONMENT_VARIABLE"
LOG_DRIVER = "LOG_DRIVER"
NAMES = {"ssm": "SSM", "asm": "ASM"}


class NotFetched(Exception):
    """The secrets of a provider are not in memory."""

    def __init__(self, secret: Secret) -> None:
        super().__init__(f"secret {secret.name} has not been fetched")
        self.secret = secret


class SecretValues:
    """Values by task, provider and `<valueFrom>_<region>`."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], dict[str, str]] = {}

    def keep(self, arn: str, provider: str, values: Mapping[str, str]) -> None:
        """Remember what was fetched for a task."""
        self._values[(arn, provider)] = dict(values)

    def drop(self, arn: str, provider: str) -> None:
        """Forget it."""
        self._values.pop((arn, provider), None)

    def forget(self, arn: str) -> None:
        """Forget all values of a task."""
        for provider in NAMES:
            self.drop(arn, provider)

    def of(self, arn: str, secret: Secret) -> str:
        """The value, "" when the provider had none under this name. Raises NotFetched."""
        if secret.provider not in NAMES:
            return ""
        values = self._values.get((arn, secret.provider))
        if values is None:
            raise NotFetched(secret)
        return values.get(key_of(secret), "")


def key_of(secret: Secret) -> str:
    """Under which name the value is kept."""
    return f"{secret.value_from}_{secret.region}"


def logs_by_firelens(container: Container) -> bool:
    """Does the task definition give this container the log driver awsfirelens?"""
    return str(folded(folded(host_config(container)).get("logconfig")).get("type") or "") == AWSFIRELENS


def log_secrets(container: Container) -> list[Secret]:
    """The secrets that are log options."""
    return [s for s in container.secrets if s.target == LOG_DRIVER and s.type != ENVIRONMENT]


def router_that_needs(task: Task, provider: str) -> str:
    """The name of the FireLens router when it must know log options from this provider, else ""."""
    router = next((c for c in task.containers if c.firelens is not None and not c.is_internal), None)
    needed = any(s.provider == provider for c in task.containers if logs_by_firelens(c) for s in log_secrets(c))
    return router.name if router is not None and needed else ""


def populate(draft: Draft, values: SecretValues) -> None:
    """Secrets into the environment, over equal names of the definition, and into the log options. Raises Refused."""
    from services.engine.docker.draft import Refused

    log_driver = (draft.host.get("LogConfig") or {}).get("Type")
    for secret in draft.container.secrets:
        try:
            value = values.of(draft.task.arn, secret)
        except NotFetched as error:
            what = f"task secret data: unable to fetch {NAMES[error.secret.provider]} Secrets resource"
            raise Refused("DockerClientConfigError", what) from error
        if secret.type == ENVIRONMENT:
            draft.environment[secret.name] = value
        elif (
            secret.target == LOG_DRIVER
            and log_driver
            and secret.name
            and value
            and not logs_by_firelens(draft.container)
        ):
            draft.log_config["Config"][secret.name] = value
