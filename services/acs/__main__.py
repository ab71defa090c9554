"""Entry point of the process `acs`."""

from gevent import monkey

monkey.patch_all()

import sys

from common import process
from services.acs.service import serve

if __name__ == "__main__":
    sys.exit(process.run("acs", serve))
