"""supervisord, with our judgement of its children.

- acs or engine ended with 5: the whole service ends with 5 ("do not restart", ECS agent behaviour, spec 01 §5).
- any other end: the program is started again, at once or, when it keeps failing, later and later.
- a heartbeat file that has not moved for BEAT_LIMIT_SECONDS: the program hangs; it gets SIGABRT, whose handler prints
  all stacks before it dies.
- on shutdown every program is stopped at once, the two Redis last: they must take the others' last words.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from supervisor import events
from supervisor.datatypes import RestartUnconditionally
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import ServerOptions
from supervisor.states import ProcessStates, SupervisorStates
from supervisor.supervisord import Supervisor

from common.process_names import BEAT_LIMIT_SECONDS, STORES, TERMINAL, TERMINAL_STATUS
from common.readiness import silent_seconds
from common.tree.restraint import delay_seconds
from common.tree.run import say

STOPPABLE = (ProcessStates.RUNNING, ProcessStates.STARTING)
DOWN = (ProcessStates.STOPPED, ProcessStates.EXITED, ProcessStates.FATAL, ProcessStates.UNKNOWN)


class Wakeup:
    """Lets a signal end supervisord's poll at once; by itself it would notice up to a second later."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self.write_end, warn_on_full_buffer=False)
        asyncore.socket_map[self.read_end] = self

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        os.read(self.read_end, 4096)

    def handle_error(self) -> None:
        """Nothing can fail but an empty read, which costs nothing."""


class Tree(Supervisor):  # type: ignore[misc]
    """A Supervisor that listens to its own events."""

    exit_status = 0

    def __init__(self, options: ServerOptions) -> None:
        super().__init__(options)
        self.starts: dict[str, list[float]] = {}
        self.held: dict[str, float] = {}  # program -> when it may start again

    def runforever(self) -> None:
        events.subscribe(events.ProcessLogEvent, self.pass_on)
        events.subscribe(events.ProcessStateStartingEvent, self.on_start)
        events.subscribe(events.ProcessStateExitedEvent, self.on_exit)
        events.subscribe(events.ProcessStateFatalEvent, self.on_fatal)
        events.subscribe(events.Tick5Event, self.on_tick)
        Wakeup()
        super().runforever()

    def children(self) -> list[Any]:
        """Every program of the tree (supervisor Subprocess objects)."""
        return [p for group in self.process_groups.values() for p in group.processes.values()]

    def pass_on(self, event: Any) -> None:
        """Children's output becomes ours."""
        data = event.data
        while data:
            try:
                data = data[os.write(1, data) :]
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                return  # stdout is closed; there is nobody to tell

    def on_exit(self, event: Any) -> None:
        """A program ended by itself."""
        name, status = event.process.config.name, event.process.exitstatus
        if name in TERMINAL and status == TERMINAL_STATUS:
            say("critical", f"{name} ended for good (status {status}); the agent ends and must not be restarted")
            self.exit_status = TERMINAL_STATUS
            self.options.mood = SupervisorStates.SHUTDOWN
        elif self.options.mood >= SupervisorStates.RUNNING:
            how = "was killed" if status == -1 else f"ended with status {status}"
            delay = self.hold_back(event.process)
            say("warn", f"{name} (pid {event.process.pid}) {how}; it is started again {delay}")

    def on_start(self, event: Any) -> None:
        """Note when each program was started."""
        self.starts.setdefault(event.process.config.name, []).append(time.time())
        del self.starts[event.process.config.name][:-16]

    def hold_back(self, process: Any) -> str:
        """A program that fails again and again waits for a tick after its delay; returns the words for the log."""
        name, now = process.config.name, time.time()
        delay = delay_seconds(self.starts.get(name, []), now)
        if not delay:
            return "at once"
        self.held[name] = now + delay
        process.config.autorestart = False
        return f"in {delay:.0f} to {delay + 5:.0f} s, because it ended soon after its latest starts"

    def on_fatal(self, event: Any) -> None:
        """supervisord gave up: only when the program cannot even be spawned."""
        say("error", f"{event.process.config.name} cannot be started: {event.process.spawnerr}; next try in a moment")

    def ordered_stop_groups_phase_1(self) -> None:
        """Stop everything but the stores at once, then the stores; supervisord's own order goes one by one."""
        services = [p for p in self.children() if p.config.name not in STORES]
        running = [p for p in services if p.get_state() not in DOWN]
        for process in running or self.children():
            state = process.get_state()
            if state in STOPPABLE:
                process.stop()
            elif state == ProcessStates.BACKOFF:
                process.give_up()

    def ordered_stop_groups_phase_2(self) -> None:
        """All of it is done in phase 1."""

    def on_tick(self, event: Any) -> None:
        """Judge heartbeats, and try again what could not be spawned."""
        now = time.time()
        for process in self.children():
            state = process.get_state()
            if self.options.mood != SupervisorStates.RUNNING:
                return
            if state == ProcessStates.FATAL:
                process.spawn()
            elif now >= self.held.get(process.config.name, now + 1):
                del self.held[process.config.name]
                process.config.autorestart = RestartUnconditionally
            elif state == ProcessStates.RUNNING and now - process.laststart > BEAT_LIMIT_SECONDS:
                self._judge(process)

    def _judge(self, process: Any) -> None:
        name = process.config.name
        silent = silent_seconds(os.environ["ECS_RUN_DIR"], name)  # None for the stores, which have no heartbeat
        if silent is not None and silent > BEAT_LIMIT_SECONDS:
            say("error", f"{name} (pid {process.pid}) gave no heartbeat for {silent:.0f} s; it is started again")
            os.kill(process.pid, signal.SIGABRT)


def supervise(config_path: str) -> int:
    """Run the programs of `config_path` until a signal or a terminal exit; returns the exit status."""
    options = ServerOptions()
    options.realize(["-c", config_path, "-n"])
    options.first = True
    options.test = False
    tree = Tree(options)
    try:
        tree.main()
    except asyncore.ExitNow:
        pass  # supervisord's way to return
    options.close_httpservers()
    options.close_logger()
    sys.stdout.flush()
    return tree.exit_status
