"""The process `telemetry`: measures the containers, tells the endpoint and the telemetry backend (docs/telemetry.md).

It owns no state that matters: what it knows comes from the task documents, and after a restart there is a gap in the
metrics, nothing more. It begins to measure as soon as it sees tasks, and connects once the instance has an ARN. Redis,
Docker and the backend may each be away at any time; the others go on.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import gevent
import gevent.event

from common import discovery, logs
from common.bus import RESET, Change, FeedItem
from common.errors import Temporary
from common.host_paths import host_path
from common.keep import keep
from common.keys import FACTS, FACTS_ID, INSTANCE, INSTANCE_ID, SESSION, TASK
from common.model.agent import DockerFacts, Instance
from common.model.agent import Session as SessionDocument
from common.model.task import Task
from common.own_keys import OwnCredentials
from common.process import Context
from services.telemetry.core.book import Book
from services.telemetry.core.doctor import RuntimeCheck
from services.telemetry.core.requests import Sender
from services.telemetry.core.samples import queue_length
from services.telemetry.discovery import Caller, settings
from services.telemetry.dockerd import Daemon
from services.telemetry.files import Host, this_host
from services.telemetry.mailbox import Mailbox
from services.telemetry.publisher import Publisher, driver_volume_use
from services.telemetry.restarts import Restarts
from services.telemetry.sampler import Sampler
from services.telemetry.session import Outlet, Session, Timers
from services.telemetry.snapshots import Snapshots

LISTEN_SECONDS = 5.0  # longest wait for something new in the volatile Redis
RECONCILE_SECONDS = 300.0  # between two reads of all documents, should the feed have kept something back
FOLLOW_PAUSE_SECONDS = 0.25  # a task that starts changes six times within moments; one look at the last one will do
DEFAULT_INTERVAL_SECONDS = 10.0
ACS, TCS = "acs", "tcs"  # ids of the session documents


def serve(context: Context) -> int:
    """Run until the context is stopping."""
    raise_file_limit()
    Service(context, this_host()).run()
    return 0


def raise_file_limit() -> None:
    """Four or five descriptors per container are kept open; the usual soft limit would do for 200 containers."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def sampling_interval(wait_seconds: float) -> float:
    """ECS_POLLING_METRICS_WAIT_DURATION; a value that is not positive is the default of 10 s."""
    return wait_seconds if wait_seconds > 0 else DEFAULT_INTERVAL_SECONDS


