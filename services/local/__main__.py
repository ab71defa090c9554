"""The program `local` of the process tree: the control plane, in local mode only."""

from gevent import monkey

monkey.patch_all()

import sqlite3
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from common.backoff import Backoff
from common.errors import Permanent
from common.process import run
from services.local.listener import listen

if TYPE_CHECKING:
    from common.process import Context
    from services.local.server import Server

DEFAULT_REGION = "us-east-1"


def serve(context: "Context") -> int:
    """Serve until told to stop. A taken port or an unusable file is told, waited for and tried again."""
    server, backoff = None, Backoff(1.0, 30.0)
    while server is None and not context.stopping.is_set():
        try:
            server = _open(context)
        except Permanent as error:  # permanent until someone frees the port or the disk
            context.not_ready(str(error))
            context.stopping.wait(backoff.delay())
    if server is None:
        return 0
    server.start()
    context.ready(f"listening on 127.0.0.1:{server.port}")
    context.stopping.wait()
    server.stop()
    return 0


def _open(context: "Context") -> "Server":
    config = context.config
    listener = listen(config["ECS_LOCAL_PORT"])
    from common.clock import SystemClock  # after listen(): see there
    from services.local.credentials import RoleCredentials, assume_role
    from services.local.secrets import SecretsFile
    from services.local.server import Server

    region = config["AWS_DEFAULT_REGION"] or DEFAULT_REGION
    assume = partial(assume_role, region=region) if config["ECS_LOCAL_ASSUME_TASK_ROLES"] else None
    file = config["ECS_LOCAL_SECRETS_FILE"]
    try:
        return Server(
            Path(config["ECS_DATADIR"]) / "local",
            listener,
            region,
            config["ECS_CLUSTER"] or "default",
            credentials=RoleCredentials(SystemClock(), assume=assume),
            secrets_file=SecretsFile(Path(file) if file else None),
        )
    except sqlite3.Error as error:
        listener.close()
        raise Permanent(f"the state under {config['ECS_DATADIR']} cannot be written: {error}. Free space.") from error
    except BaseException:
        listener.close()
        raise


def main() -> int:
    """Entry point of the program."""
    return run("local", serve)


if __name__ == "__main__":
    sys.exit(main())
