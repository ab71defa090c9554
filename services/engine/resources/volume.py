"""Docker volumes of a task: for empty host volumes, for `docker` volumes, for network file systems (spec 05 §3).

A volume of task scope gets a random Docker name, chosen once, and is removed with the task; a shared one carries its
own name and stays. There is one resource per volume, however many containers mount it (W10).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from common import ebs
from common.model.task import Resource, Task, Volume
from services.engine.core.effects import SetupError
from services.engine.docker import names
from services.engine.resources import network_files
from services.engine.resources.kind import Host, ResourceFailed, VolumeFailed

if TYPE_CHECKING:
    from services.engine.docker.draft import Draft

KIND = "dockerVolume"
TASK_SCOPE = "task"
DEFAULT_REASON = "VolumeError: Agent could not create task's volume resources"


def member(configuration: Mapping[str, Any], name: str) -> Any:
    """A member of a volume's configuration, whatever the case of its key."""
    if name in configuration:
        return configuration[name]
    return next((v for k, v in configuration.items() if k.lower() == name.lower()), None)


def resource_of(task: Task, volume: Volume) -> Resource | None:
    """The resource that makes this volume, if the agent makes it."""
    return next((r for r in task.resources if r.kind == KIND and r.name == volume.name), None)


def source_of(task: Task, volume: Volume) -> str:
    """What stands before the colon of a bind: a host path or the name of a Docker volume."""
    if volume.type == "host" and volume.host_path:
        return volume.host_path
    if volume.type == ebs.KIND:
        path = member(volume.configuration, "sourceVolumeHostPath")
        return ebs.staging_path(path) if path else ""
    resource = resource_of(task, volume)
    if resource is not None:
        return str(resource.detail.get("docker_name") or "")
    return volume.name if volume.type == "docker" else ""


class DockerVolumes:
    """The kind `dockerVolume`."""

    name = KIND

    def prepare(self, task: Task, host: Host) -> list[Resource]:
        """One resource for each volume that the agent must make, named like the volume."""
        prepared = []
        mounted = {m.source_volume for c in task.containers for m in c.mount_points}
        for volume in task.volumes:
            detail = self._needed(task, volume, mounted, host)
            if detail is not None:
                prepared.append(Resource(kind=KIND, name=volume.name, detail=detail))
        return prepared

    def _needed(self, task: Task, volume: Volume, mounted: set[str], host: Host) -> dict[str, Any] | None:
        if volume.type == "host":
            if volume.host_path or volume.name not in mounted:
                return None
            return _detail(names.volume(task, volume.name), TASK_SCOPE, "local", {}, {})
        if volume.type == "docker":
            return _docker_volume(task, volume, host)
        mount = network_files.mount_of(task, volume, host.region, host.settings.efs_plugin)
        if mount is None:
            return None
        return _detail(names.volume(task, volume.name), TASK_SCOPE, mount.driver, mount.options, {})

    def create(self, task: Task, resource: Resource, host: Host) -> dict[str, Any]:
        """POST /volumes/create; Docker treats a repetition as success."""
        detail = resource.detail
        try:
            host.volumes.create(
                detail["docker_name"], detail.get("driver", ""), detail.get("options", {}), detail.get("labels", {})
            )
        except VolumeFailed as error:
            raise ResourceFailed(str(error) or DEFAULT_REASON) from error
        return {"mount_point": detail["docker_name"]}

    def cleanup(self, task: Task, resource: Resource, host: Host) -> None:
        """Volumes of task scope go, shared ones stay."""
        if resource.detail.get("scope") != TASK_SCOPE:
            return
        try:
            host.volumes.remove(resource.detail["docker_name"])
        except VolumeFailed as error:
            raise ResourceFailed(str(error)) from error

    def amend(self, draft: Draft, resource: Resource) -> None:
        """Nothing: mounts are part of every request anyway."""


def _detail(
    docker_name: str, scope: str, driver: str, options: Mapping[str, str], labels: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "docker_name": docker_name,
        "scope": scope,
        "driver": driver,
        "options": dict(options),
        "labels": dict(labels),
    }


def _docker_volume(task: Task, volume: Volume, host: Host) -> dict[str, Any] | None:
    configuration = volume.configuration
    scope, autoprovision = member(configuration, "scope"), bool(member(configuration, "autoprovision"))
    driver = str(member(configuration, "driver") or "")
    options = _texts(member(configuration, "driverOpts"))
    labels = _texts(member(configuration, "labels"))
    if scope == TASK_SCOPE:
        if autoprovision:
            raise SetupError(f"volume [{volume.name}] : task scoped volume could not be autoprovisioned")
        return _detail(names.volume(task, volume.name), TASK_SCOPE, driver, options, labels)
    try:
        found = host.volumes.inspect(volume.name)
    except VolumeFailed as error:
        if not autoprovision:
            raise SetupError(
                f"initialize volume: volume detection failed, volume '{volume.name}' does not exist and "
                f"autoprovision is set to false: {error}"
            ) from error
        if error.timed_out:
            raise SetupError(str(error)) from error
        return _detail(volume.name, str(scope or "shared"), driver, options, labels)
    if autoprovision and host.settings.match_shared_volumes:
        _compare(found, options, labels)
    return None


def _compare(found: Mapping[str, Any], options: Mapping[str, str], labels: Mapping[str, str]) -> None:
    have_labels, have_options = _texts(found.get("Labels")), _texts(found.get("Options"))
    if have_labels != labels:
        raise SetupError(
            "intialize volume: non-autoprovisioned volume does not match existing volume labels: "
            f"existing: {printed(have_labels)}, expected: {printed(labels)}"
        )
    if have_options != options:
        raise SetupError(
            "initialize volume: non-autoprovisioned volume does not match existing volume options: "
            f"existing: {printed(have_options)}, expected: {printed(options)}"
        )


def printed(values: Mapping[str, str]) -> str:
    """A map as the wire shows it: `map[a:1 b:2]`, keys sorted."""
    return f"map[{' '.join(f'{key}:{values[key]}' for key in sorted(values))}]"


def _texts(value: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, Mapping) else {}
