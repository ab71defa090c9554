"""`python -m services.engine --facts`: what Docker is like, as JSON on stdout.

For `ecs-agent -ecs-attributes`, which works without a running tree: neither Redis nor the engine is asked, nothing is
loaded or changed in Docker.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import gevent
import msgspec

from common.config import load
from common.errors import AgentError
from services.engine.docker import facts
from services.engine.docker.api import Api, DockerCallError
from services.engine.docker.settings import from_config

ANSWER_SECONDS = 10.0


class _Late(Exception):
    """Docker has not answered in time."""


def main(environment: Mapping[str, str] | None = None) -> int:
    """Print DockerFacts and return 0, or say on stderr why not and return 1."""
    try:
        config = load(environment if environment is not None else os.environ)
        api, settings = Api(address=config["DOCKER_HOST"]), from_config(config)
    except AgentError as error:
        return _failed(str(error))
    try:
        with gevent.Timeout(ANSWER_SECONDS, _Late):
            found = facts.read(api, settings)
    except _Late:
        return _failed(f"Docker at {api.address} has not answered within {ANSWER_SECONDS:g} s.")
    except DockerCallError as error:
        return _failed(f"Docker cannot be asked about itself: {error}")
    except AgentError as error:
        return _failed(str(error))
    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
    sys.stdout.flush()
    return 0


def _failed(sentence: str) -> int:
    sys.stderr.write(f"ecs-agent: {sentence}\n")
    return 1
