"""All kinds of task resources, and what a task may need from a kind that is not there.

A new kind plugs in by `Registry.add`. A task that needs a kind which this agent does not have is refused with a clear
reason: running it without its secrets or its volume would be worse than not running it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from common.model.status import ResourceStatus
from common.model.task import Resource, Task
from services.engine.core.effects import SetupError
from services.engine.core.prepare import set_order
from services.engine.docker import gpu
from services.engine.resources import cgroup, service_connect
from services.engine.resources.cgroup import TaskCgroups
from services.engine.resources.credential_spec_sources import names_in
from services.engine.resources.credential_specs import CredentialSpecs
from services.engine.resources.credentials_fetcher import Fetcher
from services.engine.resources.environment_files import EnvironmentFiles
from services.engine.resources.firelens import Firelens
from services.engine.resources.kind import Host, ResourceFailed, ResourceKind
from services.engine.resources.secret_values import SecretValues, populate
from services.engine.resources.secrets_manager import AUTH_KIND, AsmSecrets, RegistryCredentials
from services.engine.resources.ssm import SsmSecrets
from services.engine.resources.volume import DockerVolumes

if TYPE_CHECKING:
    from services.engine.docker.draft import Draft

log = logging.getLogger(__name__)

# The orders of set-up (spec 05 §1.3) and of amending create requests (spec 05 §1.7); other kinds come last.
SET_UP = (
    "cgroup", service_connect.KIND, "order", "asm-auth", "ssmsecret", "asmsecret", "dockerVolume", "gpu", "firelens",
    "credentialspec", "envfile",
)  # fmt: skip
SECRETS = "secrets"  # no kind: a secret whose provider nobody knows has no resource, and still sets its variable
AMEND = (service_connect.KIND, "firelens", SECRETS, "credentialspec", "envfile")

NAMED_BY_AGENT = frozenset(SET_UP) - {"dockerVolume"}

Needs = Callable[[Task], bool]


def _secret_from(provider: str) -> Needs:
    return lambda task: any(s.provider == provider for c in task.containers for s in c.secrets)


def _volume_of(*types: str) -> Needs:
    return lambda task: any(v.type in types for v in task.volumes)


# need -> (who has it, what it is in words); most are called like the kind that serves them
NEEDS: dict[str, tuple[Needs, str]] = {
    "asm-auth": (
        lambda task: any(c.registry_auth is not None and c.registry_auth.type == "asm" for c in task.containers),
        "registry credentials from Secrets Manager",
    ),
    "ssmsecret": (_secret_from("ssm"), "secrets from SSM Parameter Store"),
    "asmsecret": (_secret_from("asm"), "secrets from Secrets Manager"),
    "envfile": (lambda task: any(c.environment_files for c in task.containers), "environment files"),
    "firelens": (lambda task: any(c.firelens is not None for c in task.containers), "a FireLens log router"),
    "credentialspec": (
        lambda task: bool(names_in(task)),
        "credential specs (gMSA)",
    ),
    "efs": (_volume_of("efs"), "Amazon EFS volumes"),
    "s3files": (_volume_of("s3files"), "Amazon S3 Files volumes"),
    "fsxWindowsFileServer": (_volume_of("fsxWindowsFileServer"), "FSx for Windows File Server volumes"),
    "awsvpc": (lambda task: task.network_mode == "awsvpc", "network mode awsvpc (task network interfaces)"),
}
# Steps of the set-up that need nothing and find faults: of several faults in a task the first in order is told.
CHECKS: dict[str, Callable[[Task, Host], object]] = {
    "order": lambda task, host: set_order(task),
    "gpu": lambda task, host: gpu.check(task, host.settings),
}
SERVED_BY = {"efs": "dockerVolume", "s3files": "dockerVolume"}  # need -> kind, where the names differ


def _distinct(task: Task, resource: Resource) -> Resource:
    """The resource under a name that no volume of the task has: people call volumes as they like."""
    if resource.kind not in NAMED_BY_AGENT or all(resource.name != v.name for v in task.volumes):
        return resource
    return replace(resource, name=f"{resource.kind}:{resource.name}")


def standard(credential_specs: CredentialSpecs | None = None) -> tuple[ResourceKind, ...]:
    """The kinds of this agent. Both secret kinds and the log router share the values, which are in memory only.

    Without `credential_specs` there is no credentials fetcher: a task that needs one stops and says so.
    """
    values = SecretValues()
    return (
        TaskCgroups(),
        service_connect.ServiceConnect(),
        RegistryCredentials(),
        SsmSecrets(values),
        AsmSecrets(values),
        DockerVolumes(),
        Firelens(values),
        credential_specs or CredentialSpecs(Fetcher("")),
        EnvironmentFiles(),
    )


class Registry:
    """The kinds by name."""

    def __init__(self, *kinds: ResourceKind) -> None:
        self._kinds: dict[str, ResourceKind] = {}
        self._values = SecretValues()
        for kind in kinds or standard():
            self.add(kind)

    def add(self, kind: ResourceKind) -> None:
        """Plug in a kind."""
        self._kinds[kind.name] = kind
        if isinstance(kind, SsmSecrets | AsmSecrets):
            self._values = kind.values  # both have the same

    def resources_for(self, task: Task, host: Host) -> tuple[Resource, ...]:
        """The resources that the task needs, in the order of set-up. Raises SetupError with the cause."""
        for need, (needs, words) in NEEDS.items():
            if SERVED_BY.get(need, need) not in self._kinds and needs(task):
                raise SetupError(f"the task needs {words}, which this agent does not support")
        found: list[Resource] = []
        for step in dict.fromkeys((*SET_UP, *self._kinds)):
            if step in CHECKS:
                CHECKS[step](task, host)
            elif step in self._kinds:
                found += self._kinds[step].prepare(task, host)
        return tuple(_distinct(task, resource) for resource in found)

    def create(self, task: Task, resource: Resource, host: Host) -> dict[str, Any]:
        """Make a resource; returns what belongs into its detail. Raises ResourceFailed."""
        return self._kind(resource).create(task, resource, host)

    def ensure(self, task: Task, host: Callable[[], Host]) -> None:
        """Make again what a container needs at its start and the host may have lost. Raises ResourceFailed."""
        cgroups = self._kinds.get(cgroup.KIND)
        for resource in task.resources:
            was_made = resource.kind == cgroup.KIND and resource.known == ResourceStatus.CREATED
            if was_made and isinstance(cgroups, TaskCgroups):
                cgroups.ensure(task, resource, host())

    def cleanup(self, task: Task, resource: Resource, host: Host) -> None:
        """Remove a resource. Raises ResourceFailed."""
        self._kind(resource).cleanup(task, resource, host)

    def amend(self, draft: Draft) -> None:
        """Let the task's secrets and every resource add their part to a create request, in order. Raises Refused."""
        for name in dict.fromkeys((*AMEND, *self._kinds)):
            if name == SECRETS:
                populate(draft, self._values)
            for resource in draft.task.resources:
                if resource.kind == name and name in self._kinds:
                    self._kinds[name].amend(draft, resource)

    def forget(self, task: Task) -> None:
        """Drop the secrets and passwords that were fetched for a task; the rest of what was made for it stays."""
        self._values.forget(task.arn)
        auths = self._kinds.get(AUTH_KIND)
        if isinstance(auths, RegistryCredentials):
            auths.forget(task.arn)

    def asm_auth(self, task: Task, parameter: str) -> dict[str, str] | None:
        """Docker credentials that were fetched from Secrets Manager for a task, or None."""
        kind = self._kinds.get(AUTH_KIND)
        return kind.auth(task, parameter) if isinstance(kind, RegistryCredentials) else None

    def _kind(self, resource: Resource) -> ResourceKind:
        kind = self._kinds.get(resource.kind)
        if kind is None:
            raise ResourceFailed(f"Unsupported resource type {resource.kind}")
        return kind
