"""A real image registry on loopback: Docker's own program, on a port that it picked by itself and tells in its log."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

START_SECONDS = 30.0
LISTENS = re.compile(r"listening on 127\.0\.0\.1:(\d+)")


class Registry:
    """It listens when the constructor returns, and keeps all under `directory`; skips where it lacks."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("docker-registry") is None:
            pytest.skip("no docker-registry program")
        self._log = directory / "registry.log"
        config = directory / "config.yml"
        config.write_text(
            f"version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
            "http: {addr: 127.0.0.1:0}\n"
        )
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
        try:
            self.port = self._told()
        except AssertionError:
            self.close()
            raise
        self.address = f"127.0.0.1:{self.port}"

    def _told(self) -> int:
        end = time.monotonic() + START_SECONDS
        while True:
            ended, text = self._process.poll() is not None, self._log.read_text()
            if found := LISTENS.search(text):
                return int(found[1])
            assert not ended and time.monotonic() < end, f"the registry does not start:\n{text}"
            time.sleep(0.02)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)
