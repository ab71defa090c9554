"""Image inspect with a short memory: a burst of tasks with one image asks Docker once.

The memory is cleared by every pull and tag of this process; what others do to images is seen two seconds later. Who
waits for another's call waits for a moment only and then asks itself: that call may hang.
"""

from __future__ import annotations

import threading
import time
from typing import Any
from urllib.parse import quote

from services.engine.docker.api import Api

INSPECT_SECONDS = 30.0
KEPT_SECONDS = 2.0
KEPT_IMAGES = 256
SHARED_SECONDS = 2.0  # longest wait for the answer to somebody else's call


class ImageInspector:
    """Image inspect with a memory of two seconds; mostly one call at a time per image."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, dict[str, Any]]] = {}
        self._changes = 0  # how often images may have changed: what was asked before a change is not remembered
        self._asking: dict[str, threading.Lock] = {}

    def inspect(self, image: str) -> dict[str, Any]:
        """Docker's description of an image. Raises DockerCallError (ApiError 404 when it is not there)."""
        turn = self._turn(image)
        try:
            return self._remembered(image) or self._ask(image)
        finally:
            turn.release()

    def _turn(self, image: str) -> threading.Lock:
        """The lock of the image, taken. One that is not given back in time belongs to a call that hangs: forget it."""
        with self._lock:
            if len(self._asking) > KEPT_IMAGES:
                self._asking = {name: lock for name, lock in self._asking.items() if lock.locked()}
            turn = self._asking.setdefault(image, threading.Lock())
        if turn.acquire(timeout=SHARED_SECONDS):
            return turn
        with self._lock:
            if self._asking.get(image) is turn:
                self._asking[image] = threading.Lock()
        return self._turn(image)

    def _remembered(self, image: str) -> dict[str, Any] | None:
        at, known = self._known.get(image, (0.0, {}))
        return known if known and time.monotonic() - at < KEPT_SECONDS else None

    def _ask(self, image: str) -> dict[str, Any]:
        changes = self._changes
        answer: dict[str, Any] = self._api.patient_call(
            "GET", f"/images/{quote(image, safe='/:@')}/json", INSPECT_SECONDS
        ).json()
        with self._lock:
            if len(self._known) >= KEPT_IMAGES:
                self._known.clear()
            if changes == self._changes:
                self._known[image] = (time.monotonic(), answer)
        return answer

    def forget(self, image: str = "") -> None:
        """`image` (or everything) may have changed."""
        with self._lock:
            self._changes += 1
            if image:
                self._known.pop(image, None)
            else:
                self._known.clear()

    def environment_names(self, image: str) -> tuple[str, ...]:
        """Names of the variables that the image's own ENV sets, also to nothing. Raises DockerCallError."""
        variables = (self.inspect(image).get("Config") or {}).get("Env") or ()
        return tuple(str(variable).partition("=")[0] for variable in variables)
