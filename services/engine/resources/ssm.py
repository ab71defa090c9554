"""Secrets from SSM Parameter Store: the kind `ssmsecret` (spec 05 §6.2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from common.model.agent import Credentials
from common.model.task import Resource, Task
from services.engine.resources import aws
from services.engine.resources.kind import Host, ResourceFailed
from services.engine.resources.secret_values import SecretValues, router_that_needs

if TYPE_CHECKING:
    from services.engine.docker.draft import Draft

KIND = NAME = "ssmsecret"
PROVIDER = "ssm"
BATCH = 10  # GetParameters takes no more names


def batches(task: Task) -> list[tuple[str, list[str]]]:
    """(region, names) of each call: names as they stand in the definition, repeated ones included."""
    names: dict[str, list[str]] = {}
    for container in task.containers:
        for secret in container.secrets:
            if secret.provider == PROVIDER:
                names.setdefault(secret.region, []).append(secret.value_from)
    return [(region, found[at : at + BATCH]) for region, found in names.items() for at in range(0, len(found), BATCH)]


class SsmSecrets:
    """The kind `ssmsecret`."""

    name = KIND

    def __init__(self, values: SecretValues) -> None:
        self.values = values

    def prepare(self, task: Task, host: Host) -> list[Resource]:
        """One resource for all parameters of the task."""
        if not batches(task):
            return []
        detail = {"router": router_that_needs(task, PROVIDER)}
        return [Resource(kind=KIND, name=NAME, needs_execution_credentials=True, detail=detail)]

    def create(self, task: Task, resource: Resource, host: Host) -> dict[str, Any]:
        """GetParameters, all batches at once."""
        role = aws.execution_role(task, host)
        if role is None:
            raise ResourceFailed("ssm secret resource: unable to find execution role credentials")
        wanted = batches(task)
        clients = {region: _client(region, role, host) for region, _ in wanted}
        calls = [partial(_fetch, clients[region], names) for region, names in wanted]
        found: dict[str, str] = {}
        for values in aws.in_parallel(calls):
            found.update(values)
        self.values.keep(task.arn, PROVIDER, found)
        return {}

    def cleanup(self, task: Task, resource: Resource, host: Host) -> None:
        """Forget the values."""
        self.values.drop(task.arn, PROVIDER)

    def amend(self, draft: Draft, resource: Resource) -> None:
        """Nothing: the registry applies the secrets of both providers at once, in the order of the definition."""


def _client(region: str, role: Credentials, host: Host) -> aws.Client:
    try:
        return aws.Client("ssm", region, role, dual_stack=host.settings.ipv6_only)
    except aws.AwsError as error:
        raise ResourceFailed(f"unable to create SSM client in {region}: {error}") from error


def _fetch(client: aws.Client, names: Sequence[str]) -> dict[str, str]:
    try:
        found = parameters(client, names)
    except aws.AwsError as error:
        raise ResourceFailed(f"fetching secret data from SSM Parameter Store in {client.region}: {error}") from error
    return {f"{p.get('Name', '')}_{client.region}": str(p.get("Value") or "") for p in found}


def parameters(client: aws.Client, names: Sequence[str]) -> list[dict[str, Any]]:
    """The parameters of these names, decrypted. Raises AwsError, also when one of them does not exist."""
    with aws.deadline(aws.CALL_SECONDS):
        answer = client.call("get_parameters", Names=list(names), WithDecryption=True)
    if not answer:
        raise aws.AwsError("empty response")
    invalid = answer.get("InvalidParameters") or []
    if invalid:
        raise aws.AwsError(f"invalid parameters: {','.join(invalid)}")
    return list(answer.get("Parameters") or [])
