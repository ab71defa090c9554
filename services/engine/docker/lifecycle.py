"""The container effects: create, start, provision, stop, inspect, remove (ECS agent behaviour, spec 03 §6.5-§6.10).

Each turns what the calls of `containers.py` say into an Outcome, and keeps the books that depend on it: which host
ports are held, which calls are in flight, what the metadata file says.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from msgspec.structs import replace

from common.backoff import Backoff
from common.errors import NamedError
from common.model.status import ContainerStatus, ContainerType
from common.model.task import Container, ManagedAgent, Task
from common.serviceconnect import pause_of, publisher
from services.engine.core.agents import STOPPED, agent_of
from services.engine.core.effects import Action, Observation, Outcome
from services.engine.docker import request
from services.engine.docker.containers import ContainerFailed, Containers
from services.engine.docker.draft import Refused, World
from services.engine.docker.events import Flights
from services.engine.docker.exec_agent import ExecAgentFailed, ExecAgents
from services.engine.docker.host_config import host_ports
from services.engine.docker.identity import Identity
from services.engine.docker.metadata_file import MetadataFiles
from services.engine.docker.observe import bridge_ip
from services.engine.docker.ports import PortPicker
from services.engine.docker.settings import Settings
from services.engine.network.addresses import bridge_addresses, is_pause_of_proxy, on_default_bridge
from services.engine.network.drain import Drains
from services.engine.network.provision import ProvisioningFailed, provision
from services.engine.resources.registry import Registry

log = logging.getLogger(__name__)

BRIDGE_IP_SECONDS = 60.0
NO_PAUSE_IP = NamedError(
    "ContainerNetworkingError",
    "startContainer: failed to resolve container IP for SC bridge mode pause container",
)
NO_BRIDGE_IP = NamedError("CannotStartContainerError", "Bridge IP not available to use for firelens")


class Lifecycle:
    """The effects on one container, with everything they need."""

    def __init__(
        self,
        containers: Containers,
        settings: Settings,
        registry: Registry,
        picker: PortPicker,
        flights: Flights,
        identity: Identity,
        world: Callable[[], World],
        files: MetadataFiles,
        exec_agents: ExecAgents,
        drains: Drains,
    ) -> None:
        self._containers, self._settings, self._registry, self._picker = containers, settings, registry, picker
        self._flights, self._identity, self._world, self._files = flights, identity, world, files
        self._exec_agents, self._drains = exec_agents, drains
        self._restarting: set[str] = set()  # ids of containers that a restart policy may start again

    def look(self, id_: str) -> Observation:
        """Inspect, and note which host ports the container holds. Raises ContainerFailed."""
        seen = self._containers.inspect(id_)
        if seen.status == ContainerStatus.RUNNING:
            self._picker.hold(seen.docker_id, {(b.host_port, b.protocol) for b in seen.port_bindings})
        elif seen.status == ContainerStatus.STOPPED and seen.docker_id not in self._restarting:
            self._picker.release(seen.docker_id)
        return seen

    # -- create ------------------------------------------------------------------------------

    def create(self, task: Task, container: Container) -> Outcome:
        """CREATED: build the request, send it, inspect."""
        world = self._world()
        binds, agent = self._exec_binds(task, container)
        try:
            metadata = self._metadata(task, container, world)
            draft = request.build(task, container, world, self._registry, metadata, binds)
            id_ = self._containers.create(draft)
        except Refused as refused:
            self._picker.release(container.docker_name)
            missing = not container.is_internal and request.namespace_pause_missing(task)
            return _failed(Action.CREATE, container, refused.error, stop_task=missing, agent=agent)
        except ContainerFailed as failure:
            self._picker.release(container.docker_name)
            return _failed(Action.CREATE, container, failure.error, agent=agent)
        self._picker.hold(id_, host_ports(draft.host))
        self._picker.release(container.docker_name)
        error, gone = None, False
        try:
            seen = self._containers.inspect(id_)
        except ContainerFailed as failure:
            seen = Observation(docker_id=id_, docker_name=container.docker_name, status=ContainerStatus.CREATED)
            error, gone = failure.error, failure.gone
        # Docker's answer has the image's labels as well; the container's own are those that were asked for.
        seen = replace(seen, labels=dict(draft.config.get("Labels") or {}))
        return Outcome(
            action=Action.CREATE, target=container.name, error=error, observation=seen, gone=gone,
            port_ranges=draft.port_ranges, agent=agent,
        )  # fmt: skip

    def _exec_binds(self, task: Task, container: Container) -> tuple[list[str], ManagedAgent | None]:
        """The files of ECS Exec; without them the container is made all the same, and the agent says why."""
        agent = agent_of(container)
        if agent is None:
            return [], None
        try:
            return self._exec_agents.binds(task, container, agent), None
        except ExecAgentFailed as failure:
            log.error("container %s is made without ECS Exec: %s", container.name, failure)
            return [], replace(agent, init_failed=True, status=STOPPED, reason=str(failure))

    def _metadata(self, task: Task, container: Container, world: World) -> dict[str, str]:
        if not self._settings.metadata_file or container.type != ContainerType.NORMAL:
            return {}
        try:
            instance, addresses = self._identity.instance(), self._identity.addresses()
            return self._files.create(task, container, instance, world.facts, addresses)
        except OSError as error:
            log.warning("container %s gets no metadata file: %s", container.name, error)
            return {}

    # -- start -------------------------------------------------------------------------------

    def start(self, task: Task, container: Container) -> Outcome:
        """RUNNING: start and inspect; then what must follow a start."""
        id_ = container.docker_id or container.docker_name
        if not id_:
            return _failed(Action.START, container, NamedError("CannotStartContainerError", unknown(container)))
        try:
            version = request.api_version(container, self._world())
        except Refused as refused:
            text = f"(v{container.docker_api_version}) - {refused.error.text}"
            return _failed(Action.START, container, NamedError("CannotGetDockerclientError", text))
        if container.restart_policy is not None and container.restart_policy.enabled:
            self._restarting.add(container.docker_id)
        self._flights.begin(container.docker_id)
        seen: Observation | None = None
        try:
            seen = self._containers.start(id_, version)
        except ContainerFailed as failure:
            seen = failure.seen
            if failure.gone or (seen is not None and not seen.running):
                self._picker.release(container.docker_id)
            return Outcome(
                action=Action.START, target=container.name, error=failure.error, observation=seen, gone=failure.gone
            )
        finally:
            self._flights.end(container.docker_id, seen)
        self._picker.hold(seen.docker_id, {(b.host_port, b.protocol) for b in seen.port_bindings})
        return self._started(task, container, seen)

    def _started(self, task: Task, container: Container, seen: Observation) -> Outcome:
        self._complete_file(task, container, seen)
        if is_pause_of_proxy(task, container) and not any(bridge_addresses(seen)):
            return Outcome(action=Action.START, target=container.name, error=NO_PAUSE_IP, observation=seen)
        in_pause = pause_of(task, container) is not None  # whose address was known before
        if container.firelens is not None and on_default_bridge(task, container) and not in_pause:
            seen, error = self._with_bridge_ip(seen)
            if error is not None:
                return Outcome(action=Action.START, target=container.name, error=error, observation=seen)
        return Outcome(action=Action.START, target=container.name, observation=seen)

    def _with_bridge_ip(self, seen: Observation) -> tuple[Observation, NamedError | None]:
        """The log router must have its address before others log to it."""
        if bridge_ip(seen):
            return seen, None
        backoff, end = Backoff(1.0, 10.0, 2.0), time.monotonic() + BRIDGE_IP_SECONDS
        while time.monotonic() < end:
            time.sleep(backoff.delay())
            try:
                seen = self.look(seen.docker_id)
            except ContainerFailed as failure:
                log.warning("the log router's address is not known yet: %s", failure)
                continue
            if bridge_ip(seen):
                return seen, None
        return seen, NO_BRIDGE_IP

    def bridge_ip(self, task: Task, container: Container) -> str:
        """The address at which a container is reached on the default bridge, "" when it has none."""
        container = publisher(task, container)
        known = Observation(ip_address=container.ip_address, networks=container.networks)
        if bridge_ip(known) or not container.docker_id:
            return bridge_ip(known)
        try:
            return bridge_ip(self.look(container.docker_id))
        except ContainerFailed as failure:
            log.warning("the address of container %s is not known: %s", container.name, failure)
            return ""

    def _complete_file(self, task: Task, container: Container, seen: Observation) -> None:
        if self._settings.metadata_file and container.type == ContainerType.NORMAL and seen.running:
            threading.Thread(target=self._update_file, args=(task, container, seen), daemon=True).start()

    def _update_file(self, task: Task, container: Container, seen: Observation) -> None:
        try:
            self._files.update(
                task, container, self._identity.instance(), self._identity.addresses(), seen, container.image
            )
        except OSError as error:
            log.warning("the metadata file of container %s is not completed: %s", container.name, error)

    # -- ECS Exec ----------------------------------------------------------------------------

    def start_agent(self, task: Task, container: Container) -> Outcome:
        """Start ECS Exec's agent, unless it runs. It is in the outcome when that changed something."""
        agent = agent_of(container)
        found = self._exec_agents.start(container, agent) if agent is not None else None
        return Outcome(action=Action.START_AGENT, target=container.name, agent=found)

    # -- the rest ----------------------------------------------------------------------------

    def provision(self, task: Task, container: Container) -> Outcome:
        """RESOURCES_PROVISIONED: set up the network namespace that the pause container holds.

        There is nothing to take down: what is made lives in that namespace and ends with it.
        """
        try:
            provision(task, container, lambda: self.look(container.docker_id or container.docker_name))
        except ProvisioningFailed as failure:
            return _failed(Action.PROVISION, container, NamedError("ContainerNetworkingError", str(failure)))
        return Outcome(action=Action.PROVISION, target=container.name)

    def stop(self, task: Task, container: Container) -> Outcome:
        """STOPPED: stop and inspect, with five attempts."""
        id_ = container.docker_id or container.docker_name
        if not id_:
            named = NamedError("CannotStopContainerError", unknown(container))
            return Outcome(action=Action.STOP, target=container.name, error=named, gone=True, retriable=False)
        self._drains.before_stop(task)
        self._restarting.discard(container.docker_id)
        grace = float(container.stop_timeout_seconds or self._settings.stop_seconds)
        self._flights.begin(container.docker_id)
        seen: Observation | None = None
        try:
            seen = self._containers.stop(id_, grace)
        except ContainerFailed as failure:
            return Outcome(
                action=Action.STOP, target=container.name, error=failure.error, observation=failure.seen,
                gone=failure.gone, retriable=failure.retriable,
            )  # fmt: skip
        finally:
            self._flights.end(container.docker_id, seen)
        self._picker.release(container.docker_id)
        return Outcome(action=Action.STOP, target=container.name, observation=seen)

    def inspect(self, task: Task, container: Container) -> Outcome:
        """What Docker says now, by id or by name; `gone` when it does not know the container."""
        id_ = container.docker_id or container.docker_name
        if not id_:
            named = NamedError("CannotInspectContainerError", unknown(container))
            return Outcome(action=Action.INSPECT, target=container.name, error=named, gone=True)
        policy = container.restart_policy
        is_over = ContainerStatus.STOPPED in (container.known, container.desired)
        if policy is not None and policy.enabled and not is_over:
            self._restarting.add(container.docker_id)
        try:
            seen = self.look(id_)
        except ContainerFailed as failure:
            return Outcome(action=Action.INSPECT, target=container.name, error=failure.error, gone=failure.gone)
        if not is_over and (seen.status == ContainerStatus.CREATED or seen.docker_id in self._restarting):
            self._picker.hold(seen.docker_id, seen.host_ports)  # of one that is still to be started
        if self._settings.metadata_file and not self._files.is_complete(task, container):
            self._complete_file(task, container, seen)  # the engine ended between start and file
        return Outcome(action=Action.INSPECT, target=container.name, observation=seen)

    def taken_up(self, container: Container) -> None:
        """The engine has started anew: until Docker has told, the container holds the ports it was known to hold."""
        self._picker.hold(container.docker_id, {(b.host_port, b.protocol) for b in container.port_bindings})

    def ended(self, container: Container) -> None:
        """Nothing starts this container again: its ports are free."""
        self._restarting.discard(container.docker_id)
        self._picker.release(container.docker_id, container.docker_name)

    def remove(self, task: Task, container: Container) -> Outcome:
        """Remove from Docker, with anonymous volumes; the metadata file goes too, whether or not that works."""
        self._remove_files(task, container)
        self._drains.forget(task)
        self.ended(container)
        id_ = container.docker_id or container.docker_name
        if id_:
            try:
                self._remove(id_, container)
            except ContainerFailed as failure:
                return _failed(Action.REMOVE, container, failure.error)
        return Outcome(action=Action.REMOVE, target=container.name)

    def _remove(self, id_: str, container: Container) -> None:
        """Not forced at first. Docker refuses that for a container that somebody has started again: it is ended."""
        try:
            self._containers.remove(id_)
        except ContainerFailed as failure:
            if not self._runs(id_):
                raise
            log.error("container %s of a stopped task runs; it is stopped and removed: %s", container.name, failure)
            try:
                self._containers.stop(id_, float(container.stop_timeout_seconds or self._settings.stop_seconds))
            except ContainerFailed as refused:
                log.warning("container %s is removed with its process: %s", container.name, refused)
            self._containers.remove(id_, force=True)

    def _runs(self, id_: str) -> bool:
        try:
            return self._containers.inspect(id_).running
        except ContainerFailed as failure:
            log.debug("whether container %s runs cannot be told: %s", id_[:12], failure)
            return False

    def _remove_files(self, task: Task, container: Container) -> None:
        removals: list[Callable[[], None]] = []
        if self._settings.metadata_file and container.type == ContainerType.NORMAL:
            removals.append(lambda: self._files.remove(task, container))
        if agent_of(container) is not None:
            removals.append(lambda: self._exec_agents.remove_logs(task))
        for remove in removals:
            try:
                remove()
            except OSError as error:
                log.warning("files of container %s are not removed: %s", container.name, error)


def unknown(container: Container) -> str:
    """The reference's text for a container without Docker id."""
    return f"container name={container.name} not recognized by agent"


def _failed(
    action: Action,
    container: Container,
    error: NamedError,
    stop_task: bool = False,
    agent: ManagedAgent | None = None,
) -> Outcome:
    return Outcome(action=action, target=container.name, error=error, stop_task=stop_task, agent=agent)
