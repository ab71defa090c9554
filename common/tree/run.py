"""Run the whole tree in the foreground: prepare the directories, then be supervisord.

supervisord runs inside this process, so that its events can be judged here without another program: the exit status
of each child, stale heartbeats, output. Children's output goes to our own stdout, whatever that is (supervisord
itself cannot log to a socket, which stdout is under systemd). Ends with 0 after SIGTERM or SIGINT, with 5 when acs or
engine ended for good, with 1 when the tree cannot start (255 when `ecs-init start` became this process: that is its
status for every failure).
"""

from __future__ import annotations

import fcntl
import logging
import os
import pwd
import sys
import sysconfig
import time
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import setproctitle

from common import ebs, logs, readiness
from common.config import USER_DATA_FILE, Config, load
from common.config.service_env import PACKAGE_DIRECTORY
from common.logs import quote
from common.tree import user_data
from common.tree.linelog import LineFile

SOCKET_PATH_LIMIT = 107  # sun_path less the final zero
CANNOT_START = 1
INIT_FAILED = 255
# A laptop's answers to questions that the options' own defaults answer for a server.
LAPTOP_DEFAULTS = {
    "ECS_IMAGE_PULL_BEHAVIOR": "prefer-cached",
    "ECS_ENABLE_TASK_IAM_ROLE": "true",
    "ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST": "true",
}
SECRETS_ENDPOINTS = ("AWS_ENDPOINT_URL_SSM", "AWS_ENDPOINT_URL_SECRETS_MANAGER")
INIT_LOG = "ECS_TREE_INIT_LOG"  # set by `ecs-init start`: the path of its log, which gets the tree's own lines too


class CannotStart(Exception):
    """The text says what is in the way; `told` when it is in the agent's log already."""

    def __init__(self, text: str, told: bool = False) -> None:
        super().__init__(text)
        self.told = told


def say(level: str, text: str) -> None:
    """One line in the agent's own format, and one in the log of ecs-init if that started us."""
    with suppress(OSError):  # a full disk, a reader that is gone or slow: no reason to end a tree
        os.write(1, f"{_line(level, text)} module=run.py\n".encode(errors="backslashreplace"))
    note(level, text)


def note(level: str, text: str) -> None:
    """One line in the log of ecs-init only; nothing when ecs-init did not start us."""
    path = os.environ.get(INIT_LOG)
    if not path:
        return
    file = LineFile(path, rotates=False)
    try:
        file.write(_line(level, text) + "\n")
    except OSError:
        return  # a full disk must not stop the tree; the console has the important lines
    finally:
        file.close()


def _line(level: str, text: str) -> str:
    return f"level={level} time={time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} msg={quote(text)}"


def run_tree(environ: MutableMapping[str, str] | None = None) -> int:
    """Run until a signal; returns the exit status of the service."""
    environ = os.environ if environ is None else environ
    setproctitle.getproctitle()  # it finds the place of the title beside the environment, before that is changed
    try:
        run_dir, found = prepare(environ)
        keep = lock_tree(run_dir)
        readiness.clear(run_dir)
        keep_user_data(run_dir, found)
    except CannotStart as error:
        return cannot_start(environ, error)
    try:
        from common.tree.supervision import supervise

        return supervise(config_path())
    except CannotStart as error:
        return cannot_start(environ, error)
    finally:
        os.close(keep)


def cannot_start(environ: Mapping[str, str], error: CannotStart) -> int:
    """Say what is in the way; the exit status."""
    launched = bool(environ.get(INIT_LOG))
    (note if error.told else say)("critical", f"could not start Agent: {error}" if launched else str(error))
    return INIT_FAILED if launched else CANNOT_START


def configuration(environ: Mapping[str, str]) -> tuple[Config, str | None]:
    """The configuration and the EC2 user data, which are part of it except in local mode."""
    config = load(environ, user_data=lambda: None)
    if config["ECS_LOCAL_CONTROL_PLANE"]:
        return config, None
    found: list[str | None] = [None]

    def ask() -> str | None:
        found[0] = user_data.fetch(environ, meanwhile=_load_programs)
        return found[0]

    return load(environ, user_data=ask), found[0]


def _load_programs() -> None:
    """What the programs will share is needed next, and reading it takes as long as the answer."""
    from common.tree import nursery

    nursery.preload()


def tell(config: Config) -> None:
    """Write what is wrong with the configuration where and how it wants its log (spec 01 §3.4, §9.1)."""
    log = logs.configure(config)
    for finding in config.findings:
        fatal, text = finding.level == "fatal", f"{finding.name}: {finding.reason}"
        log.log(logging.ERROR if fatal else logging.WARNING, "%s", text)
        note("error" if fatal else "warn", text)
    if config.load_error:
        log.critical("Error loading config: %s", config.load_error)
    logs.release()  # the programs have sinks of their own, and supervisord logs in its own way


