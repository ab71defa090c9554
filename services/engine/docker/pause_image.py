"""The pause image: its containers hold the namespaces that containers of a task share (spec 08 §10.1).

It comes as a tarball with the agent's packages and is loaded at each start. Without the image the agent works on, and
does not offer shared PID and IPC namespaces; only a host that is configured for task network interfaces needs it.
"""

from __future__ import annotations

import logging
import os

from common.errors import Temporary, Terminal
from services.engine.core.waiting import PAUSE_IMAGE
from services.engine.docker import archives
from services.engine.docker.api import Api, ApiError, DockerCallError
from services.engine.docker.settings import Settings

log = logging.getLogger(__name__)

LOAD_SECONDS = 120.0
INSPECT_SECONDS = 10.0


def load(api: Api, settings: Settings) -> None:
    """Load the tarball, if there is one.

    Raises, only where task network interfaces are on: Terminal when the file is missing and the image too, Temporary
    when Docker refuses the file.
    """
    path = settings.pause_tarball
    try:
        if path and os.path.exists(path):
            _load(api, path)
            return
        log.debug("there is no pause image archive %s to load", path)
    except (OSError, DockerCallError) as error:
        log.error("the pause image is not loaded from %s: %s", path, error)
        if settings.task_network_interfaces:
            raise Temporary(f"the pause image cannot be loaded from {path}: {error}") from error
        return
    if settings.task_network_interfaces and not _is_here(api):
        raise Terminal(
            f"ECS_ENABLE_TASK_ENI is true, but there is neither the image {PAUSE_IMAGE} nor its archive {path}; "
            "install the archive or unset the option"
        )


def _is_here(api: Api) -> bool:
    try:
        return is_here(api)
    except DockerCallError as error:
        raise Temporary(f"Docker cannot be asked about {PAUSE_IMAGE}: {error}") from error


def _load(api: Api, path: str) -> None:
    with open(path, "rb") as archive:
        data = archive.read()  # a few hundred KiB
    archives.load(api, data, LOAD_SECONDS, quiet=False)
    log.info("the pause image is loaded from %s", path)


def is_here(api: Api, image: str = PAUSE_IMAGE) -> bool:
    """Whether Docker has the image. Raises DockerCallError when Docker does not tell."""
    try:
        api.call("GET", f"/images/{image}/json", INSPECT_SECONDS)
    except ApiError as error:
        if error.status == 404:
            return False
        raise
    return True
