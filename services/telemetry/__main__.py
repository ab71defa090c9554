"""Entry point of the process `telemetry`: python -m services.telemetry."""

from gevent import monkey

monkey.patch_all()

import sys

from common import process
from services.telemetry.service import serve

if __name__ == "__main__":
    sys.exit(process.run("telemetry", serve))
