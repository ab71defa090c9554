"""Wires the endpoint process: view, followers, both servers, audit log, further workers.

Listeners open when the container instance has an ARN, not earlier: installers poll for it, and a container that asks
too early would take an error for an answer. After that they stay open whatever happens to Redis or other processes.
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gevent
from gevent import subprocess

from common.backoff import Backoff
from common.process import Context
from services.endpoint import audit, taskserver
from services.endpoint.counts import INTROSPECTION, TASKS, Counts
from services.endpoint.faultroutes import BURST, STEADY, FaultRoutes
from services.endpoint.follow import Source
from services.endpoint.http import Server
from services.endpoint.introspection import Introspection
from services.endpoint.listeners import listen_until_it_works
from services.endpoint.looplag import LoopLag
from services.endpoint.metrics import Backlog, Metrics, Programs
from services.endpoint.shared import SharedBuckets
from services.endpoint.throttle import Buckets, Throttle, limits
from services.endpoint.view import View

log = logging.getLogger(__name__)

TASK_ADDRESS, TASK_PORT = "127.0.0.1", 51679
INTROSPECTION_ADDRESS, INTROSPECTION_PORT = "", 51678
WRITE_SECONDS = 5.0
PROFILING_WRITE_SECONDS = 300.0
VOLATILE_SECONDS = 0.3  # longest wait of the start for the credentials; without them those that tasks name are a 503
POLL_SECONDS = 0.05
DRAIN_SECONDS = 5.0
FILES_PER_PROCESS = 65536
WORKER_HEALTHY_SECONDS = 30.0


def serve(context: Context) -> int:
    """Serve until the process is told to stop, with as many workers as the configuration wants."""
    workers = int(context.config["ECS_ENDPOINT_WORKERS"] or 1)
    further = [gevent.spawn(_keep_worker, context, number) for number in range(2, workers + 1)]
    try:
        return Endpoint(context, workers).run()
    finally:
        gevent.joinall(further, timeout=DRAIN_SECONDS)


def serve_as_worker(context: Context) -> int:
    """Serve the task server only, beside the first worker."""
    workers, worker = int(context.config["ECS_ENDPOINT_WORKERS"] or 1), int(context.name.rpartition("-")[2])
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
        fault_routes = FaultRoutes(self._buckets("faults", STEADY, BURST), Path(context.run_dir) / "faults", **faults)
        self.tasks = taskserver.application(self.source, self.audit, self._buckets("requests", steady, burst),
                                            fault_routes, self.config, counts=self.counts)  # fmt: skip
        self.profiling = bool(self.config["ECS_ENABLE_RUNTIME_STATS"])
        self.lag, self.programs = LoopLag(), Programs(context.run_dir)
        self.introspection = self._introspection() if introspection else None
        self.servers: list[Server] = []

    def _introspection(self) -> Introspection:
        backlog = Backlog(self.context.bus.durable)
        metrics = Metrics(self.view, self.programs, backlog, self.counts, self.lag)
        return Introspection(self.source, self.profiling, metrics=metrics, counts=self.counts)

    def _buckets(self, name: str, steady: float, burst: float) -> Throttle:
        if self.workers == 1:
            return Buckets(steady, burst)
        return SharedBuckets(Path(self.context.run_dir) / f"endpoint-{name}.buckets", steady, burst)

    def run(self) -> int:
        """Follow, wait for the instance, listen, serve; returns when the process stops."""
        self._allow_many_files()
        self.audit.start()
        self.source.start()
        if self.introspection is not None:
            self.lag.start()
            self.programs.start()
        try:
            if self._wait_for_instance() and self._open():
                self.context.ready("serving")
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
        # Not with the ARN alone: a request between the instance and the tasks would find none of them.
        while not (self.view.instance.arn and self.source.durable.loaded.is_set()):
            if self.context.stopping.wait(POLL_SECONDS):
                return False
        self.source.volatile.loaded.wait(VOLATILE_SECONDS)
        return not self.context.stopping.is_set()

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
        sock = listen_until_it_works(name, address, port, self.context.stopping.wait, shared)
        if sock is not None:
            server = Server(sock, application, seconds)
            side = TASKS if application is self.tasks else INTROSPECTION
            server.on_refused = partial(self.counts.answered, side, "malformed")
            server.start()
            self.servers.append(server)
            log.info("the %s listens on %s:%d", name, *sock.getsockname()[:2])

    def _close(self) -> None:
        greenlets = [gevent.spawn(server.drain, DRAIN_SECONDS) for server in self.servers]
        gevent.joinall(greenlets, timeout=DRAIN_SECONDS + 1)
        self.source.stop()
        self.lag.stop()
        self.programs.stop()
        self.audit.stop()

    def port_of(self, application: Callable[..., Any]) -> int:
        """The port that serves `application`."""
        server = next(s for s in self.servers if s.application is application)
        return int(server.socket.getsockname()[1])


def _keep_worker(context: Context, number: int) -> None:
    """Run one more worker process, and start it again when it ends."""
    backoff = Backoff(1.0, 60.0)
    while not context.stopping.is_set():
        started = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "services.endpoint", "--worker", str(number)])
        while process.poll() is None and not context.stopping.wait(0.5):
            pass
        if context.stopping.is_set():
            process.terminate()
            process.wait(timeout=DRAIN_SECONDS + 3)
            return
        if time.monotonic() - started > WORKER_HEALTHY_SECONDS:
            backoff.reset()
        delay = backoff.delay()
        log.error("worker %d of the endpoint ended with status %s; a new one starts in %.0f s",
                  number, process.returncode, delay)  # fmt: skip
        context.stopping.wait(delay)
