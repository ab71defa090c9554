"""Starts and asks the fake CSI driver (csi_driver.py)."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.grpc_server import Program


class FakeDriver(Program):
    """The program in a directory of its own."""

    script = Path(__file__).parent / "csi_driver.py"
    socket_name = "csi-driver.sock"
