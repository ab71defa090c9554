"""From a task of a payload to the Task the engine works with (ECS agent behaviour, spec 02 §2.4-2.9 and §4.2).

Tolerant at the border, strict inside: `parse_task` takes any JSON value, lets only the known members pass, and raises
InvalidTask with the text that ECS gets to see when the task cannot be run. Nothing here has effects: credentials are
returned by `role_credentials`, to be stored by the caller.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from common.model.agent import Credentials
from common.model.status import TaskStatus
from common.model.task import Association, Proxy, Task
from common.wire.attachments import parse_attachments
from common.wire.containers import parse_container
from common.wire.interfaces import parse_interface
from common.wire.invalid import InvalidTask
from common.wire.messages import TASK
from common.wire.shapes import Mismatch
from common.wire.volumes import parse_volumes

__all__ = ["InvalidTask", "parse_task", "role_credentials"]

log = logging.getLogger(__name__)

DESIRED = {
    "NONE": TaskStatus.NONE,
    "MANIFEST_PULLED": TaskStatus.MANIFEST_PULLED,
    "CREATED": TaskStatus.CREATED,
    "RUNNING": TaskStatus.RUNNING,
    "STOPPED": TaskStatus.STOPPED,
    "UNKNOWN": TaskStatus.NONE,  # names that older control planes use
    "DEAD": TaskStatus.STOPPED,
}
ROLES = (("roleCredentials", "TaskApplication"), ("executionRoleCredentials", "TaskExecution"))
NETWORK_MODES = ("awsvpc", "host", "bridge", "none")
METADATA_ADDRESSES = ("169.254.170.2", "169.254.169.254")  # never sent through a task's proxy


def parse_task(member: Any) -> Task:
    """The task that `member` (one element of a payload's `tasks`) describes. Raises InvalidTask, and nothing else."""
    try:
        value = TASK(member)
    except (Mismatch, RecursionError) as error:
        raise InvalidTask(str(error)) from None
    arn = value.get("arn", "")
    desired = value.get("desiredStatus", "NONE")
    if desired not in DESIRED:
        raise InvalidTask("Unrecognized TaskStatus")
    containers = tuple(parse_container(c) for c in value.get("containers", []))
    mode = _network_mode(arn, value)
    volumes = parse_volumes(value)
    attachments = parse_attachments(value, mode, [c.name for c in containers])
    # In the reference's order: of several faults ECS hears the first.
    task_role = _role(value, *ROLES[0])
    interfaces = tuple(parse_interface(e) for e in value.get("elasticNetworkInterfaces", []))
    proxy = _proxy(value["proxyConfiguration"]) if "proxyConfiguration" in value else None
    execution_role = _role(value, *ROLES[1])
    return Task(
        arn=arn,
        family=value.get("family", ""),
        version=value.get("version", ""),
        service_name=value.get("serviceName", ""),
        group=value.get("group", ""),
        containers=containers,
        volumes=volumes,
        associations=tuple(_association(a) for a in value.get("associations", []) if a),
        cpu=value.get("cpu", 0.0),
        memory_mib=max(0, value.get("memory", 0)),  # signed on the wire, unlike a container's
        pid_mode=value.get("pidMode", ""),
        ipc_mode=value.get("ipcMode", ""),
        network_mode=mode,
        launch_type=value.get("launchType", ""),
        enable_fault_injection=value.get("enableFaultInjection", False),
        interfaces=interfaces,
        proxy=proxy,
        attachments=attachments,
        credentials_id=task_role.credentials_id if task_role else "",
        execution_credentials_id=execution_role.credentials_id if execution_role else "",
        desired=DESIRED[desired],
    )


def role_credentials(member: Mapping[str, Any]) -> tuple[Credentials, ...]:
    """The credentials of a task's two roles, the task role first. `member` is in canonical form."""
    found = (_role(member, *role) for role in ROLES)
    return tuple(role for role in found if role is not None)


def _role(member: Mapping[str, Any], name: str, role_type: str) -> Credentials | None:
    return credentials(member[name], member.get("arn", ""), role_type) if name in member else None


def credentials(value: Mapping[str, Any], arn: str, role_type: str) -> Credentials:
    """One set of role credentials. Raises InvalidTask when it cannot be stored."""
    if not value.get("credentialsId"):
        raise InvalidTask("CredentialsId is empty")
    if not arn:
        raise InvalidTask("task ARN is empty")
    return Credentials(
        credentials_id=value["credentialsId"],
        task_arn=arn,
        role_type=role_type,
        role_arn=value.get("roleArn", ""),
        access_key_id=value.get("accessKeyId", ""),
        secret_access_key=value.get("secretAccessKey", ""),
        session_token=value.get("sessionToken", ""),
        expiration=value.get("expiration", ""),
    )


def _network_mode(arn: str, value: Mapping[str, Any]) -> str:
    mode: str = value.get("networkMode") or "bridge"
    if mode not in NETWORK_MODES:
        log.warning("task %s has the unknown network mode %r; it counts as none at all", arn, mode)
        return ""
    return mode


def _association(value: Mapping[str, Any]) -> Association:
    content = value.get("content", {})
    return Association(
        name=value.get("name", ""),
        type=value.get("type", ""),
        containers=tuple(value.get("containers", ())),
        encoding=content.get("encoding", ""),
        value=content.get("value", ""),
    )


def _proxy(value: Mapping[str, Any]) -> Proxy:
    if value.get("type") != "APPMESH":
        raise InvalidTask("agent does not support proxy type other than app mesh")
    properties = dict(value.get("properties", {}))
    ignored = [ip for ip in properties.get("EgressIgnoredIPs", "").split(",") if ip]
    ignored += [ip for ip in METADATA_ADDRESSES if ip not in ignored]
    properties["EgressIgnoredIPs"] = ",".join(ignored)
    return Proxy(container_name=value.get("containerName", ""), properties=properties)
