"""Nothing is registered before the netfilter rules are in place (spec 09 §15.1 N5, case 20)."""

from __future__ import annotations

from typing import Any

from common import readiness
from common.readiness import Beat


def test_an_instance_is_registered_only_when_the_rules_are_there(start_acs, control_plane, run_dir, eventually):
    """While `init` has trouble no task can come, and the readiness of acs names the trouble."""
    Beat(str(run_dir), "init").write(False, "iptables: Permission denied")
    start_acs(env={"ECS_TREE_LOCAL": "false"})

    def waiting() -> Any:
        state = readiness.read(str(run_dir), "acs")
        return state and not state.ready and "netfilter rules: iptables: Permission denied" in state.detail

    eventually(waiting, 15)
    assert not control_plane.bodies("RegisterContainerInstance")
    Beat(str(run_dir), "init").write(True, "the rules are in place")
    eventually(lambda: control_plane.live, 15)
    assert len(control_plane.bodies("RegisterContainerInstance")) == 1


def test_a_tree_that_stops_meanwhile_is_not_kept_waiting(start_acs, control_plane, run_dir, eventually):
    """SIGTERM ends the wait."""
    process = start_acs(env={"ECS_TREE_LOCAL": "false"})
    eventually(lambda: "init has not started yet" in process.text(), 15)
    assert process.stop() == 0
    assert not control_plane.bodies("RegisterContainerInstance")
