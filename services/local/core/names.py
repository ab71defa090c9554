"""ARNs, and the short names that clients may use in their place.

Every parameter that names a thing takes either form (ECS API reference). Account and region are fixed for the life of
the control plane: there is one account on a laptop.
"""

from __future__ import annotations

import re
import uuid

from msgspec import Struct

from services.local.core.errors import ApiError, client, invalid

ACCOUNT = "000000000000"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
_ID = re.compile(r"[0-9a-f]{32}")


class Names(Struct, frozen=True):
    """Makes and reads the ARNs of one account in one region."""

    region: str
    account: str = ACCOUNT

    @property
    def partition(self) -> str:
        """`aws`, or that of the region's part of the world."""
        if self.region.startswith("cn-"):
            return "aws-cn"
        return "aws-us-gov" if self.region.startswith("us-gov-") else "aws"

    def arn(self, kind: str, rest: str) -> str:
        """arn:aws:ecs:<region>:<account>:<kind>/<rest>."""
        return f"arn:{self.partition}:ecs:{self.region}:{self.account}:{kind}/{rest}"

    def cluster(self, name: str) -> str:
        """The ARN of a cluster."""
        return self.arn("cluster", name)

    def instance(self, cluster: str, id_: str) -> str:
        """The ARN of a container instance, in the long form."""
        return self.arn("container-instance", f"{cluster}/{id_}")

    def task(self, cluster: str, id_: str) -> str:
        """The ARN of a task, in the long form."""
        return self.arn("task", f"{cluster}/{id_}")

    def container(self, cluster: str, task_id: str, id_: str) -> str:
        """The ARN of a container, in the long form."""
        return self.arn("container", f"{cluster}/{task_id}/{id_}")

    def definition(self, family: str, revision: int) -> str:
        """The ARN of a task definition."""
        return f"arn:{self.partition}:ecs:{self.region}:{self.account}:task-definition/{family}:{revision}"


def new_id() -> str:
    """32 hexadecimal digits, as the ids of tasks and container instances."""
    return uuid.uuid4().hex


def last_part(name_or_arn: str) -> str:
    """`web` of `web` and of `arn:…:cluster/web`."""
    return name_or_arn.rsplit("/", 1)[-1]


def cluster_name(value: str | None) -> str:
    """The short name of the cluster that a request names; `default` when it names none.

    Raises InvalidParameterException for a name that no cluster can have.
    """
    name = last_part(value) if value else "default"
    if not _NAME.fullmatch(name):
        raise invalid("Identifier was incorrectly formatted: cluster name or ARN expected.")
    return name


def resource_id(value: str, kind: str) -> str:
    """The 32-digit id in an id or ARN of a task or container instance; InvalidParameterException when there is none."""
    if value.startswith("arn:") and f":{kind}/" not in value:
        raise invalid(f"The {kind} identifier is not valid: {value}")
    id_ = last_part(value)
    if not value.startswith("arn:") and not _ID.fullmatch(id_) and not re.fullmatch(r"[0-9a-f-]{36}", id_):
        noun = kind.replace("-", "")
        raise invalid(f"Invalid identifier: {noun}Id length should be one of [32,36]")
    return id_


def family_and_revision(value: str) -> tuple[str, int | None]:
    """(`web`, 3) of `web:3` and its ARN, (`web`, None) of `web`. ClientException when the revision is no number."""
    family, _, revision = last_part(value).partition(":")
    if not revision:
        return family, None
    if not revision.isdigit():
        raise client(f"Invalid revision number. Number: {revision}")
    return family, int(revision)


def check_name(value: str, what: str) -> str:
    """`value` if it is letters, digits, hyphens and underscores, at most 255; else ClientException naming `what`."""
    if len(value) > 255:
        raise client(f"{what} is too long: {len(value)} characters, 255 at most.")
    if not _NAME.fullmatch(value):
        raise ApiError("ClientException", f"{what} contains invalid characters.")
    return value
