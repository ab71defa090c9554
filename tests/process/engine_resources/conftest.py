"""A fake AWS, the agent's kinds with their real client, and tasks that need them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.model.agent import Credentials, DockerFacts
from common.model.task import Container, Resource, Task
from services.engine.docker.settings import Settings
from services.engine.resources import roles
from services.engine.resources.environment_files import EnvironmentFiles
from services.engine.resources.firelens import Firelens
from services.engine.resources.kind import Host, ResourceFailed, Volumes
from services.engine.resources.registry import Registry
from services.engine.resources.secret_values import SecretValues
from services.engine.resources.secrets_manager import AsmSecrets, RegistryCredentials
from services.engine.resources.ssm import SsmSecrets
from tests.fakes.aws import FakeAws

ID = "0123456789abcdef0123456789abcdef"
ARN = f"arn:aws:ecs:us-west-2:123456789012:task/default/{ID}"
EXECUTION_ROLE = "execution-role"


class Bench:
    """Resources of one task, made and removed as the engine's hands do it."""

    def __init__(self, tmp: Path) -> None:
        self.values = SecretValues()
        self.registry = Registry(
            RegistryCredentials(), SsmSecrets(self.values), AsmSecrets(self.values),
            Firelens(self.values, in_container=lambda: True), EnvironmentFiles(),
        )  # fmt: skip
        self.data_dir = tmp
        self.roles = {
            EXECUTION_ROLE: Credentials(
                credentials_id=EXECUTION_ROLE, task_arn=ARN, role_type="TaskExecution", access_key_id="AKIDEXEC",
                secret_access_key="k", session_token="t",
            )
        }  # fmt: skip
        unused: Volumes = None  # type: ignore[assignment]
        self.host = Host(
            Settings(data_dir=str(tmp)), DockerFacts(), unused, self.roles.get, region="us-west-2", cluster="default"
        )

    def task(self, *containers: Container, **fields: Any) -> Task:
        """A task of these containers with its resources."""
        task = Task(
            arn=ARN, family="web", version="7", containers=containers, execution_credentials_id=EXECUTION_ROLE,
            **fields,
        )  # fmt: skip
        from msgspec.structs import replace

        return replace(task, resources=self.registry.resources_for(task, self.host))

    def create(self, task: Task) -> dict[str, Any]:
        """Create the task's only resource."""
        [resource] = task.resources
        return self.registry.create(task, resource, self.host)

    def failure(self, task: Task) -> str:
        """The reason that its creation fails with."""
        with pytest.raises(ResourceFailed) as caught:
            self.create(task)
        return str(caught.value)

    def cleanup(self, task: Task, resource: Resource | None = None) -> None:
        """Remove a resource of the task, the only one if none is named."""
        self.registry.cleanup(task, resource or task.resources[0], self.host)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAws]:
    """The fake AWS, which the environment names; role credentials that are absent are not waited for."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDINSTANCE")  # must never be used for a task
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "instance")
    monkeypatch.setattr(roles, "CREDENTIALS_SECONDS", 0.0)
    with FakeAws().serving(monkeypatch) as fake:
        yield fake


@pytest.fixture
def bench(tmp_path: Path, cloud: FakeAws) -> Bench:
    """Kinds without values, and an empty data directory."""
    return Bench(tmp_path)
