"""The files of ECS Exec's agent that a container gets (spec 05 §12.2, §12.3)."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from common.model.task import Container, ManagedAgent, Task
from services.engine.core.agents import EXEC_AGENT
from services.engine.docker.exec_agent import PROGRAMS, ExecAgentFailed, hash_of
from tests.fakes.exec_agent import AGENT, agents, install


def test_the_newest_complete_version_is_bound(tmp_path: Path) -> None:
    """Conformance case R48, and the order of the binds; numbers are compared as numbers."""
    for version in ("3.9.0", "3.10.0", "3.11.0", "latest"):
        install(tmp_path, version)
    (tmp_path / "bin" / "3.11.0" / PROGRAMS[1]).unlink()
    task, inner = Task(arn="a/b/id"), f"/ecs-execute-command-{AGENT.id}"
    found = agents(tmp_path).binds(task, Container(name="--app"), AGENT)
    config = "amazon-ssm-agent-lLoTcHhcD396A8e-if16tyGWqRa9KN-oBb1H2LAqn48=.json"
    assert [bind for bind in found if "seelog" not in bind] == [
        *(f"{tmp_path}/bin/3.10.0/{name}:{inner}/{name}:ro" for name in PROGRAMS),
        f"{tmp_path}/config/{config}:{inner}/configuration/amazon-ssm-agent.json:ro",
        f"{tmp_path}/certs/tls-ca-bundle.pem:{inner}/certs/amazon-ssm-agent.crt:ro",
        f"{tmp_path}/log/id/app:/var/log/amazon/ssm",
    ]
    assert found[4].endswith(f":{inner}/configuration/seelog.xml:ro")
    assert os.stat(tmp_path / "config" / config).st_mode & 0o777 == 0o644
    nameless = agents(tmp_path).binds(task, Container(name="--"), AGENT)[-1]
    uuid.UUID(nameless.removeprefix(f"{tmp_path}/log/id/nameless-container-").partition(":")[0])


@pytest.mark.parametrize(
    ("limit", "ipv6_only", "name"),
    [
        ("5", True, "NkiExh9-paNNqEvTt-PRCvQUjmZrNXCM_E1-QgK8Xfo="),
        ("many", False, "lLoTcHhcD396A8e-if16tyGWqRa9KN-oBb1H2LAqn48="),
        ("-1", False, "lLoTcHhcD396A8e-if16tyGWqRa9KN-oBb1H2LAqn48="),
    ],
)
def test_the_configuration_is_named_by_its_content(tmp_path: Path, limit: str, ipv6_only: bool, name: str) -> None:
    """The check values of the specification; a directory that a bad bind left gives way, a changed file is mended."""
    install(tmp_path)
    path = tmp_path / "config" / f"amazon-ssm-agent-{name}.json"
    path.mkdir(parents=True)
    agent = ManagedAgent(name=EXEC_AGENT, id="x", properties={"sessionLimit": limit})
    for _ in range(2):
        agents(tmp_path, ipv6_only).binds(Task(arn="a/b/id"), Container(name="app"), agent)
        assert hash_of(path.read_text()) == name
        path.write_text("something else")


@pytest.mark.parametrize(
    ("arn", "name"), [("a/b/id", "../../../../etc"), ("a/b/id", ".."), ("a/b/..", "app"), ("a/b/", "app")]
)
def test_logs_never_lie_outside_of_the_tasks_own_directory(tmp_path: Path, arn: str, name: str) -> None:
    """Root writes to them, and they are removed with all that is in them (spec 05, trap 34)."""
    install(tmp_path)
    with pytest.raises(ExecAgentFailed, match="is not the name of a directory"):
        agents(tmp_path).binds(Task(arn=arn), Container(name=name), AGENT)
    if name == "app":
        with pytest.raises(OSError, match="is not the name of a directory"):
            agents(tmp_path).remove_logs(Task(arn=arn))


def test_what_is_missing_is_named_in_order(tmp_path: Path) -> None:
    """The texts that ECS hears."""

    def reason() -> str:
        with pytest.raises(ExecAgentFailed) as caught:
            agents(tmp_path).binds(Task(arn="a/b/id"), Container(name="app"), AGENT)
        return str(caught.value)

    assert reason() == "open /managed-agents/execute-command/bin: no such file or directory"
    (tmp_path / "bin" / "3.0").mkdir(parents=True)
    assert reason() == "no valid versions were found in /var/lib/ecs/deps/execute-command/bin"
    install(tmp_path)
    (tmp_path / "config").rmdir() if (tmp_path / "config").exists() else None
    (tmp_path / "config").touch()
    assert reason().startswith("could not generate ExecAgent Config File: ")
    (tmp_path / "config").unlink()
    (tmp_path / "certs" / "tls-ca-bundle.pem").unlink()
    assert reason() == "could not find certs"
