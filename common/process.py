"""The skeleton of every process of the tree.

`run(name, serve)` loads the configuration, sets up logging, turns SIGTERM and SIGINT into `context.stopping`, keeps a
heartbeat, and calls `serve(context)`, which returns when `context.stopping` is set. A service waits for what it needs
(Redis, Docker, other processes) with back-off, never by exiting. After a stop signal it has `stop_seconds`; then the
process ends by force, because a supervisor that must kill looks like a fault.

Heartbeat and readiness are one small file in the run directory (common/readiness.py): the hub must turn for it to move,
so a blocked event loop shows, and the supervisor ends a process whose heartbeat is too old. The file also tells of
shorter blocks (common/looplag.py), for the agent's metrics.

gevent.monkey.patch_all() is the first statement of each entry point; this module relies on it.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import gevent
import gevent.event
import gevent.util

from common import logs, readiness
from common.config import Config, load
from common.errors import AgentError, Temporary, Terminal
from common.heap import AfterWork
from common.looplag import LoopLag
from common.parent import die_with_parent
from common.process_names import CRASH_STATUS, FAILED_STATUS, QUICK_TO_STOP
from common.proxy import default_no_proxy
from common.readiness import Beat, Stalls

if TYPE_CHECKING:
    from common.bus import Bus

# After a stop signal; the supervisor kills a second or half a second later (stopwaitsecs in supervisord.conf).
STOP_SECONDS, QUICK_STOP_SECONDS = 9.0, 4.5
BEAT_SECONDS = 5.0
RULES_POLL_SECONDS = 0.05
ENDPOINT_SECONDS, ENDPOINT_POLL_SECONDS = 10.0, 0.005
TREE_LOCAL = "ECS_TREE_LOCAL"  # set by the tree: "true" in local mode


@dataclass
class Context:
    """What a service gets: configuration, bus, log, and the wish to stop."""

    name: str
    config: Config
    run_dir: str
    log: logging.Logger
    stopping: gevent.event.Event = field(default_factory=gevent.event.Event)
    _readiness: tuple[bool, str] = (False, "starting")
    _beat: Beat | None = None
    lag: LoopLag | None = None  # set by `run`: stalls of the event loop, told with each heartbeat

    @cached_property
    def bus(self) -> Bus:
        """Both Redis servers; the client is loaded when it is first asked for, since not every program needs it."""
        from common.bus import Bus

        return Bus(self.run_dir, self.stopping.is_set)

    def ready(self, detail: str = "") -> None:
        """This process does its work now."""
        self._tell(True, detail)

    def not_ready(self, reason: str) -> None:
        """This process cannot do its work now; `reason` says why in plain words."""
        self._tell(False, reason)

    def wait_for_rules(self) -> bool:
        """Wait until `init` has the netfilter rules in place; False when this process is to stop first.

        A container started earlier would ask for credentials in vain, and what R2 closes would be open (spec 09 §15.1,
        N5). In a tree under ECS only: a process started by hand has no `init`, and a developer's machine may not let
        it make rules, which costs its tasks their credentials but should not keep them from running.
        """
        if os.environ.get(TREE_LOCAL) != "false":
            return True
        while not self.stopping.is_set():
            init = readiness.read(self.run_dir, "init")
            if init is not None and init.ready:
                return True
            self.not_ready(f"waiting for the netfilter rules: {init.detail if init else 'init has not started yet'}")
            self.stopping.wait(RULES_POLL_SECONDS)
        return False

    def wait_for_endpoint(self) -> bool:
        """Wait until the tree's `endpoint` serves credentials and metadata; False when this process is to stop first.

        A container asks for its credentials as its first act, and not every program asks twice. After
        ENDPOINT_SECONDS tasks are taken all the same: most of them need no endpoint. A process started by hand has
        none to wait for.
        """
        if TREE_LOCAL not in os.environ:
            return True
        end = time.monotonic() + ENDPOINT_SECONDS
        while not self.stopping.is_set():
            endpoint = readiness.read(self.run_dir, "endpoint")
            if endpoint is not None and endpoint.ready:
                return True
            if time.monotonic() > end:
                why = endpoint.detail if endpoint else "it has not started yet"
                self.log.error("tasks are taken without the endpoint of credentials and metadata: %s", why)
                return True
            self.stopping.wait(ENDPOINT_POLL_SECONDS)
        return False

    def _tell(self, ready: bool, detail: str) -> None:
        if (ready, detail) == self._readiness:
            return
        self._readiness = (ready, detail)
        self.log.info("%s %s%s", self.name, "is ready" if ready else "is not ready", f": {detail}" if detail else "")
        self.beat()

    def beat(self) -> None:
        """Show that the hub turns, and how things stand."""
        try:
            if self._beat is None:
                self._beat = Beat(self.run_dir, self.name)
            self._beat.write(*self._readiness, self.lag.stalls if self.lag else Stalls())
        except OSError as error:
            self.log.warning("the heartbeat in %s cannot be written: %s", self.run_dir, error)


def run_dir(config: Config) -> str:
    """The directory of sockets, pid files and heartbeats."""
    return str(config["ECS_RUN_DIR"])


def run(name: str, serve: Callable[[Context], int | None]) -> int:
    """Run one service; returns its exit status.

    0, 1 for an error of our own, 2 for one that nobody expected (the tree keeps the last output then), 5 for one that a
    restart would not mend.
    """
    die_with_parent()
    faulthandler.enable()
    config = load(os.environ)
    os.environ["DOCKER_HOST"] = config["DOCKER_HOST"]  # for common.docker; it may come from the configuration file
    logs.configure(config)
    default_no_proxy(config["DOCKER_HOST"].removeprefix("unix://"))
    context = Context(name, config, run_dir(config), logging.getLogger(name))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches the whole group; the supervisor decides
    gevent.signal_handler(signal.SIGTERM, _stop, context)
    gevent.signal_handler(signal.SIGUSR1, _dump, context)
    context.lag = LoopLag()
    context.lag.start()
    beat = gevent.spawn(_beat, context)
    try:
        status = serve(context) or 0
    except Terminal as error:
        context.log.critical("%s ends for good: %s", name, error)
        status = error.exit_status
    except Temporary as error:
        status = 0 if context.stopping.is_set() else FAILED_STATUS
        if status:
            context.log.error("%s ends and will be started again: %s", name, error)
    except Exception as error:
        context.log.critical("%s fails and will be started again", name, exc_info=True)
        status = FAILED_STATUS if isinstance(error, AgentError) else CRASH_STATUS
    finally:
        beat.kill(block=False)
        context.lag.stop()
    context.log.info("%s ends with status %d", name, status)
    logs.flush()
    return status


def _stop(context: Context) -> None:
    if context.stopping.is_set():
        return
    context.stopping.set()
    gevent.spawn_later(stop_seconds(context.name), _end_by_force, context)


def stop_seconds(name: str) -> float:
    """How long a program, or a worker of it (`endpoint-2`), has to end in order."""
    return QUICK_STOP_SECONDS if name.partition("-")[0] in QUICK_TO_STOP else STOP_SECONDS


def _end_by_force(context: Context) -> None:
    context.log.error("%s did not stop within %.1f s; it ends now", context.name, stop_seconds(context.name))
    logs.flush()
    os._exit(1)


def _dump(context: Context) -> None:
    text = "\n".join(gevent.util.format_run_info() or ())  # type: ignore[func-returns-value]
    context.log.critical("====== STACKTRACE ======\n%s\n====== /STACKTRACE ======", text[: 640 * 1024])


def _beat(context: Context) -> None:
    after_work = AfterWork()
    while True:
        context.beat()
        gevent.sleep(BEAT_SECONDS)
        after_work.look(BEAT_SECONDS)