class Service:
    """Everything of this process, put together. `timers` are shortened by a test."""

    def __init__(self, context: Context, host: Host, timers: Timers | None = None) -> None:
        config = context.config
        self._context, self._log, self._timers = context, context.log, timers or Timers()
        self._durable, self._volatile = context.bus.durable, context.bus.volatile
        polling = bool(config["ECS_POLL_METRICS"])
        interval = sampling_interval(config["ECS_POLLING_METRICS_WAIT_DURATION"])
        self.book = Book(not config["ECS_DISABLE_METRICS"], queue_length(interval, polling))
        self._daemon = Daemon(config["DOCKER_HOST"])
        self._restarts = Restarts(self._durable)
        self.sampler = Sampler(self.book, host, self._daemon, self._restarts, polling, interval)
        self._registered, self._loaded = gevent.event.Event(), gevent.event.Event()
        self._snapshots = Snapshots(self.book, self.sampler, self._volatile, self._loaded.is_set)
        self._boxes = (Mailbox(), Mailbox())
        self._instance, self._facts = Instance(), DockerFacts()
        self._heartbeat_at = 0.0
        self._acs_revision: int | None = None  # of the last document about the ACS session, None before the first look
        self._session_revision = 0
        self._session_told: tuple[bool, str, float] | None = None
        if config["ECS_DISABLE_METRICS"] and config["ECS_DISABLE_DOCKER_HEALTH_CHECK"]:
            self._log.warning("Both metrics and health were disabled, but still starting the telemetry session for "
                              "service connect metrics")  # fmt: skip

    def run(self) -> None:
        """Run until the context is stopping."""
        stopping = self._context.stopping
        helpers: list[gevent.Greenlet[..., object]] = [
            self._keep("the reader of the documents", self._follow),
            self._keep("the sampler", lambda: self.sampler.run(stopping, self._snapshots.publish)),
            self._keep("the way to the telemetry backend", self._talk),
        ]
        stopping.wait()
        gevent.joinall(helpers, timeout=2.0)
        gevent.killall(helpers)
        self.sampler.close()

    def _keep(self, name: str, job: Callable[[], None]) -> gevent.Greenlet:
        return gevent.spawn(keep, name, job, lambda seconds: not self._context.stopping.wait(seconds))

    # -- the documents -------------------------------------------------------------------------

    def _follow(self) -> None:
        """Keep the book in step with the task documents.

        What was read and could not be handled is not lost: the reader that begins anew reads everything first.
        """
        feed, whole_at = self._durable.feed(), time.monotonic() + RECONCILE_SECONDS
        while not self._context.stopping.is_set():
            self._take(feed.read(1.0 if not self._loaded.is_set() else 5.0))
            if time.monotonic() >= whole_at:
                self._reload()
                whole_at = time.monotonic() + RECONCILE_SECONDS
            self._context.stopping.wait(FOLLOW_PAUSE_SECONDS)

    def _take(self, items: list[FeedItem]) -> None:
        if RESET in items:
            self._reload()
            return
        arns = dict.fromkeys(i.id for i in items if i.kind == TASK.name)  # one that changed five times is read once
        tasks = self._durable.get_many(TASK, arns)
        for arn in arns:
            self._task(arn, tasks.get(arn))
        others = {i.kind for i in items if not i.deleted}
        if INSTANCE.name in others:
            self._take_instance(self._durable.get(INSTANCE, INSTANCE_ID))
        if FACTS.name in others:
            self._facts = self._durable.get(FACTS, FACTS_ID) or self._facts

    def _reload(self) -> None:
        self._restarts.load()
        tasks = self._durable.all(TASK)
        for arn in set(self.book.tasks) - set(tasks):
            self._task(arn, None)
        for arn, task in tasks.items():
            self._task(arn, task)
        self._restarts.keep_only({c.docker_id for e in self.book.tasks.values() for c in e.containers.values()})
        self._facts = self._durable.get(FACTS, FACTS_ID) or self._facts
        self._take_instance(self._durable.get(INSTANCE, INSTANCE_ID))
        self._loaded.set()

    def _task(self, arn: str, task: Task | None) -> None:
        difference = self.book.apply(task) if task is not None else self.book.forget(arn)
        self.sampler.follow(self.book.tasks.get(arn), difference)

    def _take_instance(self, instance: Instance | None) -> None:
        if instance is None or not instance.arn:
            return
        if self._instance.arn and instance.arn != self._instance.arn:
            self._log.warning("the container instance has another ARN now", **logs.fields(arn=instance.arn))
        self._instance = instance
        self._registered.set()

    def _sender(self) -> Sender:
        cluster = self._context.config["ECS_CLUSTER"] or self._instance.cluster or "default"
        return Sender(cluster, self._instance.arn)

    # -- the backend ---------------------------------------------------------------------------

    def _talk(self) -> None:
        """Wait for the instance's ARN, then publish and keep the session."""
        config, stopping = self._context.config, self._context.stopping
        self._context.not_ready("waits for the registration of the container instance")
        while not (self._registered.is_set() and self._loaded.is_set()):
            if stopping.wait(0.05):
                return
        self._context.ready()
        region = self._instance.region or config["AWS_DEFAULT_REGION"]
        keys = OwnCredentials(bool(config["ECS_EXTERNAL"]), config["ECS_ALTERNATE_CREDENTIAL_PROFILE"] or "default")
        chosen = settings(config, region)
        finder = discovery.Discovery(
            discovery.TCS, Caller(chosen, keys).call, lambda: (self._sender().cluster, self._instance.arn),
            fixed=chosen.override,
        )  # fmt: skip
        check = RuntimeCheck(time.time())
        outlet = Outlet(
            sender=self._sender,
            endpoint=finder.endpoint,
            connected=finder.connected,
            keys=keys.keys,
            region=region,
            docker_version=lambda: self._facts.server_version,
            verify=chosen.verify,
        )
        volume_use = driver_volume_use(host_path(config["CSIDriverSocketPath"]))
        publisher = Publisher(self.book, self._sender, *self._boxes, self._timers.publish, volume_use)
        session = Session(outlet, self._boxes, check, self._tell_session, self._timers)
        runners: list[gevent.Greenlet[..., object]] = [
            self._keep("the publisher", lambda: publisher.run(stopping)),
            self._keep("the telemetry session", lambda: session.run(stopping)),
            self._keep("the listener to the ACS session", lambda: self._listen(check, session)),
        ]
        gevent.joinall(runners)

    def _tell_session(self, connected: bool, reason: str) -> None:
        """Publish how the session stands, without waiting for Redis: the next look repeats it."""
        self._session_told = (connected, reason, time.time())
        gevent.spawn(self._save_session)

    def _save_session(self) -> None:
        if self._session_told is None:
            return
        connected, reason, since = self._session_told
        try:
            if not self._session_revision:
                old = self._volatile.get(SESSION, TCS, 2.0)
                self._session_revision = old.revision if old else 0
            self._session_revision += 1
            document = SessionDocument(revision=self._session_revision, connected=connected, since=since, reason=reason)
            self._volatile.commit(Change().save(SESSION, TCS, document), 2.0)
        except Temporary as error:
            self._log.debug("the state of the telemetry session is not published: %s", error)

    def _listen(self, check: RuntimeCheck, session: Session) -> None:
        """Follow the ACS session, notice a new Redis."""
        feed = self._volatile.feed()
        while not self._context.stopping.is_set():
            items = feed.read(LISTEN_SECONDS)
            if RESET in items:  # it was away, perhaps before this began, and perhaps came back without its data
                self._snapshots.announce_again()
                self._session_revision = 0
                self._save_session()
            if any(item == RESET or (item.kind, item.id) == (SESSION.name, ACS) for item in items):
                self._heard(check, session, self._volatile.get(SESSION, ACS, 2.0))

    def _heard(self, check: RuntimeCheck, session: Session, acs: SessionDocument | None) -> None:
        """Check the container runtime at each heartbeat of ACS; drop the session when ECS deregistered the instance.

        ACS is asked again every hour, and each time that it says so is news (spec 02 §3.4). What was said before this
        process listened is none: there was no session to drop.
        """
        if acs is not None and acs.inactive and self._acs_revision not in (None, acs.revision):
            session.drop("ECS says that this container instance was deregistered")
        self._acs_revision = acs.revision if acs is not None else self._acs_revision or 0
        beat = acs.heartbeat_at if acs else 0.0
        if beat and beat != self._heartbeat_at:
            self._heartbeat_at = beat
            gevent.spawn(self._check, check)

    def _check(self, check: RuntimeCheck) -> None:
        try:
            self._daemon.ping()
        except Temporary as error:
            self._log.warning("the container runtime does not answer: %s", error)
            check.record(False, time.time())
            return
        check.record(True, time.time())
