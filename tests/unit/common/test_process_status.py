"""The exit status of a service tells the tree what to do with it (common/process.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
from gevent import monkey
monkey.patch_all()
import json, sys
from common.errors import Permanent, Temporary, Terminal
from common.process import run

def fail(error):
    def serve(context):
        raise error
    return serve

ends = [lambda context: None, *map(fail, (Temporary("t"), Permanent("p"), ValueError("v"), Terminal("x")))]
print(json.dumps([run("engine", serve) for serve in ends]))
"""


def test_an_exception_that_nobody_expected_has_a_status_of_its_own(run_dir):
    """Spec 09 §16.2: 2 makes the tree keep the last output; our own errors are 1, those that are final 5."""
    environment = {"PATH": os.environ["PATH"], "ECS_DATADIR": str(run_dir), "ECS_RUN_DIR": str(run_dir)}
    words = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, 1, 1, 2, 5], done.stderr
