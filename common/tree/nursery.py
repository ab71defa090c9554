"""Programs are born by fork from the supervising process, which has imported what all of them need.

An interpreter that starts anew reads some 300 modules again and keeps a copy of each: 17 MB and 0.3 s of CPU time a
program. A forked one shares these pages with its parent and is at work in half the time, after a crash as well. What a
program sees is what exec would have given it: its own arguments, environment, descriptors, signal dispositions and
title; `python -m services.NAME` by hand does the same as ever.

Each program patches after the fork, in the first line of its entry point as always. So a module in PRELOADED must not
use a reference that it took from a module before gevent replaced the original. A test goes through what the loaded
modules hold, and names the few that are held but never used.
"""

from __future__ import annotations

import gc
import importlib
import os
import runpy
import signal
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from setproctitle import setproctitle
from supervisor.options import ServerOptions

from common.parent import die_with_parent
from common.process_names import CRASH_STATUS, FAILED_STATUS

PREFIX = "services."
PRELOADED = (
    "_strptime",  # which time.strptime imports when it is first called
    "asyncio", "concurrent.futures", "email.message", "faulthandler", "hashlib", "http.client", "http.cookies",
    "http.server", "inspect", "ipaddress", "json", "logging.handlers", "queue", "random", "secrets", "selectors",
    "shutil", "ssl", "statistics", "subprocess", "tempfile", "threading", "urllib.request", "uuid",
    "gevent.backdoor", "gevent.event", "gevent.events", "gevent.local", "gevent.lock", "gevent.monkey", "gevent.pool",
    "gevent.queue", "gevent.select", "gevent.selectors", "gevent.signal", "gevent.socket", "gevent.ssl",
    "gevent.subprocess", "gevent.threading", "gevent.threadpool", "gevent.time", "gevent.util",
    "msgspec.json", "msgspec.msgpack", "redis",
    "common.bus", "common.config", "common.errors", "common.logs", "common.model.agent", "common.model.messages",
    "common.model.task", "common.parent", "common.process", "common.readiness",
)  # fmt: skip


_supervisor = 0  # the pid of whoever preloaded; 0 before


def preload() -> None:
    """Import what the programs share, and keep the collector from touching (and so copying) its pages."""
    for name in PRELOADED:
        importlib.import_module(name)
    global _supervisor
    _supervisor = os.getpid()
    gc.collect()
    gc.freeze()


def module_of(argv: Sequence[str]) -> str:
    """The module of ours that `python … -m MODULE …` runs; "" for any other command."""
    if "-m" not in argv:
        return ""
    module = "".join(argv[argv.index("-m") + 1 :][:1])
    return module if module.startswith(PREFIX) else ""


class Options(ServerOptions):  # type: ignore[misc]
    """supervisord's system calls; here a program of ours goes on in the forked child instead of another interpreter."""

    def execve(self, filename: str, argv: Sequence[str], env: Mapping[str, str]) -> Any:
        """Called in the child, after supervisord has given it its descriptors and its process group."""
        module = module_of(argv)
        if not module:
            return super().execve(filename, argv, env)
        become(module, argv, env)


def become(module: str, argv: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    """Be the program `module` until it ends; never returns to supervisord's code."""
    status: object = CRASH_STATUS
    try:
        _forget_the_parent(env)
        die_with_parent(_supervisor)  # at once: a tree that is killed while a program begins must leave no orphan
        setproctitle(f"ecs-agent: {module.removeprefix(PREFIX)}")
        sys.argv = [module, *argv[argv.index("-m") + 2 :]]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = 0 if end.code is None else end.code
    except BaseException:
        traceback.print_exc()
    finally:
        # Not sys.exit: what the parent registered for its own end must not run here.
        _flush()
        os._exit(status if isinstance(status, int) else FAILED_STATUS)


def _forget_the_parent(env: Mapping[str, str]) -> None:
    signal.set_wakeup_fd(-1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    # gevent warns that ssl was imported before it is patched; nothing in PRELOADED holds a part of it.
    warnings.filterwarnings("ignore", message="Monkey-patching ssl")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue  # closed: nobody listens
