"""Service Connect's part of create requests, and the directories of its sockets and logs (spec 04 §11).

The kind `serviceconnect` settles the listeners' ports once, when the task arrives, and keeps them in the resource. What
the proxy must be told (ports, addresses, sockets) is put together when its container is created: the addresses of the
pause containers are known by then. The relay, which speaks to AWS for all proxies of this host, is the agent's own task
(services/engine/relay.py) and gets its directories from here.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from common import discovery, fips
from common.model.agent import DockerFacts
from common.model.status import ContainerType
from common.model.task import Resource, Task
from common.serviceconnect import (
    AGENT_ARCHIVE,
    ATTACHMENT,
    PAUSE_OF,
    RELAY_DIRECTORY,
    STATE,
    in_bridge_mode,
    proxy_name,
)
from common.wire.attachments import service_connect_config
from services.engine.core.effects import SetupError
from services.engine.core.relay import is_relay
from services.engine.core.service_connect import DIGEST, KIND, PAUSE
from services.engine.docker.draft import Refused
from services.engine.network.addresses import bridge_addresses, is_pause_of_proxy
from services.engine.resources import files
from services.engine.resources.kind import Host, ResourceFailed

if TYPE_CHECKING:
    from services.engine.docker.draft import Draft

log = logging.getLogger(__name__)

USER_ID = 20000  # of the processes in Amazon's image
EPHEMERAL = (32768, 60999)
ATTEMPTS = 100
LOAD_SECONDS, LOOK_SECONDS = 60.0, 0.5  # how long a task waits for an image that is being loaded
CREATE_ERROR = "CannotCreateContainerError"
DIRECTORY_MODE = 0o700
STATE_INSIDE, LOGS_INSIDE, CERTIFICATES = "/var/run/ecs/", "/var/log/", "/etc/pki"
RELAY_INSIDE = STATE_INSIDE + "relay/"
RELAY_SOCKET = RELAY_INSIDE + "envoy_xds.sock"
ADMIN = {
    "APPNET_AGENT_ADMIN_UDS_PATH": STATE_INSIDE + "appnet_admin.sock",
    "APPNET_AGENT_ADMIN_MODE": "uds",
}
ISOLATED = ("us-iso", "eu-iso", "eusc-")  # regions whose certificates the image does not have


def settled(config: Mapping[str, Any], taken: set[int], pick: Callable[[int, int], int]) -> dict[str, Any]:
    """Resource.detail of a task's configuration: each listener has a port by now. Raises SetupError.

    `taken` are the container ports of the task; `pick` chooses a number between two, inclusive.
    """
    ingress, egress = config.get("ingressConfig") or [], config.get("egressConfig")
    listeners = [*ingress, *([egress] if egress is not None else [])]
    taken = taken | {one["listenerPort"] for one in listeners if one.get("listenerPort")}
    chosen = _unique(taken, pick)
    ephemeral: dict[str, int] = {}

    def port_of(listener: Mapping[str, Any]) -> int:
        port = int(listener.get("listenerPort") or 0) or next(chosen)
        if not listener.get("listenerPort"):
            ephemeral[listener.get("listenerName", "")] = port
        return port

    found: dict[str, Any] = {
        "ingress": [{"port": port_of(one), "hostPort": one.get("hostPort") or 0} for one in ingress],
        "egress": {},
        "ephemeral": ephemeral,
        "hosts": [f"{e['hostName']}:{e['address']}" for e in config.get("dnsConfig") or () if e.get("address")],
    }
    if egress is not None:
        vip = egress.get("vip") or {}
        ranges = {"ipv4": vip.get("ipv4Cidr", ""), "ipv6": vip.get("ipv6Cidr", "")}
        found["egress"] = {"port": port_of(egress), **{k: _network(text) for k, text in ranges.items()}}
    return found


def _unique(taken: set[int], pick: Callable[[int, int], int]) -> Iterator[int]:
    taken, collisions = set(taken), 0
    while True:
        port = pick(*EPHEMERAL)
        if port not in taken:
            taken.add(port)
            yield port
            continue
        collisions += 1
        if collisions > ATTEMPTS:
            raise SetupError(
                "error initializing ports for Service Connect: maximum number of attempts to generate unique ports "
                "reached"
            )


def _network(text: str) -> str:
    """A range of addresses as the tools want it: without blanks and host bits."""
    return str(ipaddress.ip_network(text.strip(), strict=False)) if text.strip() else ""


def container_ports(task: Task) -> set[int]:
    """Every port that a container of the task listens at; those of ranges, too, which the reference forgets."""
    found = set()
    for mapping in (m for c in task.containers for m in c.port_mappings):
        found.add(mapping.container_port)
        low, _, high = mapping.container_port_range.partition("-")
        if low.isdigit() and high.isdigit():
            found.update(range(int(low), min(int(high), 65535) + 1))
    return found


def needs_certificates(instance_arn: str) -> bool:
    """Whether the proxy needs the host's certificates: its own do not know this region's partition."""
    region = (instance_arn.split(":") + [""] * 4)[3]
    return region.startswith(ISOLATED) or discovery.REGION.fullmatch(region) is None


class ServiceConnect:
    """The kind `serviceconnect`.

    `state` is where the sockets are, `pick` chooses a random port between two, `load_seconds` is the longest that a
    task waits for the agent's image.
    """

    name = KIND

    def __init__(
        self,
        state: str = STATE,
        archive: str = AGENT_ARCHIVE,
        pick: Callable[[int, int], int] = random.randint,
        load_seconds: float = LOAD_SECONDS,
    ) -> None:
        self._state, self._archive, self._pick, self._load_seconds = state, archive, pick, load_seconds

    def prepare(self, task: Task, host: Host) -> list[Resource]:
        """One for a task with a proxy, and one for the relay."""
        if is_relay(task):
            return [Resource(kind=KIND, name=KIND)]
        if not proxy_name(task):
            return []
        facts = self._facts_with_image(host)
        if not facts.service_connect_loaded:
            why = host.refused()
            what = f"it cannot be loaded from {self._archive}: {why}" if why else f"put it at {self._archive}"
            what = "instances outside of EC2 do not run it" if host.settings.external else what
            raise SetupError(f"the task uses Service Connect, and Docker has not got the image of its agent; {what}")
        properties = [a.properties for a in task.attachments if a.type == ATTACHMENT][-1]
        detail = settled(service_connect_config(properties), container_ports(task), self._pick)
        detail |= {PAUSE: host.settings.pause_image, DIGEST: facts.service_connect_digest}
        return [Resource(kind=KIND, name=KIND, detail=detail)]

    def _facts_with_image(self, host: Host) -> DockerFacts:
        """The facts once Docker has the agent's image, which is loaded beside: a task may come before it."""
        if host.latest_facts is None:
            return host.facts
        end = time.monotonic() + self._load_seconds
        while True:
            facts, may_come = host.latest_facts(), not host.settings.external and os.path.exists(self._archive)
            if facts.service_connect_loaded or not may_come or host.refused() or time.monotonic() >= end:
                return facts
            time.sleep(LOOK_SECONDS)

    def create(self, task: Task, resource: Resource, host: Host) -> dict[str, Any]:
        """All there is to make belongs to containers, and is made with them."""
        return {}

    def cleanup(self, task: Task, resource: Resource, host: Host) -> None:
        """Remove the directory of the task's sockets; that of the relay serves the next relay."""
        if not proxy_name(task):
            return
        try:
            files.remove(files.task_directory(self._state, task.id))
        except (OSError, ValueError) as error:
            raise ResourceFailed(f"the sockets of Service Connect are not removed: {error}") from error

    def amend(self, draft: Draft, resource: Resource) -> None:
        """The part of the relay, the proxy, or a pause container."""
        task, container = draft.task, draft.container
        if container.type == ContainerType.SERVICE_CONNECT_RELAY:
            self._amend_agent(draft, RELAY_DIRECTORY)
        elif container.name == proxy_name(task):
            self._amend_proxy(draft, resource)
        elif container.type == ContainerType.CNI_PAUSE:
            _amend_pause(draft, resource)

    def _amend_proxy(self, draft: Draft, resource: Resource) -> None:
        draft.environment |= {
            "APPNET_LISTENER_PORT_MAPPING": _compact(resource.detail["ephemeral"]),
            "APPMESH_XDS_ENDPOINT": f"unix://{RELAY_SOCKET}",
            **ADMIN,
            "ENVOY_ENABLE_IAM_AUTH_FOR_XDS": "0",
            "ECS_CONTAINER_INSTANCE_ARN": draft.world.instance_arn,
        }
        if in_bridge_mode(draft.task):
            draft.environment["APPNET_CONTAINER_IP_MAPPING"] = _compact(_addresses(draft))
        self._amend_agent(draft, draft.task.id)

    def _amend_agent(self, draft: Draft, directory: str) -> None:
        """What the proxy and the relay have in common: user, directories, certificates."""
        draft.config["User"] = str(USER_ID)
        state = self._directory(self._state, directory)
        draft.bind(f"{state}:{STATE_INSIDE}", f"{self._directory(self._state, RELAY_DIRECTORY)}/:{RELAY_INSIDE}")
        if needs_certificates(draft.world.instance_arn):
            draft.bind(f"{CERTIFICATES}:{CERTIFICATES}")
        if not (draft.host.get("LogConfig") or {}).get("Type"):
            logs = self._directory(draft.world.settings.service_connect_logs, directory)
            draft.bind(f"{logs}:{LOGS_INSIDE}")
            draft.environment["APPNET_ENVOY_LOG_DESTINATION"] = LOGS_INSIDE
        if fips.is_on():
            draft.environment["APPNET_FIPS_MODE_ENABLED"] = "true"

    @staticmethod
    def _directory(root: str, name: str) -> str:
        """A directory that belongs to the processes in Amazon's image. Raises Refused."""
        path = os.path.join(root, name)
        try:
            path = files.task_directory(root, name)
            os.makedirs(root, DIRECTORY_MODE, exist_ok=True)
            os.makedirs(path, DIRECTORY_MODE, exist_ok=True)
        except (OSError, ValueError) as error:
            cause = files.said("mkdir", path, error) if isinstance(error, OSError) else str(error)
            raise Refused(CREATE_ERROR, f"failed to mkdir {path}: {cause}") from error
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fchown(descriptor, USER_ID, os.getegid())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise Refused(CREATE_ERROR, f"failed to chown {path}: {files.said('chown', path, error)}") from error
        return path


def _amend_pause(draft: Draft, resource: Resource) -> None:
    hosts = resource.detail["hosts"]
    if hosts:
        draft.host["ExtraHosts"] = [*(draft.host.get("ExtraHosts") or ()), *hosts]
    egress = resource.detail["egress"]
    if egress and is_pause_of_proxy(draft.task, draft.container):
        draft.config["ExposedPorts"] = {f"{egress['port']}/tcp": {}}


def _addresses(draft: Draft) -> dict[str, str]:
    """The address of each container of the task, which is that of its pause container. Raises Refused."""
    found = {}
    for pause in draft.task.containers:
        if pause.type != ContainerType.CNI_PAUSE:
            continue
        name, (ipv4, ipv6) = pause.name.removeprefix(PAUSE_OF), bridge_addresses(pause)
        if draft.world.settings.ipv6_only and not ipv6:
            text = f"instance is IPv6-only but no IPv6 address found for container '{name}'"
            raise Refused(CREATE_ERROR, text)
        found[name] = ipv6 if draft.world.settings.ipv6_only else ipv4
    return found


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
