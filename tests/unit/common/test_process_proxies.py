"""What every program of the tree keeps away from proxies (common/process.py)."""

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
import json, os
from botocore.utils import get_environ_proxies
from common.process import run

def serve(context):
    proxies = [get_environ_proxies(url) for url in ("http://169.254.169.254/latest/", "http://elsewhere.test/")]
    print(json.dumps([os.environ["NO_PROXY"], proxies]), flush=True)

run("engine", serve)
"""


def test_no_program_asks_metadata_through_a_proxy(run_dir):
    """Keys of the instance role are looked up by botocore, in each program that signs; it goes by the environment."""
    environment = {
        "PATH": os.environ["PATH"], "ECS_DATADIR": str(run_dir), "ECS_RUN_DIR": str(run_dir),
        "HTTP_PROXY": "http://proxy:3128", "no_proxy": "corp", "DOCKER_HOST": "unix:///run/d.sock",
    }  # fmt: skip
    words = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=True)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("["))
    said, (metadata, elsewhere) = json.loads(line)
    assert said == "169.254.169.254,169.254.170.2,/run/d.sock,corp"
    assert metadata == {} and elsewhere["http"] == "http://proxy:3128"
