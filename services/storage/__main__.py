"""Entry point of the process `storage`."""

from gevent import monkey

monkey.patch_all()

import sys

from common import process
from services.storage.service import serve

sys.exit(process.run("storage", serve))
