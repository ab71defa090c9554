"""ecs-init.log: the verbs and the tree append to it, the process `init` too, which rotates it (spec 09 §13)."""

from __future__ import annotations

import logging
from pathlib import Path

from common.logfiles import RollingFile
from common.logs import LEVELS
from common.tree import linelog

FILE = Path("/var/log/ecs/ecs-init.log")
NAME = "ecs-init"


def open_log(level: str | None = None) -> logging.Logger:
    """The logger of the verbs. A `level` (ECS_LOGLEVEL, any case, empty for info) sets it up first."""
    return logging.getLogger(NAME) if level is None else linelog.open_log(NAME, str(FILE), level)


def take_over(path: str, level: str) -> None:
    """Let the root logger of this process write into `path`, and rotate it, instead of the agent's log file."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, RollingFile)]:
        root.removeHandler(handler)
        handler.close()
    own = linelog.LineFile(path, rotates=True)
    own.setLevel(LEVELS.get(level.lower(), logging.INFO))
    root.addHandler(own)
    root.setLevel(min(handler.level for handler in root.handlers))
