# ruff: noqa: E402 -- the monkey patch comes before every other import
"""Runs the process `storage` with other directories than /mnt/ecs/ebs and /var/log/ecs, and shorter pauses."""

from gevent import monkey

monkey.patch_all()

import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from common import process
from services.storage import service, volumes

volumes.UNSTAGE_PAUSES = (1.0, 2.0, 1.5)
service.TICK_SECONDS = 0.2
root, logs = os.environ["STORAGE_TEST_ROOT"], os.environ["STORAGE_TEST_LOGS"]
sys.exit(process.run("storage", partial(service.serve, root=root, log_directory=logs)))
