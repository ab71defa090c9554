"""What the process says about itself: heartbeats of the session, how long it is down and why, who lacks what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from common import keys
from common.bus import Bus
from common.readiness import State, read
from tests.fakes.control_plane import ControlPlane, error

ROOT = Path(__file__).parents[3]
DENIED = "User: arn:aws:sts::1:assumed-role/ecsInstanceRole/i-1 is not authorized to perform: ecs:Register"


def acs_says(run_dir: Path) -> State:
    """What acs says of itself."""
    return read(str(run_dir), "acs") or State("acs", False, "", 0, 0.0)


def healthcheck(run_dir: Path) -> str:
    """The line about acs that `ecs-agent healthcheck` prints."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "ECS_RUN_DIR": str(run_dir),
                   "ECS_DATADIR": str(run_dir)}  # fmt: skip
    script = "import sys; from common.tree.health import report; sys.exit(report())"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1, done.stderr
    return next(line for line in done.stdout.splitlines() if line.startswith("acs "))


def test_each_heartbeat_of_acs_is_in_the_session_document(acs, control_plane, bus, eventually):
    """Telemetry checks the container runtime when the time changes."""
    assert eventually(lambda: bus.volatile.get(keys.SESSION, "acs")).heartbeat_at == 0.0
    for number in (1, 2):
        before = time.time()
        control_plane.live.push("HeartbeatMessage", {"messageId": f"h-{number}", "healthy": True})
        eventually(lambda since=before: bus.volatile.get(keys.SESSION, "acs").heartbeat_at >= since)
    session = bus.volatile.get(keys.SESSION, "acs")
    assert session.connected and session.heartbeat_at <= time.time()


def test_a_session_that_is_down_is_told_with_its_length_and_reason(start_acs, control_plane, run_dir, eventually):
    """Not ready after a while, with the server's words; ready again with the next connection."""
    start_acs(quiet=0.5, retry_maximum=0.3)
    eventually(lambda: acs_says(run_dir).ready, 20)
    assert "connected to ACS" in acs_says(run_dir).detail
    control_plane.refusals.extend([(503, "busy")] * 99)
    control_plane.live.reset()
    eventually(lambda: not acs_says(run_dir).ready, 15)
    line = healthcheck(run_dir)
    assert " not ready for " in line and " s: registered as arn:" in line
    assert (
        "there is no session with ACS: websocket client: unable to dial" in line
        and "busy: websocket: bad handshake (503" in line
    )
    control_plane.refusals.clear()
    eventually(lambda: acs_says(run_dir).ready, 20)


def test_a_denied_permission_is_named_with_action_and_role(start_acs, control_plane: ControlPlane, run_dir, eventually):
    """At registration and at the handshake of the session."""
    control_plane.faults["RegisterContainerInstance"] = lambda _: error("AccessDeniedException", DENIED)
    process = start_acs()
    eventually(lambda: "needs the permission" in process.text(), 15)
    line = healthcheck(run_dir)
    assert "not registered: RegisterContainerInstance: AccessDeniedException" in line
    assert "the role ecsInstanceRole needs the permission ecs:RegisterContainerInstance" in line
    control_plane.refusals.append((403, json.dumps({"AccessDeniedException": DENIED})))
    control_plane.faults.clear()
    eventually(lambda: "the role ecsInstanceRole needs the permission ecs:Poll" in process.text(), 15)
    eventually(lambda: control_plane.live, 15)


def test_metadata_is_not_asked_when_it_is_blackholed(start_acs, control_plane: ControlPlane, bus: Bus, eventually):
    """The instance registers without identity, as the flag wants it."""
    start_acs({"ECS_TREE_BLACKHOLE_EC2_METADATA": "true"})
    eventually(lambda: control_plane.live, 15)
    call = next(c for c in control_plane.calls if c.operation == "RegisterContainerInstance")
    assert call.body["instanceIdentityDocument"] == ""
    instance = bus.durable.get(keys.INSTANCE, keys.INSTANCE_ID)
    assert instance is not None and instance.ec2_instance_id == ""
