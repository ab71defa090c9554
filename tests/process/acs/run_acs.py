# ruff: noqa: E402 -- the monkey patch comes before every other import
"""Runs the process `acs` with the timers that a test shortens.

The timers of an ACS session are minutes and hours; ACS_TEST_TIMINGS holds a JSON object of those that a test changes,
and may name a directory of network links in place of the kernel's, since no test can plug an interface in. Everything
else is the process as it is shipped.
"""

from gevent import monkey

monkey.patch_all()

import json
import os
import sys

from common import process
from services.acs import devices, service, submission
from services.acs.session import Timings

values = json.loads(os.environ.pop("ACS_TEST_TIMINGS", "{}"))
if "flush" in values:
    submission.FLUSH_SECONDS = tuple(values.pop("flush"))
if "capabilities" in values:
    service.CAPABILITIES_SECONDS = values.pop("capabilities")
if "links" in values:
    links, hardware_addresses = values.pop("links"), devices.hardware_addresses
    devices.hardware_addresses = lambda: hardware_addresses(links)
service.TIMINGS = Timings(**values)
sys.exit(process.run("acs", service.serve))