def keep_user_data(run_dir: str, text: str | None) -> None:
    """Leave the user data to the programs, which read them with every other source; drop those of an earlier start."""
    path = os.path.join(run_dir, USER_DATA_FILE)
    with suppress(FileNotFoundError):
        os.unlink(path)
    if text:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(text.encode())


def prepare(environ: MutableMapping[str, str]) -> tuple[str, str | None]:
    """Make the directories and set what supervisord.conf and the children read; the run directory and user data."""
    config, found = configuration(environ)
    tell(config)
    if config.load_error:
        raise CannotStart(f"Error loading config: {config.load_error}", told=True)
    data_dir = os.path.abspath(config["ECS_DATADIR"])
    make_directory(data_dir, "ECS_DATADIR")
    run_dir = os.path.abspath(config["ECS_RUN_DIR"])
    make_directory(run_dir, "ECS_RUN_DIR")
    longest = os.path.join(run_dir, "supervisor.sock")
    if len(os.fsencode(longest)) + 12 > SOCKET_PATH_LIMIT:  # supervisord binds <path>.<pid> first
        raise CannotStart(f"ECS_RUN_DIR {run_dir!r} is too long for a unix socket; choose one under 80 characters")
    local = bool(config["ECS_LOCAL_CONTROL_PLANE"])
    environ.update(
        ECS_DATADIR=data_dir,
        ECS_RUN_DIR=run_dir,
        # ECS_DATADIR would turn checkpoints on, and the routes may change: what holds now holds for every program.
        ECS_CHECKPOINT="true" if config["ECS_CHECKPOINT"] else "false",
        ECS_INSTANCE_IP_COMPATIBILITY=config["ECS_INSTANCE_IP_COMPATIBILITY"],
        ECS_TREE_PYTHON=sys.executable,
        ECS_TREE_FLAGS=interpreter_flags(),
        ECS_TREE_USER=pwd.getpwuid(os.getuid()).pw_name,
        ECS_TREE_LOCAL="true" if local else "false",
        ECS_TREE_VOLUMES="true" if ebs.has_driver(config) else "false",
    )
    if local:
        if config["ECS_LOCAL_SECRETS_FILE"]:
            environ["ECS_LOCAL_SECRETS_FILE"] = os.path.abspath(config["ECS_LOCAL_SECRETS_FILE"])
        chosen = {name for name in LAPTOP_DEFAULTS if config.source(name) != "default"}
        settings = local_mode(config, environ)
        environ.update({k: v for k, v in settings.items() if not environ.get(k) and k not in chosen})
    return run_dir, found


def interpreter_flags() -> str:
    """The flags of the children's interpreter: ours, so that `python -I -B` of a package reaches every program."""
    return ("-I" if sys.flags.isolated else "-P") + (" -B" if sys.flags.dont_write_bytecode else "")


def local_mode(config: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """What the agent's processes need in local mode and the caller did not set."""
    settings = {
        **LAPTOP_DEFAULTS,
        "ECS_BACKEND_HOST": f"http://127.0.0.1:{config['ECS_LOCAL_PORT']}",
        "AWS_DEFAULT_REGION": environ.get("AWS_REGION") or "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",  # elsewhere nobody answers, and asking takes 20 s
    }
    if config.get("ECS_LOCAL_SECRETS_FILE"):
        settings |= dict.fromkeys(SECRETS_ENDPOINTS, settings["ECS_BACKEND_HOST"])
    # The local control plane accepts any signature; the agent must have something to sign with.
    lacking = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not environ.get(name)]
    return settings | dict.fromkeys(lacking, "local")


def make_directory(path: str, variable: str) -> None:
    """Create `path` with mode 0700 and prove that it can be written; raises CannotStart."""
    probe = os.path.join(path, ".writable")
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        with open(probe, "wb") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
        os.unlink(probe)
    except OSError as error:
        raise CannotStart(
            f"{variable} {path!r} cannot be written: {error.strerror}. The agent keeps its state there; "
            f"free space, fix the mount or its permissions, or set {variable} to another directory"
        ) from error


def lock_tree(run_dir: str) -> int:
    """One tree per run directory; raises CannotStart when another one runs."""
    fd = os.open(os.path.join(run_dir, "tree.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + 5.0
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > end:
                holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
                raise CannotStart(
                    f"an agent (pid {holder or 'unknown'}) already runs in {run_dir!r}; stop it, or set ECS_DATADIR "
                    "and ECS_RUN_DIR to other directories"
                ) from None
            time.sleep(0.05)
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def config_path() -> str:
    """supervisord.conf beside the source tree, or where the distribution installed it; raises CannotStart."""
    places = [
        Path(__file__).parents[2],
        Path(sysconfig.get_path("data")) / "share/ecs-agent",
        PACKAGE_DIRECTORY,
        Path("/usr/share/ecs-agent"),
    ]
    for place in places:
        if (place / "supervisord.conf").is_file():
            return str(place / "supervisord.conf")
    raise CannotStart(f"supervisord.conf is in none of {', '.join(map(str, places))}; the installation is incomplete")
