"""The images of the containers that the agent adds by itself: EBS driver and Service Connect agent (spec 08 §10).

The operator puts their archives where the agent looks for them. They are loaded at each start, in the background,
because that takes seconds and only some tasks need them; the Service Connect agent's also whenever its archive changes
(services/engine/relays.py).
"""

from __future__ import annotations

import json
import logging
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass

from common.ebs import DRIVER_ARCHIVE, DRIVER_IMAGE
from common.serviceconnect import AGENT_ARCHIVE, AGENT_IMAGE
from services.engine.docker import archives, pause_image
from services.engine.docker.api import Api, ApiError, DockerCallError
from services.engine.docker.settings import Settings

log = logging.getLogger(__name__)

LOAD_SECONDS = 120.0


@dataclass(frozen=True)
class AgentImage:
    """An image, the archive that it comes in, and whether this host has any use for it."""

    image: str
    archive: str
    words: str
    wanted: Callable[[Settings], bool] = lambda settings: True

    def is_wanted(self, settings: Settings) -> bool:
        """Whether it is to be loaded."""
        return self.wanted(settings) and os.path.exists(self.archive)

    def is_here(self, api: Api, settings: Settings) -> bool:
        """Whether Docker has the image; nobody is asked where it is not wanted. Raises DockerCallError."""
        return self.is_wanted(settings) and pause_image.is_here(api, self.image)

    def load(self, api: Api, settings: Settings, refused: Callable[[str], object] = lambda _: None) -> bool:
        """Load the archive, if it is wanted; True when Docker took it. What fails is logged.

        `refused` is told why when another attempt with the same archive would end the same way, and "" otherwise.
        """
        if not self.is_wanted(settings):
            return False
        try:
            # It is some 50 MB, which need not be in memory all at once.
            with (
                open(self.archive, "rb") as archive,
                mmap.mmap(archive.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
                memoryview(mapped) as data,
            ):
                archives.load(api, data, LOAD_SECONDS, quiet=True)
        except (OSError, ValueError, DockerCallError) as error:
            # An image from before still serves.
            log.warning("the image of the %s is not loaded from %s: %s", self.words, self.archive, error)
            refused(str(error) if isinstance(error, (OSError, ValueError, ApiError)) else "")
            return False
        log.info("the image of the %s is loaded from %s", self.words, self.archive)
        refused("")
        return True

    def digest(self) -> str:
        """The digest in the metadata file beside the archive; "" when there is none."""
        path = self.archive.removesuffix(".tar") + ".metadata.json"
        try:
            with open(path, encoding="utf-8") as file:
                return str(json.load(file).get("digest") or "")
        except (OSError, ValueError, AttributeError) as error:
            log.warning("the digest of the image of the %s is not known: %s: %s", self.words, path, error)
            return ""

    def stamp(self) -> tuple[int, ...] | None:
        """What changes when the archive does; None without an archive."""
        try:
            found = os.stat(self.archive)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


EBS_DRIVER = AgentImage(DRIVER_IMAGE, DRIVER_ARCHIVE, "EBS driver", lambda settings: settings.ebs_volumes)
SERVICE_CONNECT = AgentImage(AGENT_IMAGE, AGENT_ARCHIVE, "Service Connect agent", lambda s: not s.external)
