"""The way to a registered container instance: look around, wait for whom it takes, register (spec 01 §5, §6).

Machine, metadata and identity document are asked at the same time, before Docker's facts are needed. What was found and
made is a `Registered`, which exists only whole: nothing after it has to ask whether the start came that far.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import gevent

from common import keys
from common.backoff import Backoff
from common.errors import Temporary
from common.logs import fields
from common.metadata import Metadata
from common.model.agent import DockerFacts
from common.own_keys import OwnCredentials
from common.process import Context
from common.wire import ecs as wire
from services.acs import host, identity, lifecycle, tags
from services.acs.attributes import Situation, attributes, not_offered
from services.acs.ecs import EcsClient
from services.acs.identity import Place
from services.acs.instance import InstanceRecord, give_up_the_other
from services.acs.registration import Offer, Registrar, restored
from services.acs.settings import Settings

log = logging.getLogger(__name__)
T = TypeVar("T")


class Stopped(Temporary):
    """The process is to stop before it has started."""

    def __init__(self) -> None:
        super().__init__("the process is to stop")


@dataclass
class Registered:
    """This machine, registered. `offer` is what it was registered with, `facts` the Docker of that moment."""

    settings: Settings
    metadata: Metadata
    credentials: OwnCredentials
    api: EcsClient
    place: Place
    machine: host.HostFacts
    record: InstanceRecord
    registrar: Registrar
    facts: DockerFacts
    offer: Offer
    foreign: frozenset[str]  # tasks of the instance that this machine was before

    @property
    def arn(self) -> str:
        """Of the container instance; registering again keeps it."""
        return self.record.current.arn


class Start:
    """One start of the process."""

    def __init__(self, context: Context, settings: Settings) -> None:
        self._context, self._settings, self._bus = context, settings, context.bus
        self._metadata = Metadata(disabled=settings.external)
        self._credentials = OwnCredentials(settings.external, settings.credentials_profile)

    def run(self) -> Registered:
        """Register. Raises Stopped, other Temporary errors, and Terminal for what a restart would not mend."""
        if not self._settings.external:
            lifecycle.check_first_boot(self._metadata)
        if self._settings.warm_pools:
            self._context.not_ready("waiting for the warm pool")
            lifecycle.wait_for_service(self._metadata, self._wait)
        place = gevent.spawn(identity.find_place, self._metadata)
        machine = gevent.spawn(self._look_around)
        document = gevent.spawn(self._identity)
        settings = self._settings = self._with_region()
        api = EcsClient(settings, self._credentials)
        here, seen = _result(place), _result(machine)
        facts = self._wait_for_docker()
        record, foreign = self._record(here)
        registrar = Registrar(
            api, record, settings, _first_from(document, self._identity), self._wait, self._context.not_ready
        )
        here, ec2_tags = self._ec2_tags(here, api)
        offer = offer_of(self._context, settings, facts, seen, here, not record.current.arn, ec2_tags)
        if not self._context.wait_for_rules():
            raise Stopped
        registrar.register(here, offer)
        self._context.not_ready("registered; connecting to ACS")
        if not self._context.wait_for_endpoint():
            raise Stopped
        return Registered(
            settings, self._metadata, self._credentials, api, here, seen, record, registrar, facts, offer, foreign
        )

    def _wait(self, seconds: float) -> bool:
        """Sleep; False when the process is to stop."""
        return not self._context.stopping.wait(seconds)

    def _look_around(self) -> host.HostFacts:
        config = self._context.config
        found = host.gather(self._settings.ipv6_only, bool(config["ECS_ENABLE_GPU_SUPPORT"]))
        for sentence in not_offered(config, found):
            log.warning("%s", sentence)
        return found

    def _identity(self) -> tuple[str, str]:
        if self._settings.no_identity_document:
            return "", ""
        return identity.identity_document(self._metadata)

    def _with_region(self) -> Settings:
        """Wait for a region when none is configured."""
        backoff = Backoff(1.0, 60.0)
        settings = self._settings
        while not settings.region:
            region = identity.region(self._metadata, settings.no_identity_document)
            settings = replace(settings, region=region)
            if not region:
                self._context.not_ready("the region is not known: set AWS_DEFAULT_REGION")
                if not self._wait(backoff.delay()):
                    raise Stopped
        return settings

    def _wait_for_docker(self) -> DockerFacts:
        """The facts that the engine publishes."""
        backoff = Backoff(0.02, 1.0, 1.5, 0.2)
        while True:
            facts = self._bus.durable.get(keys.FACTS, keys.FACTS_ID)
            if facts is not None and facts.usable_api_versions:
                return facts
            delay = backoff.delay()
            if delay > 0.5:
                self._context.not_ready("waiting for the engine to say which Docker there is")
            if not self._wait(delay):
                raise Stopped

    def _record(self, place: Place) -> tuple[InstanceRecord, frozenset[str]]:
        """What is stored of this instance, and the tasks of another one when that is what is stored."""
        foreign: frozenset[str] = frozenset()
        stored = self._bus.durable.get(keys.INSTANCE, keys.INSTANCE_ID)
        first = restored(stored, self._settings, place.instance_id)
        if stored is not None and stored.arn != first.arn:
            foreign = give_up_the_other(self._bus.durable, f"this is the instance {first.ec2_instance_id}")
        return InstanceRecord(self._bus.durable, first), foreign

    def _ec2_tags(self, place: Place, api: EcsClient) -> tuple[Place, dict[str, str]]:
        if not self._settings.propagate_ec2_tags:
            return place, {}

        def ask(instance_id: str) -> dict[str, str]:
            return tags.instance_tags(self._settings, self._credentials, instance_id, api.now())

        found = tags.sure_tags(ask, self._metadata, place, self._context.not_ready, self._wait)
        if found is None:
            raise Stopped
        return found


def offer_of(
    context: Context, settings: Settings, facts: DockerFacts, machine: host.HostFacts, place: Place, new: bool,
    ec2_tags: Mapping[str, str],
) -> Offer:  # fmt: skip
    """What this machine offers to ECS with this Docker. Raises Temporary when more memory is reserved than there is."""
    situation = Situation(context.config, settings, facts, machine, place.outpost_arn)
    memory = machine.memory_mib - settings.reserved_memory_mib
    if memory < 0:
        raise Temporary(
            "api register-container-instance: reserved memory is higher than available memory on the host, total "
            f"memory: {machine.memory_mib}, reserved: {settings.reserved_memory_mib}: lower ECS_RESERVED_MEMORY"
        )
    log.info("Remaining memory", **fields(remainingMemory=memory))
    return Offer(
        attributes=attributes(situation, new),
        resources=wire.resources(
            machine.cpus * 1024, memory, settings.reserved_ports, settings.reserved_ports_udp
        ),
        tags={**ec2_tags, **settings.tags},
        gpu_ids=machine.gpus.ids if machine.gpus else None,
    )  # fmt: skip


def _result(job: gevent.Greenlet[..., T]) -> T:
    """What a greenlet returned; its error is raised here."""
    return job.get()


def _first_from(job: gevent.Greenlet[..., tuple[str, str]], ask: Callable[[], tuple[str, str]]) -> Callable[
    [], tuple[str, str]
]:  # fmt: skip
    """The first call answers what `job` found meanwhile; later ones ask anew."""
    pending = [job]
    return lambda: pending.pop().get() if pending else ask()
