"""ECS Exec on real Docker: the agent's process in a container (spec 05 §12.4, §12.5)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from services.engine.core.agents import agent_of
from services.engine.core.effects import Action
from services.engine.docker.hands import Hands
from services.engine.docker.settings import Settings
from tests.fakes.exec_agent import AGENT, agents, install
from tests.process.engine_docker.conftest import Bench, docker, with_container


def hands_with(bench: Bench, root: Path) -> Hands:
    settings = Settings(limits=False, pull_behavior="prefer-cached", region="us-west-2", cluster="default")
    hands = Hands(None, bench.bus, settings=settings, exec_agents=agents(root))
    hands.facts()
    return hands


@pytest.mark.docker
def test_the_agent_runs_in_the_container_as_root(bench: Bench, tmp_path: Path) -> None:
    """Also in a container of another user; a second start finds it, a dead one is started anew, logs go at the end."""
    install(tmp_path)
    hands = hands_with(bench, tmp_path)
    container = bench.container(managed_agents=(AGENT,), docker_config='{"User":"12345"}')
    task = bench.started(hands, bench.task(container))
    first = bench.do(hands, Action.START_AGENT, task).agent
    assert first is not None and first.status == "RUNNING" and first.id == AGENT.id
    assert docker("top", task.containers[0].docker_id, "-o", "uid,pid").count(str(first.process_id)) == 1
    assert os.stat(f"/proc/{first.process_id}").st_uid == 0
    task = with_container(task, "main", managed_agents=(first,))
    assert bench.do(hands, Action.CHECK_AGENT, task).agent is None
    os.kill(first.process_id, 9)
    second: Any = None
    for _ in range(100):
        second = bench.do(hands, Action.CHECK_AGENT, task).agent
        if second is not None:
            break
    assert second.status == "RUNNING" and second.exec_id != first.exec_id
    logs = tmp_path / "log" / task.id
    assert (logs / "main").is_dir()
    bench.do(hands, Action.STOP, task)
    bench.do(hands, Action.REMOVE, task)
    assert not logs.exists()


@pytest.mark.docker
def test_an_agent_that_cannot_be_had_or_started_costs_only_itself(bench: Bench, tmp_path: Path) -> None:
    """Conformance cases R46 and R47: the container runs all the same."""
    hands = hands_with(bench, tmp_path)
    task = bench.task(bench.container(managed_agents=(AGENT,)))
    made = bench.do(hands, Action.CREATE, task)
    assert made.error is None and made.agent is not None and made.agent.init_failed
    assert made.agent.reason == "open /managed-agents/execute-command/bin: no such file or directory"
    install(tmp_path, script="exit 1")
    task = bench.started(hands, bench.task(bench.container(managed_agents=(AGENT,))))
    failed = bench.do(hands, Action.START_AGENT, task).agent
    assert failed is not None and (failed.status, failed.exec_id) == ("STOPPED", "")
    assert failed.reason == "ExecuteCommandAgent process exited with exit code: 1"
    assert agent_of(task.containers[0]) is not None
