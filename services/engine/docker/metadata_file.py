"""The metadata file that a container can read at ECS_CONTAINER_METADATA_FILE (ECS agent behaviour, spec 06 §19).

Written before the create call with what is known then, and again after a start. Both are conveniences: a failure is a
warning, never the container's failure.
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Mapping
from typing import Any

from common import wholefile
from common.model.agent import DockerFacts, Instance
from common.model.task import Container, Task
from services.engine.core.effects import Observation
from services.engine.docker.settings import Settings
from services.engine.resources import files

FILE = "ecs-container-metadata.json"
READY = "READY"
MODE = 0o644  # the container's user, whoever that is, reads it
INSIDE = "/opt/ecs/metadata"
SELINUX = ("selinux", "name=selinux")


def rest_of(arn: str) -> str:
    """Everything after the first "/" of the ARN's resource: `<id>` or `<cluster>/<id>`."""
    return arn.split(":", 5)[-1].partition("/")[2]


def directory_of(settings: Settings, task: Task, *container: str) -> str:
    """Where the agent keeps the file of a container, or the files of a whole task.

    Raises OSError for a name that would lead elsewhere: the file is then one that cannot be written.
    """
    root = os.path.join(settings.data_dir, "metadata")
    try:
        return files.task_directory(root, *rest_of(task.arn).split("/"), *container)
    except ValueError as error:
        raise OSError(str(error)) from error


class MetadataFiles:
    """Writes and removes the files of this host's containers."""

    def __init__(self, settings: Settings, in_container: bool) -> None:
        self._settings, self._in_container = settings, in_container

    def create(
        self, task: Task, container: Container, instance: Instance, facts: DockerFacts, addresses: Mapping[str, str]
    ) -> dict[str, str]:
        """Write the first file; returns the `bind` and the `path` inside the container. Raises OSError."""
        self._write(task, container.name, self._known(task, container, instance, addresses, Observation()))
        directory, inside = directory_of(self._settings, task, container.name), f"{INSIDE}/{uuid.uuid4()}"
        # An agent in a container sees its data directory under another path than Docker does.
        source = f"{self._settings.host_data_dir}/{directory}" if self._in_container else directory
        relabel = ":Z" if any(option in facts.security_options for option in SELINUX) else ""
        return {"bind": f"{source}:{inside}{relabel}", "path": f"{inside}/{FILE}"}

    def update(
        self,
        task: Task,
        container: Container,
        instance: Instance,
        addresses: Mapping[str, str],
        seen: Observation,
        image: str,
    ) -> None:
        """Complete the file of a container that runs. Raises OSError."""
        known = self._known(task, container, instance, addresses, seen)
        told = {"ImageName": image, "Networks": _networks(seen), "MetadataFileStatus": READY}
        self._write(task, container.name, known | told)

    def is_complete(self, task: Task, container: Container) -> bool:
        """Whether the file was completed after the start; a file that cannot be read was not."""
        try:
            path = os.path.join(directory_of(self._settings, task, container.name), FILE)
            with open(path, encoding="utf-8") as file:
                document = json.load(file)
        except (OSError, ValueError):
            return False
        return isinstance(document, dict) and document.get("MetadataFileStatus") == READY

    def remove(self, task: Task, container: Container) -> None:
        """Remove the file of a container, and with the last one the task's directory. Raises OSError."""
        files.remove(directory_of(self._settings, task, container.name))
        try:
            os.rmdir(directory_of(self._settings, task))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise

    def _known(
        self, task: Task, container: Container, instance: Instance, addresses: Mapping[str, str], seen: Observation
    ) -> dict[str, Any]:
        """All members in their order in the file; what is not known yet is left out when it is written."""
        return {
            "Cluster": self._settings.cluster or instance.cluster or "default",  # W28 of spec 06
            "ContainerInstanceARN": instance.arn,
            "TaskARN": task.arn,
            "TaskDefinitionFamily": task.family,
            "TaskDefinitionRevision": task.version,
            "ContainerID": seen.docker_id,
            "ContainerName": container.name,
            "DockerContainerName": f"/{seen.docker_name}" if seen.docker_name else "",
            "ImageID": seen.image_id,
            "ImageName": "",
            "PortMappings": _port_mappings(seen),
            "Networks": [],
            "MetadataFileStatus": "",
            "AvailabilityZone": instance.availability_zone,
            **addresses,
        }

    def _write(self, task: Task, name: str, document: Mapping[str, Any]) -> None:
        text = json.dumps({key: value for key, value in document.items() if value}, indent="\t", ensure_ascii=False)
        for character in "<>&":  # as Go's encoder writes them
            text = text.replace(character, f"\\u{ord(character):04x}")
        directory = directory_of(self._settings, task, name)
        os.makedirs(directory, exist_ok=True)
        wholefile.replace(os.path.join(directory, FILE), text.encode(), MODE, prefix="temp_metadata_file")


def _port_mappings(seen: Observation) -> list[dict[str, Any]]:
    return [
        {
            "ContainerPort": binding.container_port,
            "ContainerPortRange": "",
            "HostPort": binding.host_port,
            "BindIp": binding.bind_ip,
            "Protocol": binding.protocol,
        }
        for binding in seen.port_bindings
    ]


def _networks(seen: Observation) -> list[dict[str, Any]]:
    if seen.network_mode.startswith("container:") or not seen.networks:
        return [_network(seen.network_mode, seen.ip_address, seen.ipv6_address)]
    return [_network(network.name, network.ip_address, network.ipv6_address) for network in seen.networks]


def _network(mode: str, ipv4: str, ipv6: str) -> dict[str, Any]:
    found = {"NetworkMode": mode, "IPv4Addresses": [ipv4]}
    return found | {"IPv6Addresses": [ipv6]} if ipv6 else found
