"""The tasks as this process knew them last, in a file, for a start while the durable Redis is away.

Without it a restart of this process in such a moment would take metadata from containers that run well, and nobody
could tell an id that will be known again from one that never was. The file lies in the run directory, for root only.
It holds documents that the durable Redis has on disk too: no secret value, and no credentials. It is written a moment
after a change, by the worker that serves introspection, and read by all.

It counts only within one life of the process tree: another boot or another supervisor begins anew, because only then
may a state directory have been replaced. What it says is at most SAVE_SECONDS older than what the killed process
served; the engine cannot change anything while its Redis is away.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import gevent
import gevent.event
from msgspec import DecodeError, Struct, msgpack

from common import wholefile
from common.keys import INSTANCE, TASK
from common.model.agent import Instance
from common.model.task import Task
from common.version import VERSION
from services.endpoint.periodic import Periodic
from services.endpoint.view import View

log = logging.getLogger(__name__)

SAVE_SECONDS = 0.25  # from a change to the file; a burst of changes is one write
NAME = "endpoint.lastview"
LIFE_VARIABLE = "ECS_TREE_ENDPOINT_LIFE"  # the first worker tells the others, whose parent it is
FORM = f"{VERSION} {INSTANCE.schema} {TASK.schema}"  # another version reads nothing of this one


class Saved(Struct, frozen=True):
    """The content of the file. `life` and `form` must be those of the reader."""

    life: str
    form: str
    instance: Instance
    tasks: tuple[Task, ...]


def life() -> str:
    """What is the same for all endpoint processes under one supervisor since one boot; "" when it cannot be told."""
    told = os.environ.get(LIFE_VARIABLE)
    if told:
        return told
    parent = os.getppid()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The name in parentheses may hold anything; the 20th field after it is the start time (proc(5)).
        started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError) as error:
        log.debug("the supervisor's identity cannot be read: %s", error)
        return ""
    return f"{boot} {parent} {started}"


class LastView(Periodic):
    """Keeps the file. `changed` is set by who changes the view; nothing is written before `complete`."""

    def __init__(self, run_dir: str, view: View, changed: gevent.event.Event, complete: gevent.event.Event,
                 tell_life: Callable[[], str] = life) -> None:  # fmt: skip
        self.path, self.view, self.changed, self.complete = Path(run_dir) / NAME, view, changed, complete
        self.life = tell_life()
        self._complained = False

    def turn(self) -> None:
        """Wait for a change, then for the end of the burst, and save."""
        self.complete.wait()
        self.changed.wait()
        gevent.sleep(SAVE_SECONDS)
        self.changed.clear()
        self.save()

    def save(self) -> None:
        """Write the file. A disk that is full or hangs costs the file and not the requests."""
        if not self.life:
            return
        tasks = tuple(entry.task for entry in self.view.tasks.values())
        saved = Saved(self.life, FORM, self.view.instance, tasks)
        try:
            gevent.get_hub().threadpool.apply(lambda: wholefile.replace(self.path, msgpack.encode(saved)))
            self._complained = False
        except OSError as error:
            if not self._complained:
                log.warning("%s cannot be written (%s); a restart of this process while Redis is away would serve "
                            "no metadata", self.path, error)  # fmt: skip
            self._complained = True

    def restore(self) -> bool:
        """Put what the file says into the view; False when there is none of this life."""
        try:
            saved = msgpack.decode(self.path.read_bytes(), type=Saved)
        except FileNotFoundError:
            return False
        except (OSError, DecodeError) as error:
            log.warning("%s cannot be read (%s); waiting for Redis", self.path, error)
            return False
        if not self.life or (saved.life, saved.form) != (self.life, FORM) or not saved.instance.arn:
            return False
        self.view.set_instance(saved.instance)
        for task in saved.tasks:
            self.view.set_task(task)
        return True
