"""The agent's own metrics at /metrics of the introspection server, for Prometheus.

The reference has no such path. Everything comes from what this process holds anyway, apart from two cheap looks: the
heartbeat files of the other programs, and two questions to Redis, at most every ASKED_SECONDS: the length of the
outbox, and how Docker answered the engine. What is not known is left out, not told as 0. Labels have few values that
are known beforehand: no task, container, image or path, and nothing secret, because whoever reaches the port can read
it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import gevent
import redis

from common import keys, readiness
from common.errors import Temporary
from common.model.agent import DOCKER_CALL_SECONDS, DockerCalls
from common.model.status import ContainerStatus, TaskStatus
from common.version import COMMIT, VERSION
from services.endpoint.counts import Counts
from services.endpoint.exposition import CONTENT_TYPE, NO_LABELS, Sample, counter, gauge, histogram
from services.endpoint.periodic import Periodic
from services.endpoint.reply import Reply
from services.endpoint.view import View

ASKED_SECONDS = 5.0
ASK_SECONDS = 0.2  # longest wait of one scrape for Redis
OBSERVE_SECONDS = 5.0  # two restarts of one program within this time are seen as one
SILENT_SECONDS = 30.0  # programs beat every 5 s; one that has been silent for so long is not ready
SESSIONS = ("acs", "tcs")
T = TypeVar("T")


class Asked(Generic[T]):
    """Something that a scrape asks Redis for, at most every ASKED_SECONDS."""

    def __init__(self, ask: Callable[[], T | None], now: Callable[[], float] = time.monotonic) -> None:
        self._ask, self.now = ask, now
        self._answer: T | None = None
        self._asked_at = float("-inf")
        self._asking: gevent.Greenlet | None = None

    def value(self) -> T | None:
        """The answer, at most ASKED_SECONDS old; None when Redis does not tell."""
        if self.now() - self._asked_at >= ASKED_SECONDS:
            if not self._asking:
                self._answer = None
                self._asking = gevent.spawn(self._run)
            self._asking.join(ASK_SECONDS)  # it goes on when Redis hangs, and the next scrape waits for it again
        return self._answer

    def _run(self) -> None:
        try:
            self._answer = self._ask()
        except (Temporary, redis.RedisError):
            self._answer = None  # an absent metric says so; the bus has logged that Redis is away
        self._asked_at = self.now()


def backlog(store: Any, now: Callable[[], float] = time.monotonic) -> Asked[int]:
    """The length of the outbox: what the engine told and ECS has not accepted yet."""
    return Asked(lambda: int(store.call(lambda client: client.xlen(keys.EVENTS), ASK_SECONDS)), now)


def docker_calls(store: Any, now: Callable[[], float] = time.monotonic) -> Asked[DockerCalls]:
    """What the engine publishes about its calls to Docker."""
    return Asked(lambda: store.get(keys.DOCKER_CALLS, keys.FACTS_ID, ASK_SECONDS), now)


class Programs(Periodic):
    """What the programs of the tree say of themselves, and how often each was seen with another pid."""

    def __init__(self, run_dir: str, now: Callable[[], float] = time.time) -> None:
        self.run_dir, self.now = run_dir, now
        self.restarts: Counter[str] = Counter()
        self._pids: dict[str, int] = {}

    def turn(self) -> None:
        """Look, and rest."""
        self.observe()
        gevent.sleep(OBSERVE_SECONDS)

    def observe(self) -> list[readiness.State]:
        """The state of each program that ran here, by name."""
        states = list(self._states())
        for state in states:
            known = self._pids.get(state.program)
            self.restarts[state.program] += known is not None and known != state.pid
            self._pids[state.program] = state.pid
        return states

    def _states(self) -> Iterator[readiness.State]:
        try:
            yield from readiness.read_all(self.run_dir)
        except OSError:
            return  # no run directory, no programs: their metrics are absent

    def works(self, state: readiness.State) -> bool:
        """Whether the program says that it does its work, and said so lately."""
        return state.ready and self.silence(state) <= SILENT_SECONDS

    def silence(self, state: readiness.State) -> float:
        """Seconds since the last heartbeat."""
        return max(0.0, self.now() - state.at)


class Metrics:
    """Renders the page."""

    def __init__(self, view: View, programs: Programs, waiting: Asked[int], docker: Asked[DockerCalls],
                 counts: Counts, now: Callable[[], float] = time.time) -> None:  # fmt: skip
        self.view, self.programs, self.waiting, self.docker = view, programs, waiting, docker
        self.counts, self.now = counts, now

    def page(self, _environ: Mapping[str, Any]) -> Reply:
        """The answer to a scrape."""
        families = (self._build, self._sessions, self._tasks, self._backlog, self._docker, self._programs, self._loops,
                    self._requests)  # fmt: skip
        return Reply(200, "".join(text for family in families for text in family()).encode(), CONTENT_TYPE)

    def _build(self) -> Iterator[str]:
        labels = {"version": VERSION, "commit": COMMIT}
        yield gauge("ecs_agent_build_info", "The version that the agent reports; always 1.", [(labels, 1)])

    def _sessions(self) -> Iterator[str]:
        known = [(name, self.view.sessions[name]) for name in SESSIONS if name in self.view.sessions]
        yield gauge(
            "ecs_agent_session_connected",
            "Whether the session with the control plane is open (acs: tasks; tcs: telemetry).",
            [({"session": name}, session.connected) for name, session in known],
        )
        yield gauge(
            "ecs_agent_session_state_age_seconds",
            "Seconds since the session was opened or lost.",
            [({"session": n}, round(max(0.0, self.now() - s.since), 1)) for n, s in known if s.since],
        )

    def _tasks(self) -> Iterator[str]:
        tasks = [entry.task for entry in self.view.tasks.values()]
        by_status = Counter(task.known for task in tasks)
        yield gauge(
            "ecs_agent_tasks",
            "Tasks by known status, stopped ones until their clean-up included.",
            [({"known_status": status.name}, by_status[status]) for status in TaskStatus],
        )
        containers = Counter(container.known for task in tasks for container in task.containers)
        yield gauge(
            "ecs_agent_containers",
            "Containers of these tasks by known status, the agent's own ones included.",
            [({"known_status": status.name}, containers[status]) for status in ContainerStatus],
        )

    def _backlog(self) -> Iterator[str]:
        length = self.waiting.value()
        yield gauge(
            "ecs_agent_submission_backlog",
            "State changes that wait for their submission to ECS; absent while the durable Redis does not answer.",
            [] if length is None else [(NO_LABELS, length)],
        )

    def _docker(self) -> Iterator[str]:
        calls = self.docker.value()
        operations = () if calls is None else calls.operations
        size = len(DOCKER_CALL_SECONDS) + 1  # a document of another version may have other bounds
        yield histogram(
            "ecs_agent_docker_call_seconds",
            "Duration of the engine's calls to Docker by operation, failed ones included; of streams, until the head.",
            DOCKER_CALL_SECONDS,
            [({"operation": o.name}, o.buckets, o.seconds) for o in operations if len(o.buckets) == size],
        )
        yield counter(
            "ecs_agent_docker_call_errors_total",
            "Calls to Docker that were refused (4xx), failed (5xx), took too long, or found no daemon.",
            [({"operation": o.name, "error": e}, n) for o in operations for e, n in sorted(o.errors.items())],
        )

    def _programs(self) -> Iterator[str]:
        states = self.programs.observe()
        yield gauge(
            "ecs_agent_program_ready",
            "Whether the program does its work and has said so within the last 30 s.",
            [({"program": state.program}, self.programs.works(state)) for state in states],
        )
        yield gauge(
            "ecs_agent_program_heartbeat_age_seconds",
            "Seconds since the program's last heartbeat; programs beat every 5 s.",
            [({"program": state.program}, round(self.programs.silence(state), 1)) for state in states],
        )
        yield counter(
            "ecs_agent_program_restarts_total",
            "Times that the program was seen with another pid since the endpoint process started.",
            [({"program": state.program}, self.programs.restarts[state.program]) for state in states],
        )

    def _loops(self) -> Iterator[str]:
        states = [(s.stalls, {"program": s.program}) for s in self.programs.observe()]
        about = "Event loop of the program, since it started, told with its heartbeat."
        yield counter("ecs_agent_event_loop_stalls_total", f"{about} Times that it was blocked for 50 ms or more.",
                      [(labels, stalls.number) for stalls, labels in states])  # fmt: skip
        yield counter("ecs_agent_event_loop_stall_seconds_total", f"{about} Seconds lost in these stalls.",
                      [(labels, stalls.seconds) for stalls, labels in states])  # fmt: skip
        yield gauge("ecs_agent_event_loop_longest_stall_seconds", f"{about} The longest of these stalls.",
                    [(labels, stalls.longest) for stalls, labels in states])  # fmt: skip

    def _requests(self) -> Iterator[str]:
        answers: list[Sample] = [
            ({"server": server, "route": route, "status": status}, number)
            for server, route, status, number in self.counts.answers()
        ]
        yield counter(
            "ecs_agent_http_requests_total",
            "Requests by server (tasks: 51679, introspection: 51678), class of routes and status.",
            answers,
        )
        yield counter(
            "ecs_agent_http_throttled_requests_total",
            "Requests denied by the limit of the task server (requests) and of fault injection (faults).",
            [({"limit": limit}, number) for limit, number in self.counts.denials()],
        )
