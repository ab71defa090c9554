"""Where the local tree lives and how it is reached, from the caller's environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

DEFAULT_PORT = 51670  # of ECS_LOCAL_PORT
INTROSPECTION_PORT, CREDENTIALS_PORT = 51678, 51679  # ECS agent behaviour, spec 06
DEFAULT_REGION = "us-east-1"


class Problem(Exception):
    """Something the user can mend. `status` is the exit status of the command."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


class Settings(Struct, frozen=True):
    """One local tree: its directory, port, region and cluster."""

    directory: Path
    port: int
    region: str
    cluster: str

    @property
    def endpoint(self) -> str:
        """Base URL of the ECS API."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def note(self) -> Path:
        """The file that says which tree runs here."""
        return self.directory / "local" / "up.json"

    @property
    def log(self) -> Path:
        """Output of the tree."""
        return self.directory / "log" / "ecs-local.log"


def read(environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from ECS_DATADIR, ECS_LOCAL_PORT, ECS_CLUSTER and the AWS region; a running tree's own port wins.

    Raises Problem (exit status 2) for a port that is none.
    """
    state_home = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME") or Path.home()) / ".local" / "state")
    directory = Path(environ.get("ECS_DATADIR") or Path(state_home) / "ecs-local").absolute()
    text = environ.get("ECS_LOCAL_PORT") or str(_noted(directory).get("port") or DEFAULT_PORT)
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise Problem(f"ECS_LOCAL_PORT is {text!r}; it must be a port number from 1 to 65535.", 2)
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or DEFAULT_REGION
    return Settings(directory, int(text), region, environ.get("ECS_CLUSTER") or "default")


def _noted(directory: Path) -> dict[str, Any]:
    try:
        note = json.loads((directory / "local" / "up.json").read_text())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def tree_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of `ecs-agent` in local mode; its own defaults of local mode it sets itself."""
    result = {"ECS_CLUSTER": settings.cluster, "AWS_DEFAULT_REGION": settings.region, **environ}
    result |= {
        "ECS_LOCAL_CONTROL_PLANE": "true",
        "ECS_LOCAL_PORT": str(settings.port),
        "ECS_DATADIR": str(settings.directory),
        "ECS_BACKEND_HOST": settings.endpoint,
    }
    if result.get("ECS_LOCAL_SECRETS_FILE"):  # the tree's working directory is not the caller's
        result["ECS_LOCAL_SECRETS_FILE"] = os.path.abspath(result["ECS_LOCAL_SECRETS_FILE"])
    return result
