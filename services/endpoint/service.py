"""Wires the endpoint process: view, followers, both servers, audit log, further workers.

Listeners open when the container instance has an ARN, not earlier: installers poll for it, and a container that asks
too early would take an error for an answer. After that they stay open whatever happens to Redis or other processes.
A process that starts while the durable Redis is away serves what its predecessor knew (`lastview`).
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gevent
from gevent import subprocess

from common.backoff import Backoff
from common.process import Context
from services.endpoint import audit, runtimestats, taskserver
from services.endpoint.counts import INTROSPECTION, TASKS, Counts
from services.endpoint.faultroutes import BURST, STEADY, FaultRoutes
from services.endpoint.follow import Source
from services.endpoint.http import Server
from services.endpoint.introspection import Introspection
from services.endpoint.lastview import LIFE_VARIABLE, LastView, life
from services.endpoint.listeners import listen_until_it_works
from services.endpoint.metrics import Metrics, Programs, backlog, docker_calls
from services.endpoint.periodic import Periodic
from services.endpoint.shared import SharedBuckets
from services.endpoint.throttle import Buckets, Throttle, limits
from services.endpoint.view import View

log = logging.getLogger(__name__)

TASK_ADDRESS, TASK_PORT = "127.0.0.1", 51679
INTROSPECTION_ADDRESS, INTROSPECTION_PORT = "", 51678
WRITE_SECONDS = 5.0
PROFILING_WRITE_SECONDS = 300.0
DURABLE_SECONDS = 0.2  # how long the start waits for the durable Redis before it takes the last view instead
VOLATILE_SECONDS = 0.3  # longest wait of the start for the credentials; without them those that tasks name are a 503
POLL_SECONDS = 0.05
DRAIN_SECONDS = 3.5  # for answers under way at the end; a second before the end by force is left for the audit log
WORKERS_END_SECONDS = 0.5  # for further workers, which drain at the same time
FILES_PER_PROCESS = 65536
WORKER_HEALTHY_SECONDS = 30.0
CPUS_PER_WORKER, MOST_WORKERS = 4, 4


def worker_count(config: Mapping[str, Any], cpus: int | None = None) -> int:
    """ECS_ENDPOINT_WORKERS; 0 = one for every four CPUs that the process may use, at least one and at most four.

    One worker answers over 10,000 requests per second of CPU time, so a machine with few CPUs gains nothing from a
    second one that costs it 30 MB; with many CPUs there are many tasks, and one loop must not be what they wait for.
    """
    wanted = int(config["ECS_ENDPOINT_WORKERS"] or 0)
    if wanted:
        return wanted
    cpus = len(os.sched_getaffinity(0)) if cpus is None else cpus
    return min(MOST_WORKERS, max(1, cpus // CPUS_PER_WORKER))


def serve(context: Context) -> int:
    """Serve until the process is told to stop, with as many workers as the configuration wants."""
    workers = worker_count(context.config)
    further = [gevent.spawn(_keep_worker, context, number, workers) for number in range(2, workers + 1)]
    try:
        return Endpoint(context, workers).run()
    finally:
        gevent.joinall(further, timeout=WORKERS_END_SECONDS)


def serve_as_worker(context: Context) -> int:
    """Serve the task server only, beside the first worker."""
    workers, worker = worker_count(context.config), int(context.name.rpartition("-")[2])
    return Endpoint(context, workers, introspection=False, worker=worker).run()


class Endpoint:
    """The servers of one process. Tests give other ports (0 = any free one)."""

    def __init__(self, context: Context, workers: int = 1, introspection: bool = True, task_port: int = TASK_PORT,
                 introspection_port: int = INTROSPECTION_PORT, worker: int = 1, **faults: Any) -> None:  # fmt: skip
        self.context, self.workers, self.config = context, workers, context.config
        self.ports = (task_port, introspection_port)
        self.view = View(hide_zone=bool(self.config["ECS_DISABLE_TASK_METADATA_AZ"]))
        self.source = Source(self.view, context.bus.durable, context.bus.volatile)
        self.audit = audit.of_config(self.config)
        steady, burst = limits(self.config["ECS_TASK_METADATA_RPS_LIMIT"])
        self.counts = Counts(Path(context.run_dir), worker, workers)
        buckets = self._buckets("faults", STEADY, BURST)
        self.fault_routes = FaultRoutes(buckets, Path(context.run_dir) / "faults", **faults)
        self.tasks = taskserver.application(self.source, self.audit, self._buckets("requests", steady, burst),
                                            self.fault_routes, self.config, counts=self.counts)  # fmt: skip
        self.profiling = bool(self.config["ECS_ENABLE_RUNTIME_STATS"])
        self.programs = Programs(context.run_dir)
        self.last_view = LastView(context.run_dir, self.view, self.source.changed, self.source.durable.loaded)
        self.introspection = self._introspection() if introspection else None
        self.background = self._background() if introspection else []
        self.servers: list[Server] = []

    def _introspection(self) -> Introspection:
        bus = self.context.bus
        asked = backlog(bus.durable), docker_calls(bus.volatile)
        metrics = Metrics(self.view, self.programs, *asked, self.counts)
        return Introspection(self.source, self.profiling, metrics=metrics, counts=self.counts)

    def _background(self) -> list[Periodic]:
        """What the first worker does beside serving."""
        found: list[Periodic] = [self.programs]
        if self.config["ECS_CHECKPOINT"] and self.last_view.life:
            found.append(self.last_view)
        statistics = runtimestats.of_config(self.config)
        return found if statistics is None else [*found, statistics]

    def _buckets(self, name: str, steady: float, burst: float) -> Throttle:
        if self.workers == 1:
            return Buckets(steady, burst)
        return SharedBuckets(Path(self.context.run_dir) / f"endpoint-{name}.buckets", steady, burst)

    def run(self) -> int:
        """Follow, wait for the instance, listen, serve; returns when the process stops."""
        self._allow_many_files()
        self.audit.start()
        self.source.start()
        for one in self.background:
            one.start()
        try:
            if self._wait_for_instance() and self._open():
                self._tell()
                self.context.stopping.wait()
        finally:
            self._close()
        return 0

    def _allow_many_files(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = FILES_PER_PROCESS if hard == resource.RLIM_INFINITY else min(hard, FILES_PER_PROCESS)
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

    def _wait_for_instance(self) -> bool:
        self.context.not_ready("waiting for the registration of the container instance")
        patience = time.monotonic() + DURABLE_SECONDS
        # Not with the ARN alone: a request between the instance and the tasks would find none of them.
        while not (self.view.instance.arn and self.source.complete):
            awaited = self.source.registered if self.source.complete else self.source.durable.loaded
            gevent.wait([awaited, self.context.stopping], timeout=POLL_SECONDS, count=1)
            if self.context.stopping.is_set():
                return False
            if not self.source.complete and time.monotonic() > patience:
                patience = float("inf")
                if self.last_view.restore():
                    break
        self.source.volatile.loaded.wait(VOLATILE_SECONDS)
        return not self.context.stopping.is_set()

    def _tell(self) -> None:
        """Ready, and whether what is served is as old as the last view."""
        if not self.source.complete:
            self.context.ready(f"serving {len(self.view.tasks)} tasks as they were before the durable Redis went away")
            while not self.source.durable.loaded.wait(0.5):
                if self.context.stopping.is_set():
                    return
        self.context.ready("serving")

    def _open(self) -> bool:
        wanted: list[tuple[str, str, int, Callable[..., Any], float]] = [
            ("task endpoint server", TASK_ADDRESS, self.ports[0], self.tasks, WRITE_SECONDS)
        ]
        if self.introspection is not None:
            seconds = PROFILING_WRITE_SECONDS if self.profiling else WRITE_SECONDS
            wanted.append(("introspection server", INTROSPECTION_ADDRESS, self.ports[1], self.introspection, seconds))
        greenlets = [gevent.spawn(self._open_one, *row) for row in wanted]
        gevent.joinall(greenlets, raise_error=True)
        return len(self.servers) == len(wanted)

    def _open_one(self, name: str, address: str, port: int, application: Callable[..., Any], seconds: float) -> None:
        shared = self.workers > 1 and address == TASK_ADDRESS
        stopping, tell = self.context.stopping, self.context.not_ready
        sock = listen_until_it_works(name, address, port, stopping.wait, shared, tell)
        if sock is not None:
            server = Server(sock, application, seconds)
            side = TASKS if application is self.tasks else INTROSPECTION
            server.on_refused = partial(self.counts.answered, side, "malformed")
            server.start()
            self.servers.append(server)
            log.info("the %s listens on %s:%d", name, *sock.getsockname()[:2])

    def _close(self) -> None:
        greenlets = [gevent.spawn(server.drain, DRAIN_SECONDS) for server in self.servers]
        gevent.joinall(greenlets, timeout=DRAIN_SECONDS + 0.1)
        self.audit.stop()  # before all else: what it holds is nowhere else
        self.source.stop()
        for one in self.background:
            one.stop()

    def port_of(self, application: Callable[..., Any]) -> int:
        """The port that serves `application`."""
        server = next(s for s in self.servers if s.application is application)
        return int(server.socket.getsockname()[1])


def _keep_worker(context: Context, number: int, workers: int) -> None:
    """Run one more worker process, and start it again when it ends."""
    backoff = Backoff(0.1, 60.0)
    # All must count the same number, also when the CPUs that they may use change meanwhile.
    environment = os.environ | {LIFE_VARIABLE: life(), "ECS_ENDPOINT_WORKERS": str(workers)}
    while not context.stopping.is_set():
        started = time.monotonic()
        command = [sys.executable, "-m", "services.endpoint", "--worker", str(number)]
        process = subprocess.Popen(command, env=environment)
        gevent.wait([process.result, context.stopping], count=1)  # type: ignore[attr-defined]  # gevent's Popen has it
        if context.stopping.is_set():
            process.terminate()
            process.wait()
            return
        if time.monotonic() - started > WORKER_HEALTHY_SECONDS:
            backoff.reset()
        delay = backoff.delay()
        log.error("worker %d of the endpoint ended with status %s; a new one starts in %.1f s",
                  number, process.returncode, delay)  # fmt: skip
        context.stopping.wait(delay)
