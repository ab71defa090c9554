"""Entry point: `python -m services.endpoint [--worker N]`."""

from gevent import monkey

monkey.patch_all()

import sys

from common import process
from services.endpoint.service import serve, serve_as_worker


def main(arguments: list[str]) -> int:
    """Run the service, or one of its further workers when it started one."""
    if arguments[:1] == ["--worker"] and len(arguments) == 2 and arguments[1].isdigit():
        return process.run(f"endpoint-{arguments[1]}", serve_as_worker)
    if arguments:
        print("usage: python -m services.endpoint [--worker N]", file=sys.stderr)
        return 2
    return process.run("endpoint", serve)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
