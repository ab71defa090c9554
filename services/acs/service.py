"""The process `acs`: the only one that talks to the control plane about tasks.

Once the machine is registered (services.acs.start), long-lived jobs: the session with ACS, the worker behind it, the
submission of state changes, and one that keeps house: it publishes again what a restarted Redis lost, registers again
when the capabilities changed, and forgets what nobody needs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import gevent
from msgspec.structs import replace as changed

from common import discovery, keys
from common.bus import Change
from common.discovery import Discovery
from common.errors import AgentError, Temporary
from common.keep import keep
from common.logs import fields
from common.model.agent import Session
from common.model.task import Task
from common.process import Context
from common.version import COMMIT, VERSION
from services.acs import devices, lifecycle
from services.acs.attachments import Attachments
from services.acs.handlers import Handlers
from services.acs.refresher import RoleRefresher
from services.acs.registration import Offer
from services.acs.roles import RoleCredentials
from services.acs.session import Session as AcsSession
from services.acs.session import Timings
from services.acs.settings import from_config
from services.acs.start import Registered, Start, offer_of
from services.acs.submission import Submission
from services.acs.words import SKEW_SECONDS, skewed

log = logging.getLogger(__name__)

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
    try:
        agent = Agent(context, Start(context, settings).run())
        agent.run()
    except Temporary:
        if not context.stopping.is_set():
            raise
    return 0


class Agent:
    """The jobs of a registered instance and how they are wired."""

    def __init__(self, context: Context, instance: Registered) -> None:
        self._context, self._instance, self._settings = context, instance, instance.settings
        self._bus, self._api, self._record = context.bus, instance.api, instance.record
        self._facts, self._offer = instance.facts, instance.offer
        self._roles = RoleCredentials(self._bus.volatile)
        self._attachments = Attachments(self._bus.durable, self._devices)
        cluster = self._settings.cluster_name
        self._submission = Submission(
            self._bus, self._api, cluster, self._settings.bindings, self._roles.forget, self._attachments,
            instance.foreign,
        )  # fmt: skip
        self._attachments.report = self._submission.attach
        self._handlers = Handlers(
            self._bus, self._roles, self._record, self._submission.reject, self._attachments,
            lambda: self._bus.durable.call(lambda client: int(client.xlen(keys.COMMANDS))),
        )  # fmt: skip
        finder = Discovery(
            discovery.ACS, self._discover, lambda: (cluster, instance.arn), fixed=self._settings.acs_endpoint,
            known=self._record.current.acs_endpoint, keep=lambda found: gevent.spawn(self._keep, acs_endpoint=found),
        )  # fmt: skip
        self._session = AcsSession(
            self._settings, instance.credentials, finder, instance.arn, self._facts.server_version, self._handlers,
            self._announce, context.stopping, self._api.now, TIMINGS, self._heard,
        )  # fmt: skip
        self._document = Session()
        self._epochs: dict[str, str] = {}  # of the two Redis, as they were when all was written
        self._again: gevent.Greenlet[..., None] = gevent.Greenlet()  # a registration after the first

    def run(self) -> None:
        """Take up what is stored, work until the process is to stop, and let submissions in flight end."""
        self._roles.restore()
        self._document = self._bus.volatile.get(keys.SESSION, SESSION_ID) or self._document
        if self._document.connected:
            self._announce(False, "the agent was restarted")
        self._submission.restore()
        self._attachments.restore()
        jobs = [gevent.spawn(keep, name, job, self._wait) for name, job in self._jobs().items()]
        try:
            self._context.stopping.wait()
        finally:
            self._session.stop()
            self._submission.stop(STOP_SECONDS)
            gevent.killall(jobs, timeout=1.0)

    def _jobs(self) -> dict[str, Callable[[], None]]:
        jobs: dict[str, Callable[[], None]] = {
            "the session with ACS": self._session.run,
            "the handling of messages": self._handlers.run,
            "the submission of state changes": self._submission.run,
            "the second look at state changes": self._submission.flush_forever,
            "the reports of attachments": self._attachments.run,
            "housekeeping": self._keep_house,
        }
        metadata = self._instance.metadata
        if self._context.config["IMDSIAMRolesEnabled"]:
            refresher = RoleRefresher(metadata, self._bus.durable, self._roles)
            jobs["the renewal of instance roles"] = lambda: refresher.run(self._wait)
        if self._settings.spot_draining:
            jobs["the watch for spot interruptions"] = lambda: lifecycle.watch_spot(
                metadata, self._api, self._settings.cluster_name, lambda: self._instance.arn, self._wait
            )
        return jobs

    def _wait(self, seconds: float) -> bool:
        """Sleep; False when the process is to stop."""
        return not self._context.stopping.wait(seconds)

    def _devices(self) -> devices.Presence:
        volumes = self._bus.durable.all(keys.VOLUME) if self._settings.task_volumes else {}
        return devices.presence(self._settings.task_eni, volumes)

    # -- the session -----------------------------------------------------------------------------

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
        document, arn = self._document, self._instance.arn
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

    # -- keeping house -------------------------------------------------------------------------

    def _keep_house(self) -> None:
        """Look after Redis every two seconds, after capabilities and leftovers less often."""
        self._epochs = self._epochs or {"volatile": self._bus.volatile.epoch(), "durable": self._bus.durable.epoch()}
        next_look, next_tidy = time.monotonic() + CAPABILITIES_SECONDS, time.monotonic() + TIDY_SECONDS
        while self._wait(KEEP_HOUSE_SECONDS):
            try:
                self._tell_readiness()
                if self._lost_durable():
                    next_tidy = time.monotonic() + TIDY_SECONDS  # the engine writes its tasks again
                if time.monotonic() > next_look:
                    next_look = time.monotonic() + CAPABILITIES_SECONDS
                    self._check_capabilities()
                if time.monotonic() > next_tidy:
                    next_tidy = time.monotonic() + TIDY_SECONDS
                    self._tidy(self._bus.durable.all(keys.TASK))
            except Temporary as error:
                log.debug("keeping house waits: %s", error)

    def _lost_durable(self) -> bool:
        """Write again what a Redis has lost; answers whether it was the durable one.

        An epoch counts as seen once all is written: what failed half-way is done again.
        """
        volatile, durable = self._bus.volatile.epoch(1.0), self._bus.durable.epoch(1.0)
        if volatile != self._epochs["volatile"]:
            self._roles.publish_again()
            self._publish_session()
            self._epochs["volatile"] = volatile
        if durable == self._epochs["durable"]:
            return False
        log.warning("the durable Redis lost its data; what this process knows is written again")
        self._record.publish_again()
        self._attachments.publish_again()
        self._submission.publish_again()
        self._epochs["durable"] = durable
        return True

    def _tidy(self, tasks: Mapping[str, Task]) -> None:
        self._submission.forget_tasks(tasks)  # at once: `tasks` lacks those that come from here on
        self._attachments.forget_tasks(tasks)
        ids = {id_ for t in tasks.values() for id_ in (t.credentials_id, t.execution_credentials_id)}
        self._roles.forget_expired(ids)

    def _check_capabilities(self) -> None:
        """Docker may have changed since the registration (the facts of its last life came first, or an update)."""
        facts = self._bus.durable.get(keys.FACTS, keys.FACTS_ID, 1.0)
        if facts is None or facts == self._facts or not facts.usable_api_versions:
            return
        self._facts = facts
        # EC2 is not asked for its tags again: that could hold up everything.
        offer = offer_of(
            self._context, self._settings, facts, self._instance.machine, self._instance.place, False, self._offer.tags
        )
        if offer.attributes == self._offer.attributes:
            return
        log.info("the capabilities of this instance changed; it is registered again")
        self._offer = offer
        self._again.kill(block=False)
        self._again = gevent.spawn(self._register_again, offer)

    def _register_again(self, offer: Offer) -> None:
        try:
            self._instance.registrar.register(self._instance.place, offer)
            self._tell_readiness()
        except AgentError as error:
            log.error("the changed capabilities could not be registered: %s", error)
