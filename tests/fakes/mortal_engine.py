"""The engine's process with a date of death: SIGKILL at the n-th commit about one task.

Run as `python -m gevent.monkey --module tests.fakes.mortal_engine`. It reads the file that FATE_FILE names before each
commit, so that a test can tell a running engine when to die: {"arn": ..., "at": n, "after": bool}. Commits are counted
from the moment at which the file names another task. Death comes before Redis gets the commit, or after it, before
anybody hears of it.
A stopped task is cleaned up at once, so that a test need not wait for it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, NoReturn

from msgspec.structs import replace

from common.bus import Change, Store
from common.process import run
from services.engine import engine as engine_module
from services.engine.service import serve

FATE_FILE = "FATE_FILE"


def die() -> NoReturn:
    """As `kill -9` does it."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL cannot be survived")


class Fate:
    """Counts the commits about the task that the file names."""

    def __init__(self, path: str) -> None:
        self.path, self.arn, self.count = path, "", 0

    def commit(self, store: Store, change: Change, do: Any, *more: Any) -> Any:
        """A commit, or the end."""
        fate = self._read()
        if fate["arn"] != self.arn:
            self.arn, self.count = fate["arn"], 0
        if not any(self._is_about(part) for command in change.commands for part in command):
            return do(store, change, *more)
        self.count += 1
        if self.count != fate["at"]:
            return do(store, change, *more)
        if fate["after"]:
            do(store, change, *more)
        die()

    def _read(self) -> dict[str, Any]:
        try:
            with open(self.path, encoding="utf-8") as file:
                found: dict[str, Any] = json.load(file)
                return found
        except FileNotFoundError:
            return {"arn": "", "at": 0, "after": False}

    def _is_about(self, part: Any) -> bool:
        if not self.arn:
            return False
        return self.arn.encode() in part if isinstance(part, bytes) else self.arn in str(part)


def main() -> int:
    """The engine's own main, with mortality."""
    fate, commit, settings_of = Fate(os.environ[FATE_FILE]), Store.commit, engine_module.settings_of
    Store.commit = lambda store, change, *more: fate.commit(store, change, commit, *more)  # type: ignore[method-assign]
    engine_module.settings_of = lambda config: replace(settings_of(config), cleanup_wait_seconds=0.0)
    return run("engine", serve)


if __name__ == "__main__":
    sys.exit(main())
