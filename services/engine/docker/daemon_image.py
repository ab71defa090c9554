"""The image of the EBS CSI driver, which the agent runs for itself (spec 05 §5, spec 08 §10.3).

The operator puts its archive where the agent looks for it; it is loaded at each start, in the background, because it
takes seconds and only tasks with EBS volumes need it.
"""

from __future__ import annotations

import logging
import mmap
import os

from common.ebs import DRIVER_ARCHIVE, DRIVER_IMAGE
from services.engine.docker import pause_image
from services.engine.docker.api import Api, DockerCallError
from services.engine.docker.settings import Settings

log = logging.getLogger(__name__)

LOAD_SECONDS = 120.0


def is_wanted(settings: Settings, path: str = DRIVER_ARCHIVE) -> bool:
    """Whether this host attaches volumes at all."""
    return settings.ebs_volumes and os.path.exists(path)


def load(api: Api, settings: Settings, path: str = DRIVER_ARCHIVE) -> bool:
    """Load the archive; False when there was nothing to do. What fails is logged: an image from before still serves."""
    if not is_wanted(settings, path):
        return False
    try:
        # It is some 50 MB, which need not be in memory all at once.
        with (
            open(path, "rb") as archive,
            mmap.mmap(archive.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as data,
        ):
            headers = {"Content-Type": "application/x-tar"}
            api.call("POST", "/images/load", LOAD_SECONDS, query={"quiet": 1}, body=data, headers=headers)
        log.info("the image of the EBS driver is loaded from %s", path)
    except (OSError, ValueError, DockerCallError) as error:
        log.warning("the image of the EBS driver is not loaded from %s: %s", path, error)
    return True


def is_here(api: Api, settings: Settings, path: str = DRIVER_ARCHIVE) -> bool:
    """Whether Docker has the image; nobody is asked where it is not wanted. Raises DockerCallError."""
    return is_wanted(settings, path) and pause_image.is_here(api, DRIVER_IMAGE)
