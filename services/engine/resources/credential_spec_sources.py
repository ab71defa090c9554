"""Where a credential spec comes from, and what of it counts (spec 05 §10.1, §10.2).

A task definition names a spec as `credentialspec:<place>` or, for accounts of instances that have joined no domain, as
`credentialspecdomainless:<place>`. The place is a file of this host, an object of S3 or a parameter of SSM; the spec is
JSON. Of several failures the first is told; those of calls to SSM are told together, and only if there is no other.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from msgspec import Struct

from common.model.agent import Credentials
from common.model.task import Container, Task
from common.wire.gojson import Pairs
from services.engine.core.hosts import folded, host_config
from services.engine.docker.overlay import BadOverlay
from services.engine.resources import aws, files, go_json, s3, ssm
from services.engine.resources.kind import Host, ResourceFailed

JOINED, DOMAINLESS = "credentialspec:", "credentialspecdomainless:"
FILE = "file://"
LONGEST = 1 << 20  # bytes; a spec has about one thousand
NO_ROLE = "credentialspec resource: unable to find execution role credentials"
NOT_SHOWN = "(a SecureString, not shown)"
_STRING_OR_BLANKS = re.compile(r'("(?:[^"\\]|\\.)*")|[ \t\r\n]+')

ACCOUNT = ("DomainJoinConfig", "MachineAccountName")
DOMAIN = ("DomainJoinConfig", "DnsName")
SECRET = ("ActiveDirectoryConfig", "HostAccountConfig", "PluginInput", "CredentialArn")


class CallFailed(ResourceFailed):
    """A failure that is told together with others of its sort."""


class Spec(Struct, frozen=True, kw_only=True):
    """A credential spec that was read. `name` is what the task definition calls it."""

    name: str
    content: str
    account: str = ""
    domain: str = ""
    secret_arn: str = ""  # where the user and the password of a domainless account are

    @property
    def is_domainless(self) -> bool:
        """Whether the tickets are got with a user's password."""
        return self.name.startswith(DOMAINLESS)

    @property
    def names_an_account(self) -> bool:
        """Without one there are no tickets, and no error: the container that needs them tells it."""
        return bool(self.account and self.domain)


def name_for(container: Container) -> str:
    """The credential spec of a container as its definition names it, or ""."""
    for name in container.credential_specs:
        if name.startswith((JOINED, DOMAINLESS)):
            return name
    options = folded(host_config(container)).get("securityopt")
    named = (o for o in (options if isinstance(options, list) else ()) if isinstance(o, str) and o.startswith(JOINED))
    return next(named, "")


def names_in(task: Task) -> list[str]:
    """The credential specs of a task, each once."""
    return list(dict.fromkeys(name for name in map(name_for, task.containers) if name))


def place_of(name: str) -> str:
    """What follows the prefix."""
    return name.partition(":")[2]


def is_file(name: str) -> bool:
    """Whether the spec is a file of this host, for which no role is needed."""
    return place_of(name).startswith(FILE)


def read_all(names: Iterable[str], role: Credentials | None, host: Host) -> list[Spec]:
    """Read the specs, all at once. Raises ResourceFailed with the reason of the task."""
    readers = [partial(_settled, name, _reader(name, role, host)) for name in names]
    found = aws.in_parallel(readers)
    failures = [failure for failure in found if isinstance(failure, ResourceFailed)]
    alone = next((f for f in failures if not isinstance(f, CallFailed)), None)
    if alone is not None:
        raise alone
    if failures:
        raise ResourceFailed(";".join(map(str, failures)))
    return [spec for spec in found if isinstance(spec, Spec)]


def _settled(name: str, read: Callable[[], Spec]) -> Spec | ResourceFailed:
    try:
        return read()
    except ResourceFailed as failure:
        return failure


def _reader(name: str, role: Credentials | None, host: Host) -> Callable[[], Spec]:
    """How to read a spec. Raises ResourceFailed for a place that is none."""
    place = place_of(name)
    if place.startswith(FILE):
        return partial(_from_file, name, place.removeprefix(FILE))
    if not place.startswith("arn:"):
        raise ResourceFailed("arn: invalid prefix")
    sections = place.split(":", 5)
    if len(sections) != 6:
        raise ResourceFailed("arn: not enough sections")
    if sections[2] == "s3":
        return partial(_from_s3, name, place, role, host)
    if sections[2] == "ssm":
        return partial(_from_ssm, name, sections[5], role, host)
    raise ResourceFailed("unsupported credentialspec ARN, only s3/ssm ARNs are valid")


