"""Secrets Manager: secrets of containers (kind `asmsecret`) and registry credentials (kind `asm-auth`).

ECS agent behaviour, spec 05 §6.3 and §7. The values stay in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from common.model.agent import Credentials
from common.model.task import Resource, Secret, Task
from common.wire.gojson import Pairs
from services.engine.docker.overlay import BadOverlay
from services.engine.resources import aws, go_json
from services.engine.resources.kind import Host, ResourceFailed
from services.engine.resources.secret_values import SecretValues, key_of, router_that_needs

if TYPE_CHECKING:
    from services.engine.docker.draft import Draft

SECRETS_KIND = "asmsecret"
AUTH_KIND = "asm-auth"
PROVIDER = "asm"
BAD_ARN = "an invalid ARN format for the AWS Secrets Manager secret was specified. Specify a valid ARN and try again."


class Reference(Struct, frozen=True):
    """What a `valueFrom` means."""

    secret_id: str
    json_key: str = ""
    version_stage: str = ""
    version_id: str = ""

    @property
    def arguments(self) -> dict[str, str]:
        """The arguments of GetSecretValue."""
        wanted = {"SecretId": self.secret_id, "VersionStage": self.version_stage, "VersionId": self.version_id}
        return {name: value for name, value in wanted.items() if value}


def parse_reference(value_from: str) -> Reference:
    """`<ARN>` or `<ARN>:<json key>:<version stage>:<version id>`. Raises ValueError with the text of the wire."""
    if not value_from.startswith("arn:"):
        raise ValueError("arn: invalid prefix")
    sections = value_from.split(":", 5)
    if len(sections) != 6:
        raise ValueError("arn: not enough sections")
    parts = sections[5].split(":")
    if len(parts) == 2:
        return Reference(value_from)
    if len(parts) != 5:
        raise ValueError(BAD_ARN)
    secret_id = ":".join([*sections[:5], *parts[:2]])
    return Reference(secret_id, json_key=parts[2], version_stage=parts[3], version_id=parts[4])


def value_of(answer: Mapping[str, Any], json_key: str) -> str:
    """The value of a secret, or of one key of it. Raises ResourceFailed."""
    text = answer.get("SecretString")
    if not json_key:
        return str(text or "")
    if text is None:
        raise ResourceFailed(f"secret {answer.get('ARN') or ''} is binary and has no json key {json_key}")
    try:
        document = go_json.decode(str(text))
        if document is not None and not isinstance(document, Pairs):
            kind = go_json.kind_of(document)
            raise BadOverlay(f"json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}")
    except BadOverlay as error:
        raise ResourceFailed(str(error)) from error
    members = dict(document or ())
    if json_key not in members:
        raise ResourceFailed(f"retrieved secret from Secrets Manager did not contain json key {json_key}")
    return go_json.printed(members[json_key])


class AsmSecrets:
    """The kind `asmsecret`."""

    name = SECRETS_KIND

    def __init__(self, values: SecretValues) -> None:
        self.values = values

    def prepare(self, task: Task, host: Host) -> list[Resource]:
        """One resource for all secrets of the task."""
        if not _secrets(task):
            return []
        detail = {"router": router_that_needs(task, PROVIDER)}
        return [Resource(kind=SECRETS_KIND, name=SECRETS_KIND, needs_execution_credentials=True, detail=detail)]

    def create(self, task: Task, resource: Resource, host: Host) -> dict[str, Any]:
        """One GetSecretValue for each secret, all at once; the errors are joined."""
        role = aws.execution_role(task, host)
        if role is None:
            raise ResourceFailed("ASM secret resource: unable to find execution role credentials")
        wanted = _secrets(task)
        clients = {region: client_in(region, role) for region in dict.fromkeys(s.region for s in wanted.values())}
        found = aws.in_parallel([partial(_settled, clients[secret.region], secret) for secret in wanted.values()])
        failures = [failure for _, failure in found if failure]
        if failures:
            raise ResourceFailed(";".join(failures))
        self.values.keep(task.arn, PROVIDER, {key: value for key, (value, _) in zip(wanted, found, strict=True)})
        return {}

    def cleanup(self, task: Task, resource: Resource, host: Host) -> None:
        """Forget the values."""
        self.values.drop(task.arn, PROVIDER)

    def amend(self, draft: Draft, resource: Resource) -> None:
        """Nothing: the registry applies the secrets of both providers at once, in the order of the definition."""


def _secrets(task: Task) -> dict[str, Secret]:
    """The secrets of the task, each once."""
    return {key_of(s): s for c in task.containers for s in c.secrets if s.provider == PROVIDER}


def client_in(region: str, role: Credentials) -> aws.Client:
    """Secrets Manager in a region. Raises ResourceFailed."""
    try:
        return aws.Client("secretsmanager", region, role)
    except aws.AwsError as error:
        raise ResourceFailed(f"unable to create ASM client: {error}") from error


def _settled(client: aws.Client, secret: Secret) -> tuple[str, str]:
    """(value, "") or ("", what went wrong)."""
    try:
        return _fetch(client, secret), ""
    except ResourceFailed as failure:
        return "", str(failure)


def _fetch(client: aws.Client, secret: Secret) -> str:
    try:
        reference = parse_reference(secret.value_from)
    except ValueError as error:
        what = f"trying to retrieve secret with value {secret.value_from} resulted in error: {error}"
        raise ResourceFailed(what) from error
    try:
        with aws.deadline(aws.CALL_SECONDS):
            answer = client.call("get_secret_value", None, **reference.arguments)
    except aws.AwsError as error:
        if error.code != "ResourceNotFoundException":
            raise ResourceFailed(f"secret {reference.secret_id}: {error}: {error}") from error
        raise ResourceFailed(
            f"ResourceNotFoundException: The task can't retrieve the secret with ARN '{reference.secret_id}' from AWS "
            f"Secrets Manager. Check whether the secret exists in the specified Region: {error}"
        ) from error
    return value_of(answer, reference.json_key)


# -- registry credentials ----------------------------------------------------------------------


class RegistryCredentials:
    """The kind `asm-auth`."""

    name = AUTH_KIND

    def __init__(self) -> None:
        self._auths: dict[str, dict[str, dict[str, str]]] = {}  # task ARN -> credentialsParameter -> Docker auth

    def prepare(self, task: Task, host: Host) -> list[Resource]:
        """One resource for all registries of the task."""
        if not _parameters(task):
            return []
        return [Resource(kind=AUTH_KIND, name=AUTH_KIND, needs_execution_credentials=True)]

    def create(self, task: Task, resource: Resource, host: Host) -> dict[str, Any]:
        """GetSecretValue for each parameter, one after the other; the first error ends it."""
        role = aws.execution_role(task, host)
        if role is None:
            raise ResourceFailed("asm resource: unable to find execution role credentials")
        found = {parameter: _auth(parameter, region, role) for parameter, region in _parameters(task).items()}
        self.keep(task.arn, found)
        return {}

    def cleanup(self, task: Task, resource: Resource, host: Host) -> None:
        """Forget them."""
        self.forget(task.arn)

    def keep(self, arn: str, found: Mapping[str, dict[str, str]]) -> None:
        """Remember what was fetched for a task: Docker credentials by parameter."""
        self._auths[arn] = dict(found)

    def forget(self, arn: str) -> None:
        """Forget the credentials that were fetched for a task."""
        self._auths.pop(arn, None)

    def amend(self, draft: Draft, resource: Resource) -> None:
        """Nothing: they are for pulls."""

    def auth(self, task: Task, parameter: str) -> dict[str, str] | None:
        """The Docker credentials that were fetched for a task, or None."""
        found = self._auths.get(task.arn, {}).get(parameter)
        return None if found is None else dict(found)


def _parameters(task: Task) -> dict[str, str]:
    """credentialsParameter -> region; a parameter is fetched once, whatever its other regions."""
    found: dict[str, str] = {}
    for container in task.containers:
        wanted = container.registry_auth
        if wanted is not None and wanted.type == "asm":
            found.setdefault(wanted.credentials_parameter, wanted.region)
    return found


def _auth(parameter: str, region: str, role: Credentials) -> dict[str, str]:
    client = client_in(region, role)
    try:
        with aws.deadline(aws.CALL_SECONDS):
            answer = client.call("get_secret_value", SecretId=parameter)
    except aws.AwsError as error:
        raise ResourceFailed(f"asm fetching secret from the service for {parameter}: {error}") from error
    if not answer:
        raise ResourceFailed("asm fetching authorization data: empty response")
    return parse_auth(str(answer.get("SecretString") or ""))


def parse_auth(text: str) -> dict[str, str]:
    """The Docker credentials in a secret's JSON, whose keys match in any case. Raises ResourceFailed."""
    prefix = "asm fetching authorization data: "
    if not text:
        raise ResourceFailed(f"{prefix}empty secrets value")
    malformed = ResourceFailed(f"{prefix}unable to unmarshal secret value, invalid schema")
    try:
        document = go_json.decode(text)
    except BadOverlay as error:
        raise malformed from error
    if document is not None and not isinstance(document, Pairs):
        raise malformed
    found = {"username": "", "password": ""}
    for key, value in document or ():
        name = key.casefold()
        if name in found and value is not None:
            if not isinstance(value, str):
                raise malformed
            found[name] = value
    for name, value in found.items():
        if not value:
            raise ResourceFailed(f"asm fetching {name}: AuthorizationData is malformed, empty field")
    return found
