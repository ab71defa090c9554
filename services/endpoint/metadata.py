"""Metadata v2, v3, v4 and associations (spec 06 §9 to §13): finding the subject, and the words for not finding it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from services.endpoint import shapes
from services.endpoint.follow import Source
from services.endpoint.reply import NotYet, Reply, document, said
from services.endpoint.shapes import Unavailable, Version
from services.endpoint.tags import Tags
from services.endpoint.view import Member, TaskEntry

T = TypeVar("T")

NO_DOCKER_ID = "unable to get docker ID from v3 endpoint ID: {id}"
NO_TASK = "unable to get task arn from request: unable to get task Arn from v3 endpoint ID: {id}"
UNKNOWN_CONTAINER = "V{version} container metadata handler: unable to get container ID from request: " + NO_DOCKER_ID
UNKNOWN_TASK = "V{version} task metadata handler: " + NO_TASK
UNKNOWN_STATUS = {3: 500, 4: 404}
ASSOCIATIONS = "V{version} container associations handler: "
UNKNOWN_ADDRESS = "Unable to get task arn from request: unable to associate '{address}' with task"


class Finder:
    """Looks up the subject of a request; what is not in the view is looked for in Redis once.

    So is a task that is on its way to another state: whoever heard from ECS that it has come there must not read here
    what was before, and `acs` may be a few milliseconds ahead of the view. A look-up raises NotYet when it finds
    nothing in a view that is not complete.
    """

    def __init__(self, source: Source) -> None:
        self.source, self.view = source, source.view

    def _find(self, get: Callable[[], T | None]) -> T | None:
        found = get()
        if found is None and self.source.look_for_tasks():
            found = get()
        if found is None and not self.source.complete:
            raise NotYet
        return found

    def _newest(self, entry: TaskEntry) -> bool:
        """Read a task that is under way; True when the view may have a newer entry now."""
        return entry.under_way and self.source.look_for_task(entry.task.arn)

    def endpoint(self, id_: str) -> Member | None:
        """The container with this endpoint id."""
        found = self.view.by_endpoint.get(id_) or (self._find(lambda: self.view.by_endpoint.get(id_)) if id_ else None)
        return self.view.by_endpoint.get(id_, found) if found and self._newest(found.entry) else found

    def docker(self, id_: str) -> Member | None:
        """The container with this Docker id (or Docker name, while it has no id)."""
        found = self._find(lambda: self.view.by_docker.get(id_))
        return self.view.by_docker.get(id_, found) if found and self._newest(found.entry) else found

    def address(self, address: str) -> TaskEntry | None:
        """The awsvpc task that calls from this address."""
        found = self._find(lambda: self.view.by_address.get(address))
        return self.view.by_address.get(address, found) if found and self._newest(found) else found


class Metadata:
    """The metadata routes; the first argument of each handler is the WSGI environment."""

    def __init__(self, finder: Finder, tags: Tags) -> None:
        self.finder, self.view, self.tags = finder, finder.view, tags

    # -- v2: the caller's address tells the task ------------------------------------------------------

    def v2_task(self, environ: dict[str, Any]) -> Reply:
        """/v2/metadata."""
        entry = self.finder.address(environ["REMOTE_ADDR"])
        return self._task(entry, 2) if entry else said(400, UNKNOWN_ADDRESS.format(address=environ["REMOTE_ADDR"]))

    def v2_task_with_tags(self, environ: dict[str, Any]) -> Reply:
        """/v2/metadataWithTags."""
        entry = self.finder.address(environ["REMOTE_ADDR"])
        if entry is None:
            return said(400, UNKNOWN_ADDRESS.format(address=environ["REMOTE_ADDR"]))
        return self._with_tags(entry, 2, "")

    def v2_container(self, environ: dict[str, Any], docker_id: str) -> Reply:
        """/v2/metadata/<docker id>; any task's, as long as the caller is a task."""
        if self.finder.address(environ["REMOTE_ADDR"]) is None:
            return said(400, UNKNOWN_ADDRESS.format(address=environ["REMOTE_ADDR"]))
        member = self.finder.docker(docker_id)
        if member is None:
            return said(400, f"Unable to generate metadata for container '{docker_id}'")
        return self._container(member, 2)

    # -- v3 and v4: the endpoint id tells the container ------------------------------------------------

    def container(self, version: Version) -> Callable[[dict[str, Any], str], Reply]:
        """/v3/<id> and /v4/<id>."""

        def handler(_environ: dict[str, Any], id_: str) -> Reply:
            member = self.finder.endpoint(id_)
            if member is None:
                return said(UNKNOWN_STATUS[version], UNKNOWN_CONTAINER.format(version=version, id=id_))
            return self._container(member, version)

        return handler

    def task(self, version: Version) -> Callable[[dict[str, Any], str], Reply]:
        """/v3/<id>/task and /v4/<id>/task."""

        def handler(_environ: dict[str, Any], id_: str) -> Reply:
            member = self.finder.endpoint(id_)
            if member is None:
                return said(UNKNOWN_STATUS[version], UNKNOWN_TASK.format(version=version, id=id_))
            return self._task(member.entry, version)

        return handler

    def task_with_tags(self, version: Version) -> Callable[[dict[str, Any], str], Reply]:
        """/v3/<id>/taskWithTags and /v4/<id>/taskWithTags."""

        def handler(_environ: dict[str, Any], id_: str) -> Reply:
            member = self.finder.endpoint(id_)
            if member is None:
                return said(UNKNOWN_STATUS[version], UNKNOWN_TASK.format(version=version, id=id_))
            return self._with_tags(member.entry, version, member.container.name)

        return handler

    def _container(self, member: Member, version: Version) -> Reply:
        def render() -> Reply:
            try:
                return document(shapes.single_shape(member.entry.task, member.container, version))
            except Unavailable as error:
                return said(500, str(error))

        return member.entry.answer(("container", version, member.container.name), render)

    def _task(self, entry: TaskEntry, version: Version) -> Reply:
        def render() -> Reply:
            try:
                return document(shapes.task_shape(entry.task, self.view.place, version))
            except Unavailable as error:
                return said(500, str(error))

        return entry.answer(("task", version), render)

    def _with_tags(self, entry: TaskEntry, version: Version, asking: str) -> Reply:
        if not shapes.created(entry.task):
            return self._task(entry, version)
        try:
            shape = shapes.task_shape(entry.task, self.view.place, version)
        except Unavailable as error:
            return said(500, str(error))
        found = self.tags.of(self.view.instance, entry.task.arn, asking if version == 4 else "")
        return document(_tagged(shape, found.fields(with_errors=version == 4)))

    # -- associations ----------------------------------------------------------------------------------

    def associations(self, version: Version) -> Callable[[dict[str, Any], str, str], Reply]:
        """.../associations/<type>: the names of those that list the container; null when there is none."""

        def handler(_environ: dict[str, Any], id_: str, type_: str) -> Reply:
            member = self.finder.endpoint(id_)
            if member is None:
                prefix = ASSOCIATIONS.format(version=version) + "unable to get container id from request: "
                return said(400, prefix + NO_DOCKER_ID.format(id=id_))
            name = member.container.name
            names = [a.name for a in member.entry.task.associations if a.type == type_ and name in a.containers]
            return document({"Associations": names or None})

        return handler

    def association(self, version: Version) -> Callable[..., Reply]:
        """.../associations/<type>/<name>: the value as it is; any container of the task may read it."""

        def handler(_environ: dict[str, Any], id_: str, type_: str, name: str = "") -> Reply:
            member = self.finder.endpoint(id_)
            prefix = ASSOCIATIONS.format(version=version)
            if member is None:
                return said(400, prefix + NO_TASK.format(id=id_))
            if not name:
                return said(400, prefix + "unable to get association name from request")
            for association in member.entry.task.associations:
                if (association.type, association.name) == (type_, name):
                    return Reply(200, association.value.encode("utf-8", "replace"))
            return said(400, "Unable to write container association response: unable to get association from "
                             f"association type {type_} and association name {name}")  # fmt: skip

        return handler


def _tagged(shape: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """`shape` with the tag fields where they belong: before LaunchType (v4), else at the end."""
    result: dict[str, Any] = {}
    rest = dict(fields)
    errors = rest.pop("Errors", None)
    for key, value in shape.items():
        if key in ("LaunchType", "Containers", "VPCID", "FaultInjectionEnabled") and "FaultInjectionEnabled" in shape:
            result |= rest
            rest = {}
            if key != "LaunchType" and errors:
                result["Errors"], errors = errors, None
        result[key] = value
    return result | rest
