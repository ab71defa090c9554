"""supervisord, with our judgement of its children.

- acs or engine ended with 5: the whole service ends with 5 ("do not restart", ECS agent behaviour, spec 01 §5).
- any other end, whatever the status: the program is started again after 0.5 to 15 s. It waits in supervisord's state
  BACKOFF with a delay of ours, so `supervisorctl` shows the reason and can stop or restart it; nothing becomes FATAL.
- `supervisorctl stop`, `start` and `restart` are the operator's wish: no delay, no end of the service.
- a heartbeat file that has not moved for BEAT_LIMIT_SECONDS: the program hangs; it gets SIGABRT, whose handler prints
  all stacks before it dies.
- on shutdown the programs are stopped in stages, the highest priority number first (spec 09 §16.1): nothing arrives at
  a stopped engine, the stores take the others' last words, tasks get credentials until near the end, and the rules go
  last.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from supervisor import events, loggers
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import ServerOptions
from supervisor.states import ProcessStates, SupervisorStates
from supervisor.supervisord import Supervisor

from common.process_names import BEAT_LIMIT_SECONDS, CRASH_STATUS, STORES, TERMINAL, TERMINAL_STATUS
from common.readiness import Silence, last_beat
from common.tree import nursery
from common.tree.restraint import LONGEST_SECONDS, Restraint
from common.tree.run import note, say
from common.tree.tail import last_lines

STOPPABLE = (ProcessStates.RUNNING, ProcessStates.STARTING)
DOWN = (ProcessStates.STOPPED, ProcessStates.EXITED, ProcessStates.FATAL, ProcessStates.UNKNOWN)
STAGE = 10  # priorities with the same tens digit are stopped together
UPDATE_STATUS = 42
BY_SIGNAL = -1  # supervisord's exit status of a program that a signal ended
# supervisord takes a delay that is longer than `backoff` seconds for a change of the clock, and ends it.
_ROLLBACK_MARGIN = int(LONGEST_SECONDS * 2)


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


TICK_SECONDS = 5  # of Tick5Event


class Tree(Supervisor):  # type: ignore[misc]
    """A Supervisor that listens to its own events."""

    exit_status = 0

    def __init__(self, options: ServerOptions) -> None:
        super().__init__(options)
        self.restraints: dict[str, Restraint] = {}
        self._silence = Silence()
        self.started: dict[str, float] = {}  # program -> time.monotonic() of its latest start

    def runforever(self) -> None:
        events.subscribe(events.ProcessLogEvent, self.pass_on)
        events.subscribe(events.ProcessStateStartingEvent, self.on_start)
        events.subscribe(events.ProcessStateExitedEvent, self.on_exit)
        events.subscribe(events.ProcessStateBackoffEvent, self.on_backoff)
        events.subscribe(events.ProcessStateStoppedEvent, self.on_stopped)
        events.subscribe(events.Tick5Event, self.on_tick)
        signal.signal(signal.SIGALRM, lambda *_: None)  # only to wake the poll when a delay is over
        signal.signal(signal.SIGUSR1, self.dump_stacks)
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

    # -- a program's end -------------------------------------------------------------------------------------------

    def on_start(self, event: Any) -> None:
        """Note when each program was started."""
        self.started[event.process.config.name] = time.monotonic()
        self._silence.forget(event.process.config.name)

    def on_exit(self, event: Any) -> None:
        """A program ended by itself."""
        process = event.process
        name, status = process.config.name, process.exitstatus
        if name in TERMINAL and status == TERMINAL_STATUS:
            say("critical", f"{name} ended for good (status {status}); the agent ends and must not be restarted")
            note("error", f"agent exited with terminal exit code: {status}")
            self.exit_status = TERMINAL_STATUS
            self.options.mood = SupervisorStates.SHUTDOWN
        elif self.options.mood >= SupervisorStates.RUNNING:
            end = "was killed" if status == BY_SIGNAL else f"ended with status {status}"
            process.spawnerr = f"(pid {process.pid}) {end}"
            if status == UPDATE_STATUS and name in TERMINAL:
                process.spawnerr += " (update), but upgrades come through the package manager"
            if status in (CRASH_STATUS, BY_SIGNAL):
                note("error", f"{name} crashed; its last output:\n{last_lines(process.config.stdout_logfile)}")
            process.change_state(ProcessStates.BACKOFF)

    def on_backoff(self, event: Any) -> None:
        """Our delay instead of supervisord's, for a program that ended as for one that could not be spawned."""
        process = event.process
        name = process.config.name
        restraint = self.restraints.setdefault(name, Restraint())
        delay = restraint.delay(time.monotonic() - self.started.get(name, 0.0))
        process.delay = time.time() + delay
        process.backoff = _ROLLBACK_MARGIN
        level = "error" if process.exitstatus in (None, UPDATE_STATUS) else "warn"
        why = process.spawnerr if process.exitstatus is not None else f"cannot be started: {process.spawnerr}"
        say(level, f"{name} {why}; it is started again in {delay:.1f} s")

    def on_stopped(self, event: Any) -> None:
        """The operator stopped a program."""
        self.restraints.pop(event.process.config.name, None)

    def tick(self, now: float | None = None) -> None:
        """Called in every turn of the loop: let the next delay that ends wake it."""
        super().tick(now)
        due = [process.delay for process in self.children() if process.get_state() == ProcessStates.BACKOFF]
        if due:
            signal.setitimer(signal.ITIMER_REAL, max(0.005, min(due) - time.time() + 0.001))

    # -- the end of the service ------------------------------------------------------------------------------------

    def ordered_stop_groups_phase_1(self) -> None:
        """Stop one stage after another, the programs of a stage at once; supervisord's own way goes one by one."""
        left = [process for process in self.children() if process.get_state() not in DOWN]
        stage = max((process.config.priority // STAGE for process in left), default=0)
        for process in left:
            if process.get_state() == ProcessStates.BACKOFF:
                process.give_up()  # it does not run
            elif process.config.priority // STAGE == stage and process.get_state() in STOPPABLE:
                process.stop()

    def ordered_stop_groups_phase_2(self) -> None:
        """All of it is done in phase 1."""

    # -- while it runs ---------------------------------------------------------------------------------------------

    def on_tick(self, event: Any) -> None:
        """Judge heartbeats."""
        for process in self.children():
            if self.options.mood != SupervisorStates.RUNNING:
                return
            if process.get_state() == ProcessStates.RUNNING:
                self._judge(process)

    def _judge(self, process: Any) -> None:
        name = process.config.name
        beat = last_beat(os.environ["ECS_RUN_DIR"], name)  # None for the stores, which have no heartbeat
        silent = self._silence.looks(name, beat) * TICK_SECONDS
        if silent > BEAT_LIMIT_SECONDS:
            say("error", f"{name} (pid {process.pid}) gave no heartbeat for {silent:.0f} s; it is started again")
            self._silence.forget(name)
            os.kill(process.pid, signal.SIGABRT)

    def dump_stacks(self, *_: object) -> None:
        """SIGUSR1: each of our programs writes its stacks into the log and goes on (spec 01 §5)."""
        for process in self.children():
            if process.pid and process.config.name not in STORES:
                process.signal(signal.SIGUSR1)


def left_out(environ: Mapping[str, str]) -> set[str]:
    """The programs that this host has no use for."""
    wanted = {"local": environ.get("ECS_TREE_LOCAL"), "storage": environ.get("ECS_TREE_VOLUMES")}
    return {name for name, said in wanted.items() if said != "true"}


def supervise(config_path: str) -> int:
    """Run the programs of `config_path` until a signal or a terminal exit; returns the exit status."""
    # What supervisord cannot write (a full disk) must not fill our stderr with tracebacks: we have the same output.
    loggers.Handler.handleError = lambda self: None
    nursery.preload()
    options = nursery.Options()
    options.realize(["-c", config_path, "-n"])
    options.first = True
    options.test = False
    options.process_group_configs = [g for g in options.process_group_configs if g.name not in left_out(os.environ)]
    tree = Tree(options)
    try:
        tree.main()
    except asyncore.ExitNow:
        pass  # supervisord's way to return
    options.close_httpservers()
    options.close_logger()
    sys.stdout.flush()
    return tree.exit_status
