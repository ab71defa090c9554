"""The loop of the process `init`: install, tell readiness, look again every two seconds, take away at the end.

A look asks the kernel for the mark of the current rule set (a number from nf_tables, a hash from the legacy back end),
which costs microseconds; only a new mark, or a full minute, costs a listing by iptables-save. Where the kernel gives no
mark every look is a listing. nf_tables also tells of each change, and the look comes at once: Docker changes rules of
its own with every container, so changes are gathered, and there is at most one early look a second. Flushed rules are
found within five seconds either way (spec 09 §15 N7).

The process never ends because of an error (N11). Where rules cannot be changed at all (no iptables, no CAP_NET_ADMIN:
a container, a CI machine), and in local mode, the tree can still work for tasks that need no credentials: the reason
is told once and the process counts as ready, with that reason as its detail. As a service it is not ready meanwhile,
nor before Docker has said that no container of the Go agent is there any more: `acs` must not register beside it.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import gevent
import gevent.event

from common.backoff import Backoff
from common.keep import keep
from common.process import Context
from common.tree.run import INIT_LOG
from services.init import host, netlink, state, xtables
from services.init.errors import NetfilterError, NotPossibleHere
from services.init.initlog import take_over
from services.init.manager import Manager, Outcome, Settings, read_switches
from services.init.netfilter import Netfilter
from services.init.predecessor import wait_and_remove

LOOK_SECONDS = 2.0
LISTING_LOOK_SECONDS = 3.0
FULL_LOOK_SECONDS = 60.0
DOCKER_REPEAT_SECONDS = 300.0
SETTLE_SECONDS = 0.1  # a reload of a firewall is several changes in a row
EARLY_LOOK_SECONDS = 1.0
PREDECESSOR = "waiting for Docker, to see that no container ecs-agent of the Go agent is there any more"


def serve(context: Context) -> int:
    """Run until the context is stopping; the exit status is 0 even if a rule could not be removed (N8)."""
    parent = os.getppid()
    launched = os.environ.get(INIT_LOG)
    alone_here = gevent.event.Event()
    if launched:
        take_over(launched, os.environ.get("ECS_LOGLEVEL", ""))
        end_predecessor(context, alone_here)
    else:
        alone_here.set()
    directory = Path(context.run_dir)
    local = bool(context.config["ECS_LOCAL_CONTROL_PLANE"])
    settings = Settings(directory, local, read_switches(os.environ, context.log))
    told = False
    while not context.stopping.is_set():
        with state.exclusive(directory) as alone:
            if alone:
                Service(context, Manager(settings, context.log), parent, alone_here).run()
                return 0
        if not told:
            context.not_ready(f"another process manages the rules (it holds {directory / state.LOCK_NAME})")
            told = True
        context.stopping.wait(1.0)
    return 0


def end_predecessor(context: Context, alone_here: gevent.event.Event) -> None:
    """Have the Go agent's container removed; `alone_here` is set when there is none. engine and acs wait for that."""
    docker = host.docker_socket(os.environ.get("DOCKER_HOST", ""))

    def end() -> None:
        if wait_and_remove(docker, context.log, lambda seconds: bool(context.stopping.wait(seconds))):
            alone_here.set()

    gevent.spawn(keep, "the end of the Go agent's container", end, lambda seconds: not context.stopping.wait(seconds))


class BridgeWatch:
    """Asks Docker for its default bridge: until it answers, when it was restarted, and every five minutes."""

    def __init__(
        self,
        path: str,
        monotonic: Callable[[], float] = time.monotonic,
        ask: Callable[[str], str | None] = host.docker_bridge,
    ) -> None:
        self._path = path
        self._monotonic = monotonic
        self._ask = ask
        self._backoff = Backoff(1.0, 15.0)
        self._identity: tuple[int, int] | None = None
        self._due = 0.0

    def changed(self, known: str | None) -> tuple[bool, str | None]:
        """(whether Docker named a bridge other than `known`, its name); silence of Docker is no change."""
        identity = host.socket_identity(self._path)
        if identity == self._identity and self._monotonic() < self._due:
            return False, known
        if identity is None:
            self._identity = None
            return False, known
        try:
            name = self._ask(self._path)
        except OSError:  # Docker is on its way up; its other users report it
            self._due = self._monotonic() + self._backoff.delay()
            self._identity = identity
            return False, known
        self._backoff.reset()
        self._identity = identity
        self._due = self._monotonic() + DOCKER_REPEAT_SECONDS
        return name != known, name


class ChangeWatch:
    """Hears from the kernel of changes of the rule set. What it misses, the next look finds."""

    def __init__(self) -> None:
        self.heard = gevent.event.Event()
        self._channel = netlink.subscribe()
        if self._channel is not None:
            gevent.spawn(self._listen, self._channel)

    def _listen(self, channel: socket.socket) -> None:
        while True:
            try:
                channel.recv(1 << 16)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    return
            self.heard.set()


