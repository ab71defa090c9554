"""The engine's hands: they perform effects on Docker and on the host, and tell what happened.

For the brain (services/engine/core and the worker), all there is to know:

- `perform(task, effect)` blocks up to the effect's own deadlines and never raises; every error is the exact NamedError
  that ECS may see. Run each call in a greenlet of a bounded pool. CREATE needs `container.docker_name` (see
  `names.container`) saved beforehand; RESOLVE_MANIFEST and PULL end early through `cancel(task_arn, container)`.
- `resources_for(task, facts)` is what the set-up finds out (spec 03 §3.7): resources, and faults in their order. It may
  inspect volumes, and raises SetupError with the cause.
- `events()` opens Docker's event stream at once, so begin it before the tasks are synchronised. RESYNC comes first and
  after every reconnection: inspect everything then.
- `on_pull_began`, when set, is called with (task ARN, Unix seconds) as soon as a registry pull begins.
- Resource outcomes: CREATE_RESOURCE gives `detail` to merge into Resource.detail, or `error` and `reason`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from common import keys
from common.backoff import Backoff
from common.config import Config
from common.errors import NamedError, Temporary
from common.model.agent import Credentials, DockerFacts
from common.model.task import Container, Resource, Task
from services.engine.core.effects import Action, DockerEvent, Effect, Outcome, Resync
from services.engine.docker import facts as docker_facts
from services.engine.docker import names, pause_image
from services.engine.docker.agent_images import EBS_DRIVER, SERVICE_CONNECT
from services.engine.docker.api import Api, DockerCallError
from services.engine.docker.containers import ContainerFailed, Containers
from services.engine.docker.draft import World
from services.engine.docker.ecr import EcrTokens
from services.engine.docker.events import EventStream, Flights, Stopping
from services.engine.docker.exec_agent import ExecAgents
from services.engine.docker.identity import Identity
from services.engine.docker.image_steps import Cancellers, ImageSteps
from services.engine.docker.images import ImageInspector
from services.engine.docker.lifecycle import Lifecycle
from services.engine.docker.measured import MeasuredApi, Measurements
from services.engine.docker.metadata_file import MetadataFiles
from services.engine.docker.ports import PortPicker
from services.engine.docker.pull import Registry as ImageRegistry
from services.engine.docker.settings import Settings, from_config
from services.engine.docker.volumes import DockerVolumeCalls
from services.engine.network.drain import Drains
from services.engine.resources import ebs, roles
from services.engine.resources.kind import Host, ResourceFailed
from services.engine.resources.registry import Registry

log = logging.getLogger(__name__)

READ_SECONDS = 5.0
COMES_UP = (Action.CREATE, Action.START, Action.PROVISION)
WAIT_START_SECONDS, WAIT_LIMIT_SECONDS, WAIT_FACTOR = 2.0, 200.0, 1.5


class Bus(Protocol):
    """Both servers of the bus (common.bus.Bus or common.memory.MemoryBus)."""

    durable: Any
    volatile: Any


class Hands:
    """See the module's docstring. `settings` replaces the values of `config`, for tests."""

    def __init__(
        self,
        config: Config | None,
        bus: Bus,
        *,
        settings: Settings | None = None,
        registry: Registry | None = None,
        address: str = "",
        exec_agents: ExecAgents | None = None,
    ) -> None:
        if settings is None:
            if config is None:
                raise ValueError("Hands needs a configuration or settings")
            settings = from_config(config)
        self.settings = settings
        measurements = Measurements(bus.volatile)
        self.api: Api = MeasuredApi(measurements, address=address, away_seconds=settings.away_seconds)
        self.registry = registry or Registry()
        self.bus = bus
        self.picker = PortPicker(settings.dynamic_ports)
        self._identity = Identity(settings, bus.durable, bus.volatile)
        self._inspector = ImageInspector(self.api)
        self._containers = Containers(self.api, settings)
        self._flights, self._cancellers = Flights(), Cancellers()
        tokens = EcrTokens(lambda: self._identity.region, ipv6_only=settings.ipv6_only)
        self._steps = ImageSteps(
            ImageRegistry(self.api, settings), self._inspector, settings, tokens, self._role,
            self._pull_succeeded,
        )  # fmt: skip
        self._steps.asm_auth = self.registry.asm_auth
        self._refused: tuple[tuple[int, ...] | None, str] = (None, "")  # the Service Connect agent's image
        self._facts: DockerFacts | None = None
        self._facts_lock = threading.Lock()
        self._lifecycle = Lifecycle(
            self._containers, settings, self.registry, self.picker, self._flights, self._identity, self._world,
            MetadataFiles(settings, in_container=docker_facts.in_container()),
            exec_agents or ExecAgents.standard(self.api, settings.ipv6_only, docker_facts.in_container()), Drains(),
        )  # fmt: skip
        self._actions: dict[Action, Callable[[Task, Container], Outcome]] = {
            Action.RESOLVE_MANIFEST: self._resolve_manifest,
            Action.PULL: self._pull,
            Action.CREATE: self._lifecycle.create,
            Action.START: self._start,
            Action.PROVISION: self._lifecycle.provision,
            Action.STOP: self._lifecycle.stop,
            Action.INSPECT: self._lifecycle.inspect,
            Action.REMOVE: self._lifecycle.remove,
            Action.START_AGENT: self._lifecycle.start_agent,
            Action.CHECK_AGENT: self._lifecycle.start_agent,
        }

    # -- Docker itself -----------------------------------------------------------------------

    def wait_until_docker_answers(self, stopping: Stopping) -> bool:
        """Wait for the daemon for as long as it takes; False when `stopping` was set first. Logs once."""
        backoff, complained = Backoff(WAIT_START_SECONDS, WAIT_LIMIT_SECONDS, WAIT_FACTOR), False
        while not stopping.is_set():
            try:
                self.api.call("GET", "/version", docker_facts.VERSION_SECONDS, version=docker_facts.UNVERSIONED)
            except DockerCallError as error:
                if not complained:
                    log.warning("%s Waiting for it; tasks start when it answers", error)
                complained = True
                stopping.wait(backoff.delay())
                continue
            if complained:
                log.info("Docker answers")
            return True
        return False

    def facts(self) -> DockerFacts:
        """What Docker is like; read once, `refresh_facts` reads again.

        Raises Temporary when Docker does not answer or is too old for the configuration, Terminal when the host cannot
        do what the configuration demands.
        """
        with self._facts_lock:
            return self._facts if self._facts is not None else self._first_facts()

    def _first_facts(self) -> DockerFacts:
        facts = self._read_facts()
        pause_image.load(self.api, self.settings)
        return self.refresh_facts() if not facts.pause_image_loaded else self._remember(facts)

    def refresh_facts(self) -> DockerFacts:
        """Read the facts again. Raises as `facts`."""
        return self._remember(self._read_facts())

    def _read_facts(self) -> DockerFacts:
        try:
            return docker_facts.read(self.api, self.settings)
        except DockerCallError as error:
            raise Temporary(f"Docker cannot be asked about itself: {error}") from error

    def _remember(self, facts: DockerFacts) -> DockerFacts:
        self._facts = facts
        return facts

    def load_driver_image(self) -> bool:
        """Load the image of the EBS driver; True when the facts must be read again. Takes up to two minutes."""
        if not EBS_DRIVER.is_wanted(self.settings):
            return False
        EBS_DRIVER.load(self.api, self.settings)
        return True

    def forget_instance(self) -> None:
        """This host is another container instance from now on."""
        self._identity.forget()

    def load_service_connect(self) -> bool:
        """Load the image of the Service Connect agent; True when it was loaded. Takes up to two minutes."""
        stamp = SERVICE_CONNECT.stamp()

        def note(why: str) -> None:
            self._refused = (stamp, why)

        return SERVICE_CONNECT.load(self.api, self.settings, note)

    def service_connect_refused(self) -> str:
        """Why the archive that is there cannot be loaded, as far as it was tried; "" otherwise."""
        stamp, why = self._refused
        return why if why and stamp == SERVICE_CONNECT.stamp() else ""

    def service_connect_stamp(self) -> tuple[int, ...] | None:
        """What changes when the archive of the Service Connect agent does; None where there is none to load."""
        return SERVICE_CONNECT.stamp() if SERVICE_CONNECT.is_wanted(self.settings) else None

    def events(self, stopping: Stopping | None = None) -> Iterator[DockerEvent | Resync]:
        """Docker's events from now on, each with its inspect, until `stopping` is set or the iterator closed."""
        return iter(EventStream(self.api, self._lifecycle.look, self._flights, stopping or threading.Event()))

    def list_containers(self) -> list[tuple[str, str, dict[str, str], str]]:
        """(id, name, labels, state) of each container that carries ECS labels. Raises Temporary."""
        try:
            found = self._containers.list(names.TASK_ARN)
        except ContainerFailed as failure:
            raise Temporary(str(failure)) from failure
        return [
            (c["Id"], (c.get("Names") or [""])[0].lstrip("/"), dict(c.get("Labels") or {}), str(c.get("State") or ""))
            for c in found
        ]

    # -- effects -----------------------------------------------------------------------------

    def perform(self, task: Task, effect: Effect) -> Outcome:
        """Perform one effect; never raises."""
        try:
            return self._perform(task, effect)
        except Exception as error:
            log.exception("%s of %s in task %s fails by a mistake of the agent", effect.action, effect.target, task.id)
            named = NamedError("UnknownError", f"{type(error).__name__}: {error}")
            return Outcome(action=effect.action, target=effect.target, error=named, reason=str(named))

    def _perform(self, task: Task, effect: Effect) -> Outcome:
        if effect.action == Action.PING:
            return Outcome(action=Action.PING, target=effect.target, error=self._containers.ping())
        if effect.action in (Action.CREATE_RESOURCE, Action.REMOVE_RESOURCE):
            return self._resource(task, effect)
        container = task.container(effect.target)
        if container is None:
            named = NamedError("UnknownError", f"the task has no container {effect.target}")
            return Outcome(action=effect.action, target=effect.target, error=named)
        outcome = self._actions[effect.action](task, container)
        if outcome.error is not None and container.is_internal and effect.action in COMES_UP:
            # ECS hears nothing about these containers, and of the task only that it stopped (spec 04 §7.1).
            log.error("task %s: %s of %s failed: %s", task.id, effect.action, container.name, outcome.error)
        return outcome

    def _start(self, task: Task, container: Container) -> Outcome:
        try:
            self.registry.ensure(task, self._host)
        except ResourceFailed as failure:
            named = NamedError("CannotStartContainerError", str(failure))
            return Outcome(action=Action.START, target=container.name, error=named)
        return self._lifecycle.start(task, container)

    def cancel(self, task_arn: str, container: str = "") -> None:
        """End manifest requests and pulls in flight of a container (or of the whole task): the task must stop."""
        self._cancellers.cancel(task_arn, container)

    def taken_up(self, container: Container) -> None:
        """A container of a saved task, before anything is done for any of them."""
        self._lifecycle.taken_up(container)

    def ended(self, container: Container) -> None:
        """The container is over for good: what was held for it is free."""
        self._lifecycle.ended(container)

    def forget(self, task: Task) -> None:
        """The task is another instance's: its secrets leave the memory. All else that was made for it stays."""
        self.registry.forget(task)

    def _resolve_manifest(self, task: Task, container: Container) -> Outcome:
        facts = self.facts()
        canceller = self._cancellers.begin(task.arn, container.name)
        try:
            return self._steps.resolve_manifest(
                task, container, facts.usable_api_versions, facts.default_api_version, canceller
            )
        finally:
            self._cancellers.end(task.arn, container.name, canceller)

    def _pull(self, task: Task, container: Container) -> Outcome:
        canceller = self._cancellers.begin(task.arn, container.name)
        try:
            return self._steps.pull(task, container, canceller)
        finally:
            self._cancellers.end(task.arn, container.name, canceller)

    def _pull_succeeded(self, image: str) -> bool:
        """Did an earlier task pull exactly this image name (behaviour `once`)? The engine's documents know."""
        try:
            known = self.bus.durable.all(keys.IMAGE, READ_SECONDS)
        except Temporary as error:
            log.warning("whether %s was pulled before is not known, so it is pulled: %s", image, error)
            return False
        return any(image in found.names and found.pull_succeeded for found in known.values())

    @property
    def on_pull_began(self) -> Callable[[str, float], None]:
        """Called with task ARN and Unix seconds when a registry pull begins."""
        return self._steps.on_pull_began

    @on_pull_began.setter
    def on_pull_began(self, call: Callable[[str, float], None]) -> None:
        self._steps.on_pull_began = call

    def _role(self, id_: str) -> Credentials | None:
        return roles.awaited(self._identity.credentials, id_)

    def _world(self) -> World:
        return World(
            settings=self.settings,
            facts=self.facts(),
            picker=self.picker,
            region=self._identity.region,
            cluster=self._identity.cluster,
            instance_arn=self._identity.instance().arn,
            image_environment=self._image_environment,
            bridge_ip=self._lifecycle.bridge_ip,
            execution_credentials=lambda id_: self._role(id_) is not None,
        )

    def _image_environment(self, image: str) -> tuple[str, ...]:
        try:
            return self._inspector.environment_names(image)
        except DockerCallError as error:
            # The create call that follows tells what is wrong with the image, in Docker's own words.
            log.debug("image %s cannot be inspected: %s", image, error)
            return ()

    # -- resources ---------------------------------------------------------------------------

    def resources_for(self, task: Task, facts: DockerFacts | None = None) -> tuple[Resource, ...]:
        """The resources of a task, after the checks of spec 03 §3.7; `facts` decide about limits. Raises SetupError."""
        found = self.registry.resources_for(task, self._host(facts))
        ebs.look_for_mounts(task)
        return found

    def _host(self, facts: DockerFacts | None = None) -> Host:
        volumes = DockerVolumeCalls(self.api)
        who = self._identity
        return Host(
            self.settings, facts or self.facts(), volumes, who.credentials, who.region, who.cluster,
            who.instance().ec2_instance_id, self.facts, self.service_connect_refused,
        )  # fmt: skip

    def _resource(self, task: Task, effect: Effect) -> Outcome:
        resource: Resource | None = next((r for r in task.resources if r.name == effect.target), None)
        if resource is None:
            reason = f"the task has no resource {effect.target}"
            return self._resource_failed(effect, reason)
        try:
            if effect.action == Action.CREATE_RESOURCE:
                detail = self.registry.create(task, resource, self._host())
                return Outcome(action=effect.action, target=effect.target, detail=detail)
            self.registry.cleanup(task, resource, self._host())
        except (ResourceFailed, Temporary) as failure:
            return self._resource_failed(effect, str(failure) or "the resource could not be made")
        return Outcome(action=effect.action, target=effect.target)

    @staticmethod
    def _resource_failed(effect: Effect, reason: str) -> Outcome:
        named = NamedError("UnknownError", reason)
        return Outcome(action=effect.action, target=effect.target, error=named, reason=reason)
