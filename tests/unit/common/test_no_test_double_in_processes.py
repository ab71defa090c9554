"""What the processes of the product import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("service", ["acs", "endpoint", "engine", "images", "telemetry"])
def test_no_process_loads_the_store_of_the_unit_tests(service):
    """`common.memory` is there for tests; in a process it would be memory and a way to lose data."""
    code = f"import sys, services.{service}.service; sys.exit('common.memory' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or "common.memory is loaded"
