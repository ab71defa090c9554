"""Stats of containers and tasks (spec 06 §14): what telemetry rendered, picked and put together.

Telemetry renders the stats object of v4; v2 and v3 are the same without `network_rate_stats`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from common.model.task import Container
from services.endpoint import shapes
from services.endpoint.encode import encode
from services.endpoint.metadata import NO_TASK, UNKNOWN_ADDRESS, Finder
from services.endpoint.reply import Reply, said
from services.endpoint.shapes import Version
from services.endpoint.view import StatsEntry, TaskEntry, is_tracked

NO_SAMPLE = b"null"
NOTHING = StatsEntry()  # of a container that is not tracked
RATES = "network_rate_stats"
MISSING_STATUS = {2: 400, 3: 400, 4: 500}  # for a container or task without stats
UNKNOWN_STATUS = {3: 400, 4: 404}

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Stats:
    """The stats routes. `disabled` is ECS_DISABLE_METRICS: nothing is ever tracked."""

    def __init__(self, finder: Finder, disabled: bool) -> None:
        self.finder, self.view, self.disabled = finder, finder.view, disabled

    def v2_container(self, environ: dict[str, Any], docker_id: str) -> Reply:
        """/v2/stats/<docker id>: only of the caller's own task."""
        entry = self.finder.address(environ["REMOTE_ADDR"])
        if entry is None:
            return said(400, UNKNOWN_ADDRESS.format(address=environ["REMOTE_ADDR"]))
        container = next((c for c in entry.task.containers if c.docker_id == docker_id), None)
        if container is None:
            return _missing("container", docker_id, 2)
        return self._container(entry, container, 2)

    def v2_task(self, environ: dict[str, Any]) -> Reply:
        """/v2/stats."""
        entry = self.finder.address(environ["REMOTE_ADDR"])
        if entry is None:
            return said(400, UNKNOWN_ADDRESS.format(address=environ["REMOTE_ADDR"]))
        return self._task(entry, 2)

    def container(self, version: Version) -> Callable[[dict[str, Any], str], Reply]:
        """/v3/<id>/stats and /v4/<id>/stats."""

        def handler(_environ: dict[str, Any], id_: str) -> Reply:
            member = self.finder.endpoint(id_)
            if member is None:
                return said(UNKNOWN_STATUS[version], f"V{version} container stats handler: {NO_TASK.format(id=id_)}")
            return self._container(member.entry, member.container, version)

        return handler

    def task(self, version: Version) -> Callable[[dict[str, Any], str], Reply]:
        """/v3/<id>/task/stats and /v4/<id>/task/stats."""

        def handler(_environ: dict[str, Any], id_: str) -> Reply:
            member = self.finder.endpoint(id_)
            if member is None:
                return said(UNKNOWN_STATUS[version], f"V{version} task stats handler: {NO_TASK.format(id=id_)}")
            return self._task(member.entry, version)

        return handler

    def _tracks(self, entry: TaskEntry, container: Container) -> bool:
        return not self.disabled and is_tracked(entry.task, container)

    def _current(self, entry: TaskEntry) -> StatsEntry:
        if self.disabled:
            return StatsEntry()
        self.finder.source.fresh_stats(entry.task.arn)
        return self.view.stats_of(entry.task.arn)

    def _container(self, entry: TaskEntry, container: Container, version: Version) -> Reply:
        if not self._tracks(entry, container):
            return _missing("container", container.docker_id, version)
        stats = self._current(entry)
        key = ("container", version, container.docker_id)
        reply = stats.answers.get(key)
        if reply is None:
            reply = stats.answers[key] = Reply(200, _shown(stats, container.docker_id, version))
        return reply

    def _task(self, entry: TaskEntry, version: Version) -> Reply:
        containers = shapes.created(entry.task)
        if not containers:
            return _missing("task", entry.task.arn, version)
        stats = self._current(entry)
        key = ("task", version, entry)
        reply = stats.answers.get(key)
        if reply is None:
            items = {c.docker_id: _shown(stats if self._tracks(entry, c) else NOTHING, c.docker_id, version)
                     for c in containers}  # fmt: skip
            body = b",".join(encode(id_) + b":" + shown for id_, shown in items.items())
            reply = stats.answers[key] = Reply(200, b"{" + body + b"}")
        return reply


def _shown(stats: StatsEntry, docker_id: str, version: Version) -> bytes:
    data = stats.by_id.get(docker_id, NO_SAMPLE)
    if data == NO_SAMPLE:
        return b"{}" if version == 4 else NO_SAMPLE
    return data if version == 4 else without_rates(data)


def without_rates(data: bytes) -> bytes:
    """The stats object as v2 and v3 show it."""
    if RATES.encode() not in data:
        return data
    members = _members.decode(data)
    members.pop(RATES, None)
    return msgspec.json.encode(members)


def _missing(what: str, name: str, version: Version) -> Reply:
    return said(MISSING_STATUS[version], f"Unable to get {what} stats for: {name}")
