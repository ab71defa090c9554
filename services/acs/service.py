"""The process `acs`: the only one that talks to the control plane about tasks.

Start: read what is stored, look around (machine, metadata, Docker facts) in parallel, register, then three long-lived
jobs: the ACS session, the worker behind it, and the submission of state changes. A fourth keeps house: it publishes
again what a restarted Redis lost, registers again when the capabilities changed, and forgets what nobody needs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import gevent
from msgspec.structs import replace as changed

from common import discovery, keys
from common.backoff import Backoff
from common.bus import Change
from common.discovery import Discovery
from common.errors import AgentError, Temporary
from common.keep import keep
from common.logs import fields
from common.metadata import Metadata, MetadataError
from common.model.agent import DockerFacts, Session
from common.own_keys import OwnCredentials
from common.process import Context
from common.version import COMMIT, VERSION
from common.wire import ecs as wire
from services.acs import devices, host, identity, lifecycle, tags
from services.acs.attachments import Attachments
from services.acs.attributes import Situation, attributes, not_offered
from services.acs.ecs import EcsClient
from services.acs.handlers import Handlers
from services.acs.instance import InstanceRecord, give_up_the_other
from services.acs.refresher import RoleRefresher
from services.acs.registration import Offer, Registrar, restored
from services.acs.roles import RoleCredentials
from services.acs.session import Session as AcsSession
from services.acs.session import Timings
from services.acs.settings import Settings, from_config
from services.acs.submission import Submission
from services.acs.words import SKEW_SECONDS, skewed

log = logging.getLogger(__name__)
T = TypeVar("T")

KEEP_HOUSE_SECONDS = 2.0
CAPABILITIES_SECONDS = 20.0
TIDY_SECONDS = 60.0
STOP_SECONDS = 5.0
SESSION_ID = "acs"
QUIET_SECONDS = 3.0  # a session that was down for less is no news
TIMINGS = Timings()


def serve(context: Context) -> int:
    """Run until the process is to stop. Raises Terminal for what a restart would not mend."""
    log.info("Starting Amazon ECS Agent", **fields(version=VERSION, commit=COMMIT))
    log.info("Loading configuration")
    settings = from_config(context.config)
    if settings.verify is False:
        log.warning("certificates are not verified (-k): anyone between this machine and AWS can read and change all")
    agent = Agent(context, settings)
    try:
        agent.start()
        context.stopping.wait()
    except Temporary:
        if not context.stopping.is_set():
            raise
    finally:
        agent.stop()
    return 0


class Agent:
    """All parts of this process and how they are wired."""

    def __init__(self, context: Context, settings: Settings) -> None:
        self._context, self._settings = context, settings
        self._bus = context.bus
        self._metadata = Metadata(disabled=settings.external, blackholed=settings.metadata_blackholed)
        self._credentials = OwnCredentials(settings.external, settings.credentials_profile)
        self._roles = RoleCredentials(self._bus.volatile)
        self._jobs: list[gevent.Greenlet] = []
        self._session: AcsSession | None = None
        self._submission: Submission | None = None
        self._attachments = Attachments(self._bus.durable, self._devices)
        self._foreign: frozenset[str] = frozenset()  # tasks of the instance that this machine was before
        self._document = Session()
        self._again: gevent.Greenlet[..., None] = gevent.Greenlet()  # a registration after the first

    def _wait(self, seconds: float) -> bool:
        """Sleep; False when the process is to stop."""
        return not self._context.stopping.wait(seconds)

    # -- start ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Register, then start the jobs."""
        if not self._settings.external:
            lifecycle.check_first_boot(self._metadata)
        if self._settings.warm_pools:
            self._context.not_ready("waiting for the warm pool")
            lifecycle.wait_for_service(self._metadata, self._wait)
        place = gevent.spawn(identity.find_place, self._metadata)
        machine = gevent.spawn(self._look_around)
        document = gevent.spawn(self._identity)
        self._settings = self._with_region()
        self._api = EcsClient(self._settings, self._credentials)
        self._place, self._host = _result(place), _result(machine)
        self._facts = self._wait_for_docker()
        stored = self._bus.durable.get(keys.INSTANCE, keys.INSTANCE_ID)
        first = restored(stored, self._settings, self._place.instance_id)
        if stored is not None and stored.arn != first.arn:
            self._foreign = give_up_the_other(self._bus.durable, f"this is the instance {first.ec2_instance_id}")
        self._record = InstanceRecord(self._bus.durable, first)
        self._registrar = Registrar(
            self._api, self._record, self._settings, _first_from(document, self._identity), self._wait,
            self._context.not_ready,
        )  # fmt: skip
        self._registered_as = self._offer(not first.arn, self._ec2_tags())
        if not self._context.wait_for_rules():
            return
        self._registrar.register(self._place, self._registered_as)
        self._context.not_ready("registered; connecting to ACS")
        if self._context.wait_for_endpoint():
            self._start_jobs()

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
                    raise Temporary("the process is to stop")
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
                raise Temporary("the process is to stop")

    def _devices(self) -> devices.Presence:
        volumes = self._bus.durable.all(keys.VOLUME) if self._settings.task_volumes else {}
        return devices.presence(self._settings.task_eni, volumes)

    def _offer(self, new: bool, ec2_tags: Mapping[str, str]) -> Offer:
        situation = Situation(
            self._context.config, self._settings, self._facts, self._host, self._place.outpost_arn
        )  # fmt: skip
        memory = self._host.memory_mib - self._settings.reserved_memory_mib
        if memory < 0:
            raise Temporary(
                "api register-container-instance: reserved memory is higher than available memory on the host, total "
                f"memory: {self._host.memory_mib}, reserved: {self._settings.reserved_memory_mib}: lower "
                "ECS_RESERVED_MEMORY"
            )
        log.info("Remaining memory", **fields(remainingMemory=memory))
        return Offer(
            attributes=attributes(situation, new),
            resources=wire.resources(
                self._host.cpus * 1024, memory, self._settings.reserved_ports, self._settings.reserved_ports_udp
            ),
            tags={**ec2_tags, **self._settings.tags},
            gpu_ids=self._host.gpus.ids if self._host.gpus else None,
        )

    def _ec2_tags(self) -> dict[str, str]:
        """Without these tags the instance must not be registered, so they are asked for until they come."""
        backoff = Backoff(1.0, 30.0)
        while self._settings.propagate_ec2_tags:
            try:
                if not self._place.instance_id:
                    self._place = replace(self._place, instance_id=self._metadata.meta("instance-id"))
                return tags.instance_tags(self._settings, self._credentials, self._place.instance_id, self._api.now())
            except (Temporary, MetadataError) as error:
                self._context.not_ready(f"the tags of the instance are not known: {error}")
                if not self._wait(backoff.delay()):
                    raise Temporary("the process is to stop") from error
        return {}

    def _start_jobs(self) -> None:
        arn, cluster = self._record.current.arn, self._settings.cluster_name
        self._roles.restore()
        self._document = self._bus.volatile.get(keys.SESSION, SESSION_ID) or self._document
        if self._document.connected:
            self._announce(False, "the agent was restarted")
        self._submission = Submission(
            self._bus, self._api, cluster, self._settings.bindings, self._roles.forget, self._attachments, self._foreign
        )
        self._submission.restore()
        self._attachments.report = self._submission.attach
        self._attachments.restore()
        handlers = Handlers(
            self._bus, self._roles, self._record, self._submission.reject, self._attachments,
            lambda: self._bus.durable.call(lambda client: int(client.xlen(keys.COMMANDS))),
        )  # fmt: skip
        finder = Discovery(
            discovery.ACS, self._discover, lambda: (cluster, arn), fixed=self._settings.acs_endpoint,
            known=self._record.current.acs_endpoint, keep=lambda found: gevent.spawn(self._keep, acs_endpoint=found),
        )  # fmt: skip
        self._session = AcsSession(
            self._settings, self._credentials, finder, arn, self._facts.server_version, handlers, self._announce,
            self._context.stopping, self._api.now, TIMINGS, self._heard,
        )  # fmt: skip
        jobs: dict[str, Callable[[], None]] = {
            "the session with ACS": self._session.run,
            "the handling of messages": handlers.run,
            "the submission of state changes": self._submission.run,
            "the second look at state changes": self._submission.flush_forever,
            "the reports of attachments": self._attachments.run,
            "housekeeping": self._keep_house,
        }
        if self._context.config["IMDSIAMRolesEnabled"]:
            refresher = RoleRefresher(self._metadata, self._bus.durable, self._roles)
            jobs["the renewal of instance roles"] = lambda: refresher.run(self._wait)
        if self._settings.spot_draining:
            jobs["the watch for spot interruptions"] = lambda: lifecycle.watch_spot(
                self._metadata, self._api, cluster, lambda: arn, self._wait
            )
        self._jobs = [gevent.spawn(keep, name, job, self._wait) for name, job in jobs.items()]

    def stop(self) -> None:
        """End the connection, let submissions in flight end, stop everything."""
        if self._session is not None:
            self._session.stop()
        if self._submission is not None:
            self._submission.stop(STOP_SECONDS)
        gevent.killall(self._jobs, timeout=1.0)

    # -- keeping house -------------------------------------------------------------------------

    def _announce(self, connected: bool, reason: str, inactive: bool = False) -> None:
        """Publish how the session stands; never in the way of the session itself."""
        document = self._document
        since = document.since if document.connected == connected and document.since else time.time()
        self._document = changed(
            document, revision=document.revision + 1, connected=connected, since=since, reason=reason,
            inactive=inactive,
        )  # fmt: skip
        gevent.spawn(self._publish_session)
        if connected:
            self._tell_readiness()

    def _tell_readiness(self) -> None:
        """Ready is an agent that ECS can reach. A session that is replaced at once is told by nobody."""
        document, arn = self._document, self._record.current.arn
        if document.connected:
            skew = self._api.skew_seconds
            off = f"; {skewed(skew)}" if abs(skew) >= SKEW_SECONDS else ""
            self._context.ready(f"registered as {arn}, connected to ACS{off}")
        elif time.time() - document.since > QUIET_SECONDS:
            reason = document.reason or "no connection was made yet"
            self._context.not_ready(f"registered as {arn}, but there is no session with ACS: {reason}")

    def _discover(self, operation: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """DiscoverPollEndpoint; what it tells about Service Connect is for the engine."""
        answer = self._api.call(operation, body)
        found = str(answer.get(discovery.SERVICE_CONNECT) or "")
        if found != self._record.current.service_connect_endpoint:
            gevent.spawn(self._keep, service_connect_endpoint=found)
        return answer

    def _keep(self, **endpoints: str) -> None:
        """For the next start, should DiscoverPollEndpoint fail then; the session does not wait for it."""
        try:
            self._record.change(**endpoints)
        except Temporary as error:
            log.debug("an endpoint is not kept: %s", error)

    def _heard(self) -> None:
        """ACS sent a heartbeat; telemetry checks the container runtime when it learns of it."""
        document = self._document
        self._document = changed(document, revision=document.revision + 1, heartbeat_at=time.time())
        gevent.spawn(self._publish_session)

    def _publish_session(self) -> None:
        try:
            change = Change().save(keys.SESSION, SESSION_ID, self._document)
            self._bus.volatile.commit(change, deadline_seconds=2.0)
        except Temporary as error:
            log.debug("the state of the session is not published: %s", error)

    def _keep_house(self) -> None:
        """Look after Redis every two seconds, after capabilities and leftovers less often."""
        epochs = {"volatile": self._bus.volatile.epoch(), "durable": self._bus.durable.epoch()}
        next_look, next_tidy = time.monotonic() + CAPABILITIES_SECONDS, time.monotonic() + TIDY_SECONDS
        while self._wait(KEEP_HOUSE_SECONDS):
            try:
                self._tell_readiness()
                epochs = self._check_epochs(epochs)
                if time.monotonic() > next_look:
                    next_look = time.monotonic() + CAPABILITIES_SECONDS
                    self._check_capabilities()
                if time.monotonic() > next_tidy:
                    next_tidy = time.monotonic() + TIDY_SECONDS
                    self._roles.forget_expired()
                    if self._submission is not None:
                        self._submission.forget_tasks()
                    self._attachments.forget_tasks(self._bus.durable.all(keys.TASK))
            except Temporary as error:
                log.debug("keeping house waits: %s", error)

    def _check_epochs(self, epochs: dict[str, str]) -> dict[str, str]:
        now = {"volatile": self._bus.volatile.epoch(1.0), "durable": self._bus.durable.epoch(1.0)}
        if now["volatile"] != epochs["volatile"]:
            self._roles.publish_again()
            self._publish_session()
        if now["durable"] != epochs["durable"]:
            log.warning("the durable Redis lost its data; what this process knows is written again")
            self._record.publish_again()
            self._attachments.publish_again()
            if self._submission is not None:
                self._submission.publish_again()
        return now

    def _check_capabilities(self) -> None:
        """Docker may have changed since the registration (the facts of its last life came first, or an update)."""
        facts = self._bus.durable.get(keys.FACTS, keys.FACTS_ID, 1.0)
        if facts is None or facts == self._facts or not facts.usable_api_versions:
            return
        self._facts = facts
        offer = self._offer(False, self._registered_as.tags)  # EC2 is not asked again: it could hold up everything
        if offer.attributes == self._registered_as.attributes:
            return
        log.info("the capabilities of this instance changed; it is registered again")
        self._registered_as = offer
        self._again.kill(block=False)
        self._again = gevent.spawn(self._register_again, offer)

    def _register_again(self, offer: Offer) -> None:
        try:
            self._registrar.register(self._place, offer)
            self._tell_readiness()
        except AgentError as error:
            log.error("the changed capabilities could not be registered: %s", error)


def _result(job: gevent.Greenlet[..., T]) -> T:
    """What a greenlet returned; its error is raised here."""
    return job.get()


def _first_from(job: gevent.Greenlet[..., tuple[str, str]], ask: Callable[[], tuple[str, str]]) -> Callable[
    [], tuple[str, str]
]:  # fmt: skip
    """The first call answers what `job` found meanwhile; later ones ask anew."""
    pending = [job]
    return lambda: pending.pop().get() if pending else ask()
