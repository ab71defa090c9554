# ruff: noqa: E402 -- the monkey patch comes before every other import
"""Runs the process `acs` with the timers that a test shortens, forked from a process that has imported it.

The timers of an ACS session are minutes and hours; ACS_TEST_TIMINGS holds a JSON object of those that a test changes,
and may name a directory of network links in place of the kernel's, since no test can plug an interface in. Everything
else is the process as it is shipped, where the tree forks it in the same way (common/tree/nursery.py).

Standard input has one JSON object per process to start: its environment, and the file for what it prints. Standard
output tells `<pid>` at its start and `<pid> <status>` at its end.
"""

from gevent import monkey

monkey.patch_all()

import json
import os
import sys
from typing import Any

from common import process
from services.acs import devices, ecs, lifecycle, registration, service, submission
from services.acs.session import Timings

# The hub must not exist before the fork, so what is patched to use it is not used here.
fork, waitpid = monkey.get_original("os", "fork"), monkey.get_original("os", "waitpid")
select = monkey.get_original("select", "select")
LOOK_SECONDS = 0.01


def shorten(values: dict[str, Any]) -> None:
    """Change the timers of this process."""
    if "flush" in values:
        submission.FLUSH_SECONDS = tuple(values.pop("flush"))
    for name in ("keep_house", "quiet", "capabilities"):
        if name in values:
            setattr(service, f"{name.upper()}_SECONDS", values.pop(name))
    if "spot" in values:
        lifecycle.SPOT_SECONDS = values.pop("spot")
    if "registration" in values:
        registration.ATTEMPT_START = registration.RETRY_START = values.pop("registration")
    if "sdk" in values:
        pause = values.pop("sdk")
        ecs.retry_delay = lambda number: pause
    if "submission" in values:
        submission.RETRY_START = values.pop("submission")
    if "links" in values:
        links, hardware_addresses = values.pop("links"), devices.hardware_addresses
        devices.hardware_addresses = lambda: hardware_addresses(links)
    service.TIMINGS = Timings(**values)


def become(order: dict[str, Any]) -> int:
    """Be the process; answers its exit status."""
    out = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(order["env"])
    shorten(json.loads(os.environ.pop("ACS_TEST_TIMINGS", "{}")))
    return process.run("acs", service.serve)


def main() -> int:
    """Start and reap processes until standard input ends."""
    waiting = b""
    while True:
        if select([0], [], [], LOOK_SECONDS)[0]:
            data = os.read(0, 65536)
            if not data:
                return 0
            *orders, waiting = (waiting + data).split(b"\n")
            for order in orders:
                pid = fork()
                if pid == 0:
                    status = 1
                    try:
                        status = become(json.loads(order))
                    finally:
                        os._exit(status)
                os.write(1, f"{pid}\n".encode())
        try:
            while (ended := waitpid(-1, os.WNOHANG))[0]:
                os.write(1, f"{ended[0]} {os.waitstatus_to_exitcode(ended[1])}\n".encode())
        except ChildProcessError:
            continue  # there is none


sys.exit(main())
