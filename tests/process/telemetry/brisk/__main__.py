"""The process `telemetry` with short periods: `python -m tests.process.telemetry.brisk`.

Everything else is the real thing. That the real periods are those of the reference is shown by the unit tests.
"""

from gevent import monkey

monkey.patch_all()

import sys

from common import process
from common.process import Context
from services.telemetry.files import this_host
from services.telemetry.service import Service
from services.telemetry.session import Timers

PUBLISH_SECONDS, STATUS_SECONDS = 3.0, 1.5


def serve(context: Context) -> int:
    """Run until the context is stopping."""
    Service(context, this_host(), Timers(publish=PUBLISH_SECONDS, status=STATUS_SECONDS)).run()
    return 0


if __name__ == "__main__":
    sys.exit(process.run("telemetry", serve))
