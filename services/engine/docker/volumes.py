"""Docker's volumes, each call within five minutes (ECS agent behaviour, spec 03 §6.2, spec 05 §3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from services.engine.docker import texts
from services.engine.docker.api import Api, ApiError, DockerCallError, TimedOut
from services.engine.resources.kind import VolumeFailed

CALL_SECONDS = 300.0


class DockerVolumeCalls:
    """create, inspect, remove. Each raises VolumeFailed with Docker's text."""

    def __init__(self, api: Api, seconds: float = CALL_SECONDS) -> None:
        self._api, self._seconds = api, seconds

    def create(self, name: str, driver: str, options: Mapping[str, str], labels: Mapping[str, str]) -> None:
        """Make a volume; making it again is no error for Docker."""
        body = {"Name": name, "Driver": driver, "DriverOpts": dict(options), "Labels": dict(labels)}
        # As the reference's client: Docker shows an absent map as null and an empty one as {}.
        self._call("creating volume", "POST", "/volumes/create", {k: v for k, v in body.items() if v})

    def inspect(self, name: str) -> dict[str, Any]:
        """Docker's description of a volume."""
        answer: dict[str, Any] = self._call("inspecting volume", "GET", f"/volumes/{quote(name, safe='')}")
        return answer

    def remove(self, name: str) -> None:
        """Remove a volume, not forced; one that is gone is no error."""
        self._call("removing volume", "DELETE", f"/volumes/{quote(name, safe='')}", gone_is_fine=True)

    def _call(self, what: str, method: str, path: str, body: Any = None, gone_is_fine: bool = False) -> Any:
        try:
            # Docker takes each of the three twice, so a daemon that is away for a moment costs no task.
            answer = self._api.patient_call(method, path, self._seconds, body=body)
            return answer.json() if answer.body.strip() else {}
        except TimedOut as error:
            raise VolumeFailed(texts.timeout(what, self._seconds).text, timed_out=True) from error
        except ApiError as error:
            if gone_is_fine and error.status == 404:
                return {}
            raise VolumeFailed(str(error)) from error
        except DockerCallError as error:
            raise VolumeFailed(str(error)) from error
