"""Entry point of the engine process."""

from gevent import monkey

monkey.patch_all()

import sys

from common.process import run
from services.engine.service import serve

if __name__ == "__main__":
    sys.exit(run("engine", serve))