class Service:
    """One incarnation of the netfilter manager under the process skeleton."""

    def __init__(
        self,
        context: Context,
        manager: Manager,
        parent: int,
        alone_here: gevent.event.Event,
        netfilter: Netfilter | None = None,
    ) -> None:
        self._context = context
        self._manager = manager
        self._parent = parent
        self._alone_here = alone_here
        self._netfilter = netfilter or Netfilter()
        self._bridges = BridgeWatch(host.docker_socket(os.environ.get("DOCKER_HOST", "")))
        self._local = bool(context.config["ECS_LOCAL_CONTROL_PLANE"])
        self._backoff = Backoff(0.5, 15.0, jitter=0.1)
        self._nf_tables = True
        self._mark: int | bytes | None = None
        self._intact = False
        self._looked = 0.0
        self._changes: ChangeWatch | None = None
        self._installed = False
        self._told = ""
        self.repairs = 0

    def run(self) -> None:
        """Until the context is stopping."""
        while not self._context.stopping.is_set():
            self._pause(self._step())
        self._leave()

    def _pause(self, seconds: float) -> None:
        """Wait for the next look; less when the kernel tells of a change. After a failure the back-off alone counts."""
        stopping = self._context.stopping
        ends = [stopping] if self._alone_here.is_set() else [stopping, self._alone_here]
        if self._changes is None or self._told:
            gevent.wait(ends, timeout=seconds, count=1)
            return
        gevent.wait([*ends, self._changes.heard], timeout=seconds, count=1)
        if self._changes.heard.is_set():
            stopping.wait(max(SETTLE_SECONDS, self._looked + EARLY_LOOK_SECONDS - time.monotonic()))
            self._changes.heard.clear()

    def _step(self) -> float:
        """One look, and what it makes necessary. Returns the seconds to the next."""
        try:
            if self._manager.state is None:
                self._begin()
            else:
                self._look()
            self._ready(self._detail())
            self._follow_docker()
        except NotPossibleHere as error:
            self._troubled(str(error), degraded=True)
            return self._backoff.delay()
        except (NetfilterError, OSError) as error:
            self._troubled(str(error), degraded=self._local)
            return self._backoff.delay()
        self._backoff.reset()
        self._told = ""
        return LISTING_LOOK_SECONDS if self._mark is None else LOOK_SECONDS

    def _begin(self) -> None:
        self._manager.start()
        self._nf_tables = self._netfilter.uses_nf_tables()
        if self._nf_tables and self._changes is None:
            self._changes = ChangeWatch()
        self._full_look()

    def _look(self) -> None:
        """The cheap question first; a full listing when something may have changed."""
        fresh = time.monotonic() - self._looked < FULL_LOOK_SECONDS
        unchanged = fresh and self._intact and self._mark is not None and self._mark == self._current_mark()
        if not unchanged or self._manager.disturbed():
            self._full_look()

    def _full_look(self) -> None:
        """List the rules, mend what is wrong, report it; raises what could not be mended.

        The mark is read before the listing: a change in between makes the next look a listing again.
        """
        self._intact = False
        self._mark = self._current_mark()
        outcome = self._manager.converge()
        self._report(outcome)
        if outcome.errors:
            raise NetfilterError("; ".join(map(str, outcome.errors)))
        self._intact = not outcome.changed
        self._looked = time.monotonic()
        self._installed = True

    def _current_mark(self) -> int | bytes | None:
        return netlink.generation() if self._nf_tables else xtables.fingerprint(self._manager.families)

    def _report(self, outcome: Outcome) -> None:
        names = ", ".join(outcome.changed)
        if self._installed and names:
            self.repairs += 1
            self._context.log.warning(
                "netfilter: put back %s, which other software had removed or changed (repair %d)", names, self.repairs
            )
        elif names:
            self._context.log.info("netfilter: installed %s", names)
        elif not self._installed and not outcome.errors:
            self._context.log.info("netfilter: every rule was in place already")

    def _follow_docker(self) -> None:
        different, bridge = self._bridges.changed(self._manager.bridge)
        if different and self._manager.set_bridge(bridge):
            self._context.log.info("netfilter: Docker's default bridge is %s", bridge or "not there")
            self._installed = False  # what follows is no repair
            self._full_look()

    def _troubled(self, reason: str, degraded: bool) -> None:
        """Tell a reason once; ready without rules where that is acceptable, otherwise not ready."""
        if reason != self._told:
            self._context.log.warning(
                "netfilter: %s. Tasks may not reach 169.254.170.2 (credentials, metadata) meanwhile; trying again",
                reason,
            )
            self._told = reason
        if degraded:
            self._ready(f"netfilter: {reason}")
        else:
            self._context.not_ready(reason)

    def _ready(self, detail: str) -> None:
        if self._alone_here.is_set():
            self._context.ready(detail)
        else:
            self._context.not_ready(PREDECESSOR)

    def _detail(self) -> str:
        return f"{self.repairs} repairs" if self.repairs else ""

    def _leave(self) -> None:
        """Take the rules away, in local mode only ours (N8).

        The kernel sends SIGTERM as well when the supervisor was killed. Nobody ordered a stop then: tasks run on and
        need their credentials, so the rules stay until the next start or `post-stop`. In local mode nobody would come
        to remove them, and the machine must be as it was.
        """
        self._context.not_ready("stopping")
        if self._manager.state is None:
            return
        if os.getppid() != self._parent and not self._local:
            self._context.log.warning("netfilter: the supervisor is gone; the rules stay for the running tasks")
            return
        errors = self._manager.remove()
        for error in errors:
            self._context.log.error("netfilter: %s", error)
        if not errors:
            self._context.log.info("netfilter: the rules are removed and the kernel settings put back")
