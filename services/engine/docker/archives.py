"""Loading an archive of `docker save` into Docker (Docker Engine API, ImageLoad)."""

from __future__ import annotations

import json

from services.engine.docker.api import Api, ApiError

PATH = "/images/load"


def load(api: Api, data: bytes | memoryview, seconds: float, quiet: bool) -> None:
    """Send the archive. Raises DockerCallError: an ApiError when Docker refuses it.

    Docker answers with 200 before it has read the archive; what it says against it comes in the body.
    """
    headers = {"Content-Type": "application/x-tar"}
    answer = api.call("POST", PATH, seconds, query={"quiet": int(quiet)}, body=data, headers=headers)
    for line in filter(None, map(bytes.strip, answer.body.splitlines())):
        try:
            said = json.loads(line)
        except ValueError:
            continue  # words for a terminal
        if isinstance(said, dict) and said.get("error"):
            raise ApiError(answer.status, "", str(said["error"]), api.url(PATH))
