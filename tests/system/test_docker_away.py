"""Docker not there at the start, and gone in mid-run."""

from __future__ import annotations

import pytest

from tests.system.conftest import container, wait_connected

pytestmark = pytest.mark.docker


def test_without_docker_the_agent_waits_and_says_what_it_waits_for(make_agent, eventually, tmp_path):
    """No crash loop: the engine says once that Docker does not answer; the tree ends in order."""
    agent = make_agent(DOCKER_HOST=f"unix://{tmp_path}/no-docker.sock")
    eventually(lambda: "no-docker.sock" in agent.text(), seconds=20)
    assert agent.process.poll() is None
    assert not agent.connected()
    assert agent.stop() == 0
    assert "Traceback" not in agent.text()


def test_a_docker_that_comes_later_is_enough(make_agent, eventually, tmp_path):
    """The link to the socket appears after the agent has started: it registers and runs a task."""
    link = tmp_path / "docker.sock"
    agent = make_agent(DOCKER_HOST=f"unix://{link}")
    eventually(lambda: "docker.sock" in agent.text(), seconds=20)
    link.symlink_to("/var/run/docker.sock")
    wait_connected(agent, eventually)
    (arn,) = agent.run(container())
    assert eventually(lambda: agent.statuses([arn]) == {"RUNNING"}, seconds=20)