# -- the three places ------------------------------------------------------------------------------


def _from_file(name: str, path: str) -> Spec:
    try:
        # A pipe or a device would be waited for, or read for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ResourceFailed(f"open {path}: not a regular file")
            content = file.read(LONGEST + 1)
    except (OSError, ValueError) as error:
        text = files.said("open", path, error) if isinstance(error, OSError) else f"open {path}: {error}"
        raise ResourceFailed(text) from error
    if len(content) > LONGEST:
        raise ResourceFailed(f"read {path}: more than {LONGEST} bytes")
    return parse(name, content.decode(errors="replace"))


def _from_s3(name: str, arn: str, role: Credentials | None, host: Host) -> Spec:
    if role is None:
        raise ResourceFailed(NO_ROLE)
    try:
        wanted = s3.parse_arn(arn)
        content = s3.content(s3.client_for(wanted.bucket, role, host), wanted, LONGEST)
    except (aws.AwsError, ValueError) as error:
        raise ResourceFailed(str(error)) from error
    spec = parse(name, content.decode(errors="replace"))
    return Spec(
        name=name, content=compacted(spec.content), account=spec.account, domain=spec.domain,
        secret_arn=spec.secret_arn,
    )  # fmt: skip


def compacted(text: str) -> str:
    """JSON without the blanks between its parts."""
    return _STRING_OR_BLANKS.sub(lambda match: match[1] or "", text)


def _from_ssm(name: str, resource: str, role: Credentials | None, host: Host) -> Spec:
    if role is None:
        raise ResourceFailed(NO_ROLE)
    _, there, parameter = resource.partition("parameter")
    if not there:
        raise ResourceFailed(f"the provided SSM parameter:{resource} is in an invalid format")
    try:
        client = aws.Client("ssm", host.region, role, dual_stack=host.settings.ipv6_only)
    except aws.AwsError as error:
        raise CallFailed(f"unable to create SSM client: {error}") from error
    try:
        found = ssm.parameters(client, [parameter])
    except aws.AwsError as error:
        # The reference prints an empty map where the region belongs.
        raise CallFailed(f"fetching secret data from SSM Parameter Store in map[]: {error}") from error
    answer = found[0] if found else {}
    # It may be a password that was named by mistake.
    shown = NOT_SHOWN if answer.get("Type") == "SecureString" else None
    return parse(name, str(answer.get("Value") or ""), shown)


# -- what counts of it -----------------------------------------------------------------------------


def parse(name: str, content: str, shown: str | None = None) -> Spec:
    """The spec in a JSON text; `shown` stands for the text in errors. Raises ResourceFailed."""
    try:
        document = go_json.decode(content)
        spec = Spec(name=name, content=content, account=_text(document, ACCOUNT), domain=_text(document, DOMAIN))
        if not spec.is_domainless:
            return spec
        return Spec(
            name=name, content=content, account=spec.account, domain=spec.domain, secret_arn=_text(document, SECRET)
        )
    except BadOverlay as error:
        said = content if shown is None else shown
        sort = "Error unmarshalling credentialspec domain-joined"
        if name.startswith(DOMAINLESS):
            sort = "error unmarshalling credentialspec domainless"
        raise ResourceFailed(f"{sort} {said} : {error}") from error


def _text(document: Any, path: tuple[str, ...]) -> str:
    """The text at a path of names, which match in any case; "" when nothing is there. Raises BadOverlay."""
    value, where = document, "CredentialSpec"
    for name in path:
        if value is None:
            return ""
        if not isinstance(value, Pairs):
            raise BadOverlay(f"json: cannot unmarshal {go_json.kind_of(value)} into Go value of type {where}")
        members = [member for key, member in value if key.casefold() == name.casefold()]
        value, where = members[-1] if members else None, name
    if value is not None and not isinstance(value, str):
        raise BadOverlay(
            f"json: cannot unmarshal {go_json.kind_of(value)} into Go struct field .{where} of type string"
        )
    return value or ""
