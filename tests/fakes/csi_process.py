"""Starts and asks the fake CSI driver (csi_driver.py), a program of its own: grpcio does not go with gevent."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DRIVER = Path(__file__).parent / "csi_driver.py"


class FakeDriver:
    """The program in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.socket = directory, directory / "csi-driver.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait for its socket."""
        self.socket.unlink(missing_ok=True)
        self._process = subprocess.Popen([sys.executable, str(DRIVER), str(self.directory)])
        end = time.monotonic() + 15
        while not self.socket.exists():
            assert self._process.poll() is None and time.monotonic() < end, "the fake driver did not start"
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)

    def behave(self, **behaviour: Any) -> None:
        """From the next call on."""
        scratch = self.directory / "behaviour.new"
        scratch.write_text(json.dumps(behaviour))
        scratch.rename(self.directory / "behaviour")

    def calls(self, method: str = "") -> list[dict[str, Any]]:
        """The calls so far, in order."""
        path = self.directory / "calls"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if method in ("", line["method"])]
