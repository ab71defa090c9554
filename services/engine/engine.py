"""The engine: takes commands, keeps one worker per task, hands Docker's events to them.

Nothing here waits for a task: commands and events are put into inboxes. A command is acknowledged by the worker, in
the commit that saves what it brought about; until then its id is remembered, because Redis may deliver it again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import gevent
import gevent.event
from msgspec.structs import replace

from common import keys
from common.backoff import Backoff
from common.bus import Bus, Entry
from common.clock import Clock, boot_id
from common.config import Config
from common.errors import AgentError, Temporary
from common.keep import keep
from common.logs import fields
from common.model.agent import DockerFacts, Instance
from common.model.messages import (
    Command,
    CredentialsChanged,
    ForgetEverything,
    ImageRemoved,
    RunOrUpdateTask,
    StopVerified,
)
from common.model.status import TaskStatus
from common.model.task import Container, Resource, Task
from common.serviceconnect import proxy_name
from services.engine.admission import Admission, host_of
from services.engine.core.decide import Admitted, CredentialsArrived, Desire, Happened, Inadmissible, PullBegan
from services.engine.core.effects import DockerEvent, Effect, Outcome, Resync, SetupError
from services.engine.core.progress import needs_admission
from services.engine.core.relay import is_relay
from services.engine.core.turn import Settings
from services.engine.crew import Crew
from services.engine.images import Images
from services.engine.patrol import Patrol
from services.engine.records import GROUP, Records
from services.engine.relays import Relays
from services.engine.worker import Letter, Poll, Republish, Shop, Stop, Worker

log = logging.getLogger(__name__)

EPOCH_CHECK_SECONDS = 5.0
READ_SECONDS = 5.0
SETUP_ATTEMPTS = 5
LAST_SAVES_SECONDS = 0.1  # what a killed worker had just sent to Redis arrives before what follows


class HandsLike(Protocol):
    """What the engine needs of Docker and the host."""

    on_pull_began: Callable[[str, float], None]

    def perform(self, task: Task, effect: Effect) -> Outcome: ...

    def cancel(self, task_arn: str, container: str = "") -> None: ...

    def taken_up(self, container: Container) -> None: ...

    def ended(self, container: Container) -> None: ...

    def events(self) -> Iterator[DockerEvent | Resync]: ...

    def facts(self) -> DockerFacts: ...

    def refresh_facts(self) -> DockerFacts: ...

    def load_driver_image(self) -> bool: ...

    def load_service_connect(self) -> bool: ...

    def service_connect_stamp(self) -> tuple[int, ...] | None: ...

    def forget_instance(self) -> None: ...

    def forget(self, task: Task) -> None: ...

    def list_containers(self) -> list[tuple[str, str, dict[str, str], str]]: ...

    def wait_until_docker_answers(self, stopping: Any) -> object: ...

    def resources_for(self, task: Task, facts: DockerFacts) -> Iterable[Resource]: ...


def settings_of(config: Config) -> Settings:
    """The options that decisions depend on."""
    return Settings(
        pull_behavior=str(config["ECS_IMAGE_PULL_BEHAVIOR"]),
        pull_upfront=bool(config["ECS_PULL_DEPENDENT_CONTAINERS_UPFRONT"]),
        cleanup_wait_seconds=float(config["ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION"]),
        cleanup_jitter_seconds=float(config["ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION_JITTER"]),
    )


class Engine:
    """All tasks of this host."""

    def __init__(
        self,
        config: Config,
        bus: Bus,
        hands: HandsLike,
        facts: DockerFacts,
        clock: Clock,
        stopping: Callable[[], bool],
    ) -> None:
        self.config, self.bus, self.hands, self.facts, self.stopping = config, bus, hands, facts, stopping
        self.workers: dict[str, Worker] = {}
        self.records, self.images = Records(bus, stopping), Images(bus, clock)
        self.admission = Admission(host_of(facts, config), self._admitted, self._refused)
        self._by_docker_id: dict[str, tuple[str, str]] = {}
        self.stream_open = gevent.event.Event()
        self._may_start = gevent.event.Event()  # containers, new ones and those of saved tasks
        self.patrol = Patrol(hands, self._tasks, self._look_at)
        self.relays = Relays(
            hands, self._tasks, lambda task: self.add(task, True).start(), self._end,
            self._refresh_facts, lambda: self.facts.service_connect_loaded, self._instance,
            str(config["AWS_DEFAULT_REGION"] or ""),
        )  # fmt: skip
        self.arrivals = 0  # the number of the youngest task
        self._epoch = ""  # of the store that holds all documents
        self._greenlets: list[gevent.Greenlet] = []
        self.shop = Shop(
            crew=Crew(hands, self._may_start),
            records=self.records,
            images=self.images,
            admission=self.admission,
            clock=clock,
            settings=settings_of(config),
            limits_enabled=facts.task_limits_enabled,
            resources_for=self._resources_for,
            index=self._index,
            forget=self._forget,
            stopping=stopping,
            boot=boot_id(),
        )

    def _tasks(self) -> list[Task]:
        return [worker.task for worker in self.workers.values()]

    def _end(self, task: Task, why: str) -> None:
        worker = self.workers.get(task.arn)
        if worker is not None:
            worker.put(Desire(TaskStatus.STOPPED, why))

    def _instance(self) -> Instance:
        """The container instance as it stands in the store. Raises Temporary."""
        return self.bus.durable.get(keys.INSTANCE, keys.INSTANCE_ID, READ_SECONDS) or Instance()

    def _resources_for(self, task: Task) -> Iterable[Resource]:
        """The hands' answer; a Docker that is away for a moment must not cost the task."""
        backoff = Backoff(0.5, 5.0, 2.0)
        for attempt in range(1, SETUP_ATTEMPTS + 1):
            try:
                return self.hands.resources_for(task, self.facts)
            except SetupError:
                raise
            except Temporary as error:
                if attempt == SETUP_ATTEMPTS or self.stopping():
                    raise SetupError(str(error)) from error
                gevent.sleep(backoff.delay())
            except Exception as error:
                log.critical("the resources of the task cannot be told", exc_info=True, **fields(task=task.arn))
                raise SetupError(f"{type(error).__name__}: {error}") from error
        raise SetupError("the resources of the task cannot be told")

    def without_limits(self) -> None:
        """Set no task up with task-level limits from here on."""
        self.shop.limits_enabled = False
        self.facts = self.records.publish_facts(replace(self.facts, task_limits_enabled=False))

    # -- life ----------------------------------------------------------------------------------

    def start(self, may_start: Callable[[], object] = lambda: True) -> None:
        """Begin to work; but no container is started before `may_start` has returned."""

        def wait_for_host() -> None:
            may_start()
            if not self.stopping():
                self._may_start.set()

        self._keep("the wait for the host", wait_for_host)
        self._keep("the reader of commands", self._read_commands)
        self._keep("the record of images", self.images.run)
        self._keep("the watch over the store", self._watch_store)
        self._keep("the patrol", self.patrol.run)
        self._keep("the care for relays", self.relays.run)

    def listen(self) -> None:
        """Begin to read Docker's events; `stream_open` is set when the stream is."""
        self._keep("the reader of Docker's events", self._read_events)

    def load_images(self) -> None:
        """Load the image of the EBS driver, and publish that it is there."""
        if self.hands.load_driver_image():
            self._refresh_facts()

    def stop(self, seconds: float) -> None:
        """Take nothing new, let every worker save, within `seconds`. The containers run on."""
        for greenlet in self._greenlets:
            greenlet.kill(block=False)
        for worker in self.workers.values():
            worker.put(Stop())
        end = time.monotonic() + seconds
        for worker in list(self.workers.values()):
            worker.join(max(0.0, end - time.monotonic()))
        gevent.spawn(self.images.flush).join(max(0.1, end - time.monotonic()))

    def _keep(self, name: str, loop: Callable[[], None]) -> None:
        self._greenlets.append(gevent.spawn(keep, name, loop, self._wait))

    def _wait(self, seconds: float) -> bool:
        gevent.sleep(seconds)
        return not self.stopping()

    # -- tasks ---------------------------------------------------------------------------------

    def add(self, task: Task, is_new: bool, acks: Iterable[str] = ()) -> Worker:
        """Make a worker for a task that has none; it is not started yet."""
        if is_new:
            task = replace(task, arrival=self.arrivals + 1)
        self.arrivals = max(self.arrivals, task.arrival)
        worker = Worker(task, self.shop, is_new, acks)
        self.workers[task.arn] = worker
        self._index(task)
        return worker

    def _forget(self, task: Task) -> None:
        self.workers.pop(task.arn, None)
        for container in task.containers:
            self._by_docker_id.pop(container.docker_id, None)

    def _index(self, task: Task) -> None:
        for container in task.containers:
            if container.docker_id and container.docker_id not in self._by_docker_id:
                self._by_docker_id[container.docker_id] = (task.arn, container.name)

    def _admitted(self, arn: str) -> None:
        worker = self.workers.get(arn)
        if worker is not None:
            worker.put(Admitted())

    def _refused(self, arn: str, why: str) -> None:
        worker = self.workers.get(arn)
        if worker is not None:
            worker.put(Inadmissible(why))

    def pull_began(self, arn: str, at: float) -> None:
        """The first registry pull of a task began at `at` (Unix seconds)."""
        worker = self.workers.get(arn)
        if worker is not None:
            worker.put(PullBegan(at))

    # -- commands ------------------------------------------------------------------------------

    def _read_commands(self) -> None:
        consumer = self.bus.durable.consumer(keys.COMMANDS, GROUP, Command)
        while not self.stopping():
            for entry in consumer.read(block_seconds=5.0):
                if entry.id not in self.records.in_flight:
                    self.records.in_flight.add(entry.id)
                    self._command(entry)

    def _command(self, entry: Entry[Command]) -> None:
        message = entry.message
        if isinstance(message, RunOrUpdateTask):
            known = message.task.arn in self.workers
            log.info(
                "the task shall be %s%s", message.task.desired.name, "" if known else " (new)",
                **fields(task=message.task.arn),
            )  # fmt: skip
            if known:
                self._deliver(message.task.arn, Desire(message.task.desired), entry.id)
            else:
                self._begin(message.task, entry.id)
        elif isinstance(message, StopVerified):
            stop = Desire(TaskStatus.STOPPED, "the task manifest says that it shall not run")
            self._deliver(message.arn, stop, entry.id)
        elif isinstance(message, CredentialsChanged):
            arrived = CredentialsArrived(message.credentials_id, message.execution)
            self._deliver(message.arn, arrived, entry.id)
        elif isinstance(message, ImageRemoved):
            self.images.removed(message.image_id, message.name)
            self.records.acknowledge(entry.id)
        elif isinstance(message, ForgetEverything):
            self._forget_everything(message.reason, entry.id)

    def _begin(self, task: Task, entry_id: str) -> None:
        """A new task. It waits for host resources in the order of arrival, however long the set-up of each takes."""
        worker = self.add(task, True, [entry_id])
        try:
            if needs_admission(worker.task):
                self.admission.enter(worker.task)
        except Exception as error:  # or this worker would never start, and hold on to the task's commands
            log.critical(
                "what the task asks of the host cannot be told; it is refused", exc_info=True, **fields(task=task.arn)
            )
            self._refused(task.arn, f"{type(error).__name__}: {error}")
        worker.start()
        if proxy_name(task):
            self.relays.call()

    def _forget_everything(self, reason: str, entry_id: str) -> None:
        """The tasks belong to another instance. Their containers are left alone, as the reference does.

        The relay stays: it belongs to the host, and another would find its socket taken. No later command is looked at
        before this one is acknowledged: repeated after a crash, it would drop new tasks.
        """
        workers = [worker for worker in self.workers.values() if not is_relay(worker.task)]
        log.warning("all %d tasks are forgotten: %s", len(workers), reason)
        self.hands.forget_instance()
        acks = [entry_id, *(ack for worker in workers for ack in worker.kill())]
        gevent.sleep(LAST_SAVES_SECONDS)
        self.records.forget([worker.task for worker in workers], acks)
        for worker in workers:
            self._forget(worker.task)
            self.hands.cancel(worker.task.arn)
            self.hands.forget(worker.task)
            self.images.released(worker.task)
        for worker in workers:
            self.admission.release(worker.task.arn)

    def _deliver(self, arn: str, letter: Letter, entry_id: str) -> None:
        worker = self.workers.get(arn)
        if worker is None or worker.ended:
            log.info("a command for a task that is not here is dropped", **fields(task=arn))
            self.records.acknowledge(entry_id)
        else:
            worker.put(letter, entry_id)

    # -- Docker's events -----------------------------------------------------------------------

    def _read_events(self) -> None:
        for item in self.hands.events():
            if isinstance(item, Resync):
                self._resync()
            else:
                self._event(item)

    def _resync(self) -> None:
        if not self.stream_open.is_set():
            self.stream_open.set()  # the restore that follows inspects everything anyway
            return
        log.warning("Docker's event stream was interrupted; all containers are looked at")
        gevent.spawn(self._refresh_facts)
        for worker in list(self.workers.values()):
            worker.put(Poll())

    def _look_at(self, arn: str) -> None:
        worker = self.workers.get(arn)
        if worker is not None:
            worker.put(Poll())

    def _refresh_facts(self) -> None:
        """Another Docker may be behind the socket now."""
        try:
            facts = self.hands.refresh_facts()
            limits = facts.task_limits_enabled and self.shop.limits_enabled
            facts = replace(facts, revision=self.facts.revision, task_limits_enabled=limits)
            if facts != self.facts:
                self.facts = self.records.publish_facts(facts)
        except AgentError as error:
            log.warning("Docker's facts are not read again: %s", error)

    def _event(self, event: DockerEvent) -> None:
        found = self._by_docker_id.get(event.docker_id)
        if found is None:
            return  # not ours
        worker = self.workers.get(found[0])
        if worker is not None:
            worker.put(Happened(found[1], event))

    # -- the store -----------------------------------------------------------------------------

    def _watch_store(self) -> None:
        """A store that lost its data gets everything again, from memory."""
        self._epoch = self._epoch or self.bus.durable.epoch()
        while not self.stopping():
            gevent.sleep(EPOCH_CHECK_SECONDS)
            now = self.bus.durable.epoch()
            if now != self._epoch:
                self.republish()
                self._epoch = now  # only now: what failed half-way is done again

    def republish(self) -> None:
        """Write all documents again."""
        log.warning("the durable store has lost its data; it is written again from memory")
        self.facts = self.records.publish_facts(self.facts)
        self.images.republish()
        for worker in list(self.workers.values()):
            worker.put(Republish())
