"""The fault routes: throttle, validation, checks of the task, lock, commands, answers (spec 06 §17).

Locks are files, so they hold between all workers; a fixed number of them, so they do not pile up. Everything after the
global throttle shares one deadline that ends before the server's write time-out: the client hears what happened (W4).
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent

from common import command, logs
from common.model.task import Task
from services.endpoint import faulttargets, paths
from services.endpoint.audit import LONGEST
from services.endpoint.faultcommands import (
    NOT_RUNNING,
    RUNNING,
    Command,
    CommandFailed,
    Conflict,
    Operator,
    Result,
    Runner,
    Target,
)
from services.endpoint.faultrequests import BLACKHOLE, LATENCY, LOSS, Blackhole, Invalid, Netem, parse
from services.endpoint.metadata import NO_TASK, Finder
from services.endpoint.reply import NOT_YET_TEXT, TEXT, NotYet, Reply, document
from services.endpoint.throttle import Throttle, key_of
from services.endpoint.wire import BodyError

log = logging.getLogger(__name__)

FAULTS = (BLACKHOLE, LATENCY, LOSS)
OPERATIONS = ("start", "stop", "status")
STEADY, BURST = 0.2, 1.0  # one request in five seconds
DEADLINE_SECONDS = 4.5  # of a request, waiting for the lock included
LOCK_FILES = 64
LOCK_POLL_SECONDS = 0.02

DENIED = b"You have reached maximum request limit"
INTERNAL = "internal error"
INCOMPLETE = "failed to get task metadata due to internal server error for container: {id}"


class TimedOut(Exception):
    """The deadline of the request passed."""


class Refused(Exception):
    """The request ends here, with this status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class FaultRoutes:
    """Makes the nine handlers. `run` is replaced in tests; `lock_dir` holds the lock files."""

    def __init__(self, throttle: Throttle, lock_dir: Path, run: Callable[[Command, float], Result] | None = None,
                 host_target: Callable[[], Target | None] = faulttargets.of_host,
                 now: Callable[[], float] = time.monotonic) -> None:  # fmt: skip
        self.throttle, self.lock_dir, self.now = throttle, lock_dir, now
        self.run = run or run_command
        self.host_target = host_target

    def handler(self, fault: str, operation: str, finder: Finder) -> Callable[[dict[str, Any], str], Reply]:
        """The handler of one route."""

        def handle(environ: dict[str, Any], id_: str) -> Reply:
            started = time.monotonic()
            peer, path = environ["REMOTE_ADDR"], environ["PATH_INFO"]
            if self.throttle.take((peer, key_of(path)), self.now()):
                reply = self._answer(fault, operation, finder, environ, id_)
            else:
                reply = Reply(429, DENIED, TEXT)
            duration = round((time.monotonic() - started) * 1000)
            shown = paths.text(path[:LONGEST])
            log.info("The telemetry middleware is complete",
                     **logs.fields(statusCode=reply.status, durationInMs=duration, path=shown))  # fmt: skip
            return reply._replace(headers=(
                ("X-Rate-Limit-Duration", "1"),
                ("X-Rate-Limit-Limit", f"{self.throttle.steady:.2f}"),
                ("X-Rate-Limit-Request-Forwarded-For", environ.get("HTTP_X_FORWARDED_FOR", "")),
                ("X-Rate-Limit-Request-Remote-Addr", f"{peer}:{environ['REMOTE_PORT']}"),
            ))  # fmt: skip

        return handle

    def _answer(self, fault: str, operation: str, finder: Finder, environ: dict[str, Any], id_: str) -> Reply:
        until = self.now() + DEADLINE_SECONDS
        try:
            request = _request(fault, operation, environ)
            target = self._target(finder, id_)
            status = self._operate(fault, operation, request, target, until)
        except Invalid as error:
            return _error(400, str(error))
        except Refused as error:
            return _error(error.status, str(error))
        except NotYet:
            return _error(503, NOT_YET_TEXT)
        except Conflict as error:
            return _error(409, str(error))
        except TimedOut:
            name = f"check status {fault}" if operation == "status" else f"{operation} {fault}"
            return _error(500, f"{name}: request timed out")
        except (CommandFailed, OSError) as error:
            log.error("%s %s for %s failed: %s", operation, fault, id_[:LONGEST], error)
            return _error(500, INTERNAL)
        return document({"Status": status})

    def _target(self, finder: Finder, id_: str) -> Target:
        member = finder.endpoint(id_)
        if member is None:
            raise Refused(404, NO_TASK.format(id=id_))
        task = member.entry.task
        target = self._resolve(task, id_)
        if not task.enable_fault_injection:
            raise Refused(400, f"enableFaultInjection is not enabled for task: {task.arn}")
        if target is None:
            # The reference's sentence about unsupported modes cannot be reached: this check comes first (W6).
            raise Refused(500, INCOMPLETE.format(id=id_))
        return target

    def _resolve(self, task: Task, id_: str) -> Target | None:
        if task.network_mode == "host":
            try:
                return self.host_target()
            except (OSError, ValueError) as error:
                log.error("the routes of this machine cannot be read: %s", error)
                raise Refused(500, "failed to resolve default host network interface") from error
        if task.network_mode != "awsvpc":
            return None
        if not task.interfaces:
            raise Refused(500, INCOMPLETE.format(id=id_))
        return faulttargets.of_awsvpc(task)

    def _operate(self, fault: str, operation: str, request: Blackhole | Netem | None, target: Target,
                 until: float) -> str:  # fmt: skip
        with self._locked(target.namespace, operation != "status", until):
            operator = Operator(target, self._runner(until))
            if isinstance(request, Blackhole):
                if operation == "status":
                    return RUNNING if operator.is_blackholed(request) else NOT_RUNNING
                start = operation == "start"
                return operator.start_blackhole(request) if start else operator.stop_blackhole(request)
            if operation == "status":
                return RUNNING if operator.has_netem(fault) else NOT_RUNNING
            return operator.start_netem(request) if request is not None else operator.stop_netem(fault)

    def _runner(self, until: float) -> Runner:
        def run(words: Command) -> Result:
            remaining = until - self.now()
            if remaining <= 0:
                raise TimedOut
            return self.run(words, remaining)

        return run

    @contextmanager
    def _locked(self, namespace: str, exclusive: bool, until: float) -> Iterator[None]:
        self.lock_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.lock_dir / f"{zlib.crc32(namespace.encode()) % LOCK_FILES}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if self.now() >= until:
                        raise TimedOut from None
                    gevent.sleep(LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)


def _request(fault: str, operation: str, environ: dict[str, Any]) -> Blackhole | Netem | None:
    try:
        data = environ["wsgi.input"].read()
    except BodyError as error:
        raise Invalid(str(error)) from error
    if fault == BLACKHOLE or operation == "start":
        return parse(fault, data)
    return None  # stop and status of the tc faults take any body


def run_command(words: Command, timeout_seconds: float) -> Result:
    """Run without a shell: exit status, and what it printed to either output. Raises TimedOut, CommandFailed."""
    try:
        done = command.run(words, timeout_seconds)
    except command.Late as error:
        log.error("%s", error)
        raise TimedOut from error
    except command.CommandFailed as error:
        raise CommandFailed(str(error)) from error
    return done.status, done.out + done.err


def _error(status: int, text: str) -> Reply:
    return document({"Error": text}, status)
