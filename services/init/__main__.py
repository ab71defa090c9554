"""Entry point of the process `init`: python -m services.init."""

from gevent import monkey

monkey.patch_all()

import sys

from common import process
from services.init.service import serve

if __name__ == "__main__":
    sys.exit(process.run("init", serve))
