"""What ECS Exec needs on a host, with shell scripts for the programs of the SSM agent."""

from __future__ import annotations

from pathlib import Path

from common.model.task import ManagedAgent
from services.engine.core.agents import EXEC_AGENT
from services.engine.docker.api import Api
from services.engine.docker.exec_agent import PROGRAMS, ExecAgents

AGENT = ManagedAgent(name=EXEC_AGENT, id="11111111-2222-4333-8444-555555555555")


def install(root: Path, version: str = "3.10.0", script: str = "exec sleep 3600") -> None:
    """What the packages of ECS put onto the host; the agent is a shell script."""
    directory = root / "bin" / version
    directory.mkdir(parents=True)
    for name in PROGRAMS:
        path = directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    (root / "certs").mkdir(exist_ok=True)
    (root / "certs" / "tls-ca-bundle.pem").touch()


def agents(root: Path, ipv6_only: bool = False) -> ExecAgents:
    """Agents whose files and logs are below `root`."""
    return ExecAgents(Api(), ipv6_only, str(root), str(root), str(root / "log"), str(root / "log"), 0.01)
