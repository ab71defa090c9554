"""Start one of the two redis-server programs: `python -m common.tree.redis durable|volatile`.

Replaces itself with the system's redis-server, configured by arguments alone. `durable` keeps an append-only file
under ECS_DATADIR/redis, fsynced before each answer (none when ECS_CHECKPOINT is false); `volatile` never touches the
disk. Both listen on a unix socket of mode 0600 only. A lock held across exec keeps a second server from opening the
same files while an orphan of a killed tree still ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from common.config import load
from common.parent import die_with_parent
from common.tree.run import say

LOCK_SECONDS = 20.0
PROBE_BYTES = 256 * 1024
SERVERS = ("redis-server", "redis6-server", "valkey-server")  # as the distributions call it
# jemalloc's cache of a thread keeps what a burst took; one thread gains nothing by it. A jemalloc that Redis brought
# along reads the second name.
ALLOCATOR = {name: "tcache:false" for name in ("MALLOC_CONF", "JE_MALLOC_CONF")}
# Nobody here asks for these. They could change what is promised above: lead the server to another directory, write the
# memory of the volatile one to the disk, load code, follow another server, or end it behind the supervisor's back.
DENIED = (
    "CONFIG", "DEBUG", "MODULE", "SAVE", "BGSAVE", "BGREWRITEAOF", "SHUTDOWN", "REPLICAOF", "SLAVEOF",
)  # fmt: skip
SOCKETS = {"durable": "redis.sock", "volatile": "secrets.sock"}


def arguments(role: str, config: Mapping[str, Any], run_dir: str, data_dir: str) -> list[str]:
    """The command line after `redis-server`."""
    socket = os.path.join(run_dir, SOCKETS[role])
    args = ["--port", "0", "--unixsocket", socket, "--unixsocketperm", "600", "--dir", data_dir, "--daemonize", "no",
            "--save", "", "--databases", "1", "--loglevel", "warning", "--maxmemory-policy", "noeviction",
            "--lazyfree-lazy-user-del", "no", "--set-proc-title", "no"]  # fmt: skip
    args += [word for command in DENIED for word in ("--rename-command", command, "")]
    if role == "durable" and config["ECS_CHECKPOINT"] is not False:
        args += ["--appendonly", "yes", "--appendfsync", "always", "--aof-load-truncated", "yes",
                 "--auto-aof-rewrite-min-size", "16mb"]  # fmt: skip
    else:
        args += ["--appendonly", "no"]
    return args


def lock(path: str) -> int:
    """Take the lock on `path`; raises TimeoutError when another server holds it for LOCK_SECONDS."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(fd, True)
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError(f"another redis-server still holds {path}; end it first") from None
            time.sleep(0.02)


def check_space(data_dir: str) -> None:
    """Prove that there is room to start with; raises OSError. Redis itself would start and end at its first write."""
    probe = os.path.join(data_dir, ".space")
    try:
        with open(probe, "wb", buffering=0) as file:
            if file.write(b"x" * PROBE_BYTES) < PROBE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), data_dir)
            os.fsync(file.fileno())
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(probe)


def find_server() -> str | None:
    """The server: the one that the package put beside its virtual environment, or the first in PATH."""
    beside = os.path.join(os.path.dirname(sys.prefix), "bin", SERVERS[0])
    if os.access(beside, os.X_OK):
        return beside
    return next(filter(None, map(shutil.which, SERVERS)), None)


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What the server gets of our environment, which may hold passwords of registries: nothing but how to run."""
    return {name: value for name, value in ours.items() if name in ("PATH", "LANG", "LC_ALL", "TZ")} | ALLOCATOR


def main(argv: list[str]) -> int:
    """Never returns when all is well: the process becomes redis-server."""
    role = argv[0]
    config = load(os.environ)
    run_dir = os.environ["ECS_RUN_DIR"]
    data_dir = os.path.join(config["ECS_DATADIR"], "redis") if role == "durable" else run_dir
    name = "redis" if role == "durable" else "secrets"
    die_with_parent()
    server = find_server()
    if server is None:
        say("critical", f"none of {', '.join(SERVERS)} is in PATH: install redis-tools (apt), redis or valkey (dnf)")
        return 1
    try:
        os.makedirs(data_dir, mode=0o700, exist_ok=True)
        lock(os.path.join(data_dir, f"{name}.lock"))
        if role == "durable":
            check_space(data_dir)
    except (OSError, TimeoutError) as error:
        say("critical", f"{name} cannot use {data_dir}: {error}. Nothing is lost; the agent waits for it")
        return 1
    sys.stdout.flush()
    os.execve(server, [server, *arguments(role, config, run_dir, data_dir)], environment(os.environ))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
