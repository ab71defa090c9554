"""Nothing is registered before the netfilter rules are in place (spec 09 §15.1 N5, case 20).

No task is taken before its containers can get credentials and metadata.
"""

from __future__ import annotations

from typing import Any

import gevent

from common import readiness
from common.process import ENDPOINT_SECONDS
from common.readiness import Beat


def test_an_instance_is_registered_only_when_the_rules_are_there(start_acs, control_plane, run_dir, eventually):
    """While `init` has trouble no task can come, and the readiness of acs names the trouble."""
    Beat(str(run_dir), "init").write(False, "iptables: Permission denied")
    Beat(str(run_dir), "endpoint").write(True, "serving")
    start_acs(env={"ECS_TREE_LOCAL": "false"})

    def waiting() -> Any:
        state = readiness.read(str(run_dir), "acs")
        return state and not state.ready and "netfilter rules: iptables: Permission denied" in state.detail

    eventually(waiting, 15)
    assert not control_plane.bodies("RegisterContainerInstance")
    Beat(str(run_dir), "init").write(True, "the rules are in place")
    eventually(lambda: control_plane.live, 15)
    assert len(control_plane.bodies("RegisterContainerInstance")) == 1


def test_tasks_are_taken_when_the_endpoint_serves(start_acs, control_plane, run_dir, eventually):
    """The instance is registered, since the endpoint needs to know it, but there is no session before it serves."""
    endpoint = Beat(str(run_dir), "endpoint")
    endpoint.write(False, "waiting for the registration of the container instance")
    start_acs(env={"ECS_TREE_LOCAL": "true"})
    eventually(lambda: control_plane.bodies("RegisterContainerInstance"), 15)
    gevent.sleep(0.3)  # far longer than a connection takes
    assert not control_plane.live
    endpoint.write(True, "serving")
    eventually(lambda: control_plane.live, 1)


def test_an_endpoint_that_never_serves_keeps_no_task_away(start_acs, control_plane, run_dir, eventually):
    """The port may belong to another program for good: said, and most tasks run without it."""
    Beat(str(run_dir), "endpoint").write(False, "process 4711 (nginx) has this port")
    process = start_acs(env={"ECS_TREE_LOCAL": "true"})
    eventually(lambda: control_plane.live, ENDPOINT_SECONDS + 10)
    assert "tasks are taken without the endpoint of credentials and metadata: process 4711 (nginx)" in process.text()


def test_a_tree_that_stops_meanwhile_is_not_kept_waiting(start_acs, control_plane, run_dir, eventually):
    """SIGTERM ends the wait."""
    process = start_acs(env={"ECS_TREE_LOCAL": "false"})
    eventually(lambda: "init has not started yet" in process.text(), 15)
    assert process.stop() == 0
    assert not control_plane.bodies("RegisterContainerInstance")
