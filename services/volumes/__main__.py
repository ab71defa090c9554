"""Entry point of the Docker volume plugin for EFS and S3 Files: python -m services.volumes.

A service of its own beside the agent: it needs neither the agent nor Redis, and it goes on while the agent is stopped,
since Docker must be able to unmount volumes of tasks that end meanwhile. Threads, no gevent: it spends its time in
`mount`, and the standard library keeps it small. SIGTERM ends it at once; socket file and mounts stay (spec 09 §14.1).

Exit status 1 when the state file cannot be used or the socket cannot be made; systemd tries again.
"""

from __future__ import annotations

import sys

from common.tree.linelog import open_log
from services.volumes.errors import StateError
from services.volumes.plugin import Plugin
from services.volumes.server import SOCKET, Server, listen
from services.volumes.state import StateFile

LOG_FILE = "/var/log/ecs/ecs-volume-plugin.log"


def main() -> int:
    """Serve until a signal; returns the exit status when that is impossible."""
    log = open_log("ecs-volume-plugin", LOG_FILE, rotates=True)
    plugin = Plugin(StateFile(), log)
    try:
        plugin.load()
        listener = listen()
    except StateError as error:
        log.critical("%s", error)
        return 1
    except OSError as error:
        log.critical("the socket %s cannot be made: %s", SOCKET, error)
        return 1
    with Server(plugin, listener, log) as server:
        log.info("the volume plugin listens on %s and knows %d volumes", SOCKET, len(plugin.names()))
        server.serve_forever()
    return 1


if __name__ == "__main__":
    sys.exit(main())
