"""What changed between two looks at a task, and following tasks until they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import EndpointConnectionError, HTTPClientError
from msgspec import Struct

from services.local.tool import ecs as api
from services.local.tool.show import Screen

Json = dict[str, Any]
LOOK_SECONDS = 0.2
AWAY_SECONDS = 20.0  # a control plane that crashed is back in a second or two


class Change(Struct, frozen=True):
    """One thing that happened: to `task` or to a container, in words, and the status it led to."""

    subject: str
    text: str
    status: str


def changes(before: Json | None, after: Json) -> Iterator[Change]:
    """What happened to a task between two DescribeTasks answers; everything when there was none before."""
    known = {c["name"]: c for c in (before or {}).get("containers", [])}
    for container in after["containers"]:
        yield from _container_changes(known.get(container["name"]), container)
    old = before or {}
    if old.get("lastStatus") != after["lastStatus"]:
        text = after["lastStatus"]
        if text == "STOPPED":
            text += f" ({after.get('stopCode', '')}: {after.get('stoppedReason', '')})"
        yield Change("task", text, after["lastStatus"])
    elif old.get("desiredStatus") != after["desiredStatus"] and before:
        yield Change("task", f"{after['lastStatus']}, stopping", after["lastStatus"])
    if before and old.get("healthStatus") != after.get("healthStatus"):
        yield Change("task", after["healthStatus"], after["healthStatus"])


def _container_changes(before: Json | None, after: Json) -> Iterator[Change]:
    status = after["lastStatus"]
    if (before or {}).get("lastStatus") != status and (before or status != "PENDING"):
        details = []
        if status == "RUNNING":
            details += [
                f"{b.get('bindIP', '')}:{b['hostPort']}->{b['containerPort']}/{b.get('protocol', 'tcp')}"
                for b in after.get("networkBindings") or []
                if b.get("hostPort")
            ]
        if status == "STOPPED" and after.get("exitCode") is not None:
            details.append(f"exit code {after['exitCode']}")
        if after.get("reason"):
            details.append(after["reason"])
        yield Change(after["name"], " ".join([status, *([f"({'; '.join(details)})"] if details else [])]), status)
    health = after.get("healthStatus")
    if before and before.get("healthStatus") != health and health != "UNKNOWN" and status != "STOPPED":
        yield Change(after["name"], str(health), str(health))


class Follower:
    """Looks at tasks and prints what changed; one line per change."""

    def __init__(self, ecs: Any, cluster: str, arns: list[str], screen: Screen) -> None:
        self._ecs, self._cluster, self._arns, self._screen = ecs, cluster, arns, screen
        self.seen: dict[str, Json] = {}
        self._heard = time.monotonic()

    def catch_up(self) -> None:
        """Take the tasks as they are for known: only what happens from now on is printed."""
        self.seen = {t["taskArn"]: t for t in api.describe(self._ecs, self._cluster, self._arns)}

    def look(self) -> list[Json]:
        """Print what changed since the last look; returns the tasks as they are."""
        try:
            now = api.describe(self._ecs, self._cluster, self._arns)
        except (HTTPClientError, EndpointConnectionError):
            if time.monotonic() - self._heard > AWAY_SECONDS:
                raise
            return list(self.seen.values())  # the supervisor is starting it again
        self._heard = time.monotonic()
        for task in now:
            before = self.seen.get(task["taskArn"])
            prefix = f"{api.short_id(task['taskArn'])} " if len(self._arns) > 1 else ""
            for change in changes(before, task):
                self._screen.event(prefix + change.subject, change.text, change.status)
            self.seen[task["taskArn"]] = task
        return now

    def until(self, done: Callable[[list[Json]], bool], seconds: float | None = None) -> bool:
        """Look until `done` says so; False when `seconds` ran out first."""
        end = None if seconds is None else time.monotonic() + seconds
        while not done(self.look()):
            if end is not None and time.monotonic() > end:
                return False
            time.sleep(LOOK_SECONDS)
        return True


def all_stopped(tasks: list[Json]) -> bool:
    """Whether every task has ended."""
    return bool(tasks) and all(t["lastStatus"] == "STOPPED" for t in tasks)


def all_started(tasks: list[Json]) -> bool:
    """Whether every task runs or has already ended."""
    return bool(tasks) and all(t["lastStatus"] in ("RUNNING", "STOPPED") for t in tasks)


def exit_status(tasks: list[Json]) -> int:
    """What ended tasks mean for the command: the first exit code that is not 0, 1 for one that never ran, else 0."""
    for task in tasks:
        codes = [c["exitCode"] for c in task["containers"] if c.get("exitCode")]
        if task.get("stopCode") == "UserInitiated":
            continue
        if codes:
            return int(codes[0]) & 0xFF
        if task.get("stopCode") == "TaskFailedToStart":
            return 1
    return 0
