"""Entry point of the process `images`."""

from gevent import monkey

monkey.patch_all()

import sys

from common import process
from services.images.service import serve

sys.exit(process.run("images", serve))
