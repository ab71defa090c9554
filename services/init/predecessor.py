"""What the Go agent left: its container, and its database.

The container must not run beside this agent: they would share ports and data (spec 09 §16.4). It is stopped with 10 s,
in which it saves its state, and removed; tasks are not touched. Plain HTTP on Docker's socket, without the SDK, as for
the name of the bridge. The database is neither read nor deleted, for a way back (spec 10 §16 Q11).
"""

from __future__ import annotations

import json
import logging
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.backoff import Backoff
from services.init import host

NAME = "/ecs-agent"
DATABASE = "agent.db"
_STOP_SECONDS = 10
_LIST_SECONDS = 3.0
_STOP_ANSWER_SECONDS = 20.0  # the answer comes after the container's end


class DockerAway(OSError):
    """Docker did not say which containers there are."""


def warn_of_database(data: Path, log: logging.Logger) -> bool:
    """Say that the Go agent's tasks are not taken over, as long as this agent has no state of its own in `data`."""
    database = data / DATABASE
    if not database.exists() or any(data.glob("redis/appendonlydir/*")):
        return False
    log.warning(
        "%s is the Go agent's state, which this agent cannot read: the instance registers anew, and tasks that the Go "
        "agent started run on unmanaged. The file is kept for a way back",
        database,
    )
    return True


def wait_and_remove(socket_path: str, log: logging.Logger, stopping: Callable[[float], bool]) -> bool:
    """The same in the background, for a Docker that was not up at the start or refused.

    True when there is no such container any more; False when `stopping` came first.
    """
    backoff = Backoff(0.5, 3.0)  # engine and acs wait for this: not long after Docker has come
    told = ""
    while True:
        try:
            remove_agent_container(socket_path, log)
            return True
        except DockerAway as error:
            log.debug("no look for the container ecs-agent yet: %s", error)
        except OSError as error:
            if str(error) != told:
                log.error("could not remove existing Agent container: %s; trying again", error)
            told = str(error)
        if stopping(backoff.delay()):
            return False


def remove_agent_container(socket_path: str, log: logging.Logger) -> bool:
    """Stop and remove a container named `ecs-agent`; True if there was one.

    Raises DockerAway when Docker does not say, OSError when it refuses.
    """
    query = urllib.parse.urlencode({"all": "true", "filters": json.dumps({"name": ["ecs-agent"]})})
    try:
        answer = _ask(socket_path, "GET", f"/containers/json?{query}", (200,), _LIST_SECONDS)
        listed: list[dict[str, Any]] = json.loads(answer)
    except (OSError, ValueError) as error:
        raise DockerAway(str(error)) from error
    found = [str(entry["Id"]) for entry in listed if NAME in (entry.get("Names") or ())]
    for container in found:
        _ask(
            socket_path,
            "POST",
            f"/containers/{container}/stop?t={_STOP_SECONDS}",
            (204, 304, 404),
            _STOP_ANSWER_SECONDS,
        )
        _ask(socket_path, "DELETE", f"/containers/{container}?force=true", (204, 404, 409), _STOP_ANSWER_SECONDS)
        log.warning(
            "the container ecs-agent (%s) of the Go agent was stopped and removed: two agents must not share this "
            "host. Tasks that it started run on, unmanaged",
            container[:12],
        )
    return bool(found)


def _ask(socket_path: str, method: str, path: str, good: tuple[int, ...], seconds: float) -> bytes:
    status, body = host.docker_request(socket_path, method, path, seconds)
    if status not in good:
        raise OSError(f"Docker answered {status} to {method} {path}: {body[:200].decode(errors='replace').strip()}")
    return body
