"""Role credentials of tasks from the instance metadata service (ECS agent behaviour, spec 01 §5.12).

Only with the configuration key IMDSIAMRolesEnabled. Every quarter of an hour, while any task is not stopped, each
namespace `iam-ecs-...` whose LastUpdated changed is read, and the credentials it names replace those of the tasks.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import gevent
from msgspec.structs import replace

from common import keys
from common.bus import Store
from common.metadata import Metadata, MetadataError
from common.model.agent import Credentials
from common.model.status import TaskStatus
from common.model.task import Task
from services.acs.roles import RoleCredentials

log = logging.getLogger(__name__)

EVERY_SECONDS = 900.0
READ_PAUSE_SECONDS = 0.1  # ten reads per second at most
NAMESPACE = "iam-ecs-"
ROLE_TYPES = ("TaskApplication", "TaskExecution")


class RoleRefresher:
    """Remembers what it has read completely."""

    def __init__(self, metadata: Metadata, store: Store, roles: RoleCredentials) -> None:
        self._metadata, self._store, self._roles = metadata, store, roles
        self._complete: dict[str, str] = {}  # namespace -> LastUpdated

    def run(self, wait: Callable[[float], bool]) -> None:
        """Refresh until the process is to stop; not at once, because ACS sends all credentials after a start."""
        while wait(EVERY_SECONDS):
            self.refresh()

    def refresh(self) -> None:
        """One round."""
        tasks = {t.id: t for t in self._store.all(keys.TASK).values() if t.known < TaskStatus.STOPPED}
        if not tasks:
            return
        for namespace in self._namespaces():
            try:
                self._read(namespace, tasks)
            except (MetadataError, ValueError, AttributeError, TypeError) as error:
                log.error("the credentials below %s cannot be read: %s", namespace, error)

    def _get(self, path: str) -> str:
        gevent.sleep(READ_PAUSE_SECONDS)
        return self._metadata.get(path)

    def _namespaces(self) -> Iterator[str]:
        try:
            listing = self._get("meta-data")
        except MetadataError as error:
            log.error("the list of instance metadata cannot be read: %s", error)
            return
        yield from (line.rstrip("/") for line in listing.splitlines() if line.startswith(NAMESPACE))

    def _read(self, namespace: str, tasks: dict[str, Task]) -> None:
        info: dict[str, Any] = json.loads(self._get(f"meta-data/{namespace}/info"))
        updated = str(info.get("LastUpdated") or "")
        if datetime.fromisoformat(updated).tzinfo is None:  # which raises ValueError itself for what is no time
            raise ValueError(f"the LastUpdated of its info, {updated!r}, has no time zone")
        if self._complete.get(namespace) == updated:
            return
        complete = True
        for key, facts in (info.get("TaskCredentials") or {}).items():
            try:
                self._take(namespace, key, facts or {}, tasks)
            except (MetadataError, ValueError, AttributeError, TypeError) as error:
                log.error("the credentials %s below %s cannot be read: %s", key, namespace, error)
                complete = False
        if complete:
            self._complete[namespace] = updated

    def _take(self, namespace: str, key: str, facts: dict[str, Any], tasks: dict[str, Task]) -> None:
        task_id, dash, role_type = key.partition("-")
        if not dash:
            raise ValueError("its key is not <task id>-<role type>")
        task = tasks.get(task_id)
        if task is None or role_type not in ROLE_TYPES:
            return
        id_ = task.credentials_id if role_type == "TaskApplication" else task.execution_credentials_id
        if not id_:
            return
        value = json.loads(self._get(f"meta-data/{namespace}/security-credentials/{key}"))
        held = self._roles.get(id_) or Credentials(credentials_id=id_, task_arn=task.arn, role_type=role_type)
        fresh = replace(
            held,
            role_arn=str(facts.get("RoleARN") or held.role_arn),
            access_key_id=str(value.get("AccessKeyId") or ""),
            secret_access_key=str(value.get("SecretAccessKey") or ""),
            session_token=str(value.get("Token") or ""),
            expiration=str(value.get("Expiration") or ""),
        )
        self._roles.put(fresh)
