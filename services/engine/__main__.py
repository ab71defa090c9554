"""Entry point of the engine process; with `--facts` it only prints what Docker is like."""

from gevent import monkey

monkey.patch_all()

import sys

from common.process import run
from services.engine.service import serve


def main() -> int:
    """The exit status."""
    if sys.argv[1:] == ["--facts"]:
        from services.engine.docker.facts_command import main as print_facts

        return print_facts()
    return run("engine", serve)


if __name__ == "__main__":
    sys.exit(main())
