"""A program that blocks its event loop is seen at /metrics."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.process.endpoint.conftest import ROOT

BLOCKING = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from common import process

def serve(context):
    gevent.sleep(0.05)
    monkey.get_original("time", "sleep")(0.4)
    gevent.sleep(0.05)
    context.ready("after 0.4 s")
    context.stopping.wait()

sys.exit(process.run("engine", serve))
"""


def test_a_program_that_blocks_its_loop_is_seen_at_the_metrics_page(start, writers, run_dir, eventually):
    """The figure of each program goes with its heartbeat; nothing else has to be told or asked."""
    writers.instance()
    environment = os.environ | {"ECS_RUN_DIR": str(run_dir), "ECS_DATADIR": str(run_dir)}
    process = subprocess.Popen([sys.executable, "-c", BLOCKING], cwd=ROOT, env=environment)
    try:
        running = start()

        def blocked() -> dict[str, float]:
            lines = running.look("/metrics").body.decode().splitlines()
            mine = [line for line in lines if line.startswith("ecs_agent_event_loop") and 'program="engine"' in line]
            return {line.split("{")[0]: float(line.rpartition(" ")[2]) for line in mine}

        eventually(lambda: blocked().get("ecs_agent_event_loop_stalls_total", 0) >= 1)
        seen = blocked()
        assert 0.4 <= seen["ecs_agent_event_loop_longest_stall_seconds"] < 5
        assert seen["ecs_agent_event_loop_stall_seconds_total"] >= seen["ecs_agent_event_loop_longest_stall_seconds"]
    finally:
        process.terminate()
        assert process.wait(10) == 0
