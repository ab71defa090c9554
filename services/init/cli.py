"""The command `ecs-init`: the verbs that unit files, AMI scripts and monitoring call, with their exit statuses.

Verbs, texts and statuses are those of the reference's init (spec 09 §1, §3): 0 done, 1 no or unknown action, 2 unknown
option, 255 every other failure, and for `start` the status of the agent (5: do not restart). No verb needs Docker,
Redis or the network, and the action is checked before any other work. `start` becomes the agent by exec, so that
systemd's main process is the one that owns the process tree; its pid is left for `stop`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from common.config import service_host
from common.version import COMMIT, VERSION
from services.init import gpu, host, launch, predecessor, state
from services.init.errors import NetfilterError, NotPossibleHere, RouteError, SysctlError
from services.init.initlog import open_log
from services.init.manager import Manager, Settings, read_switches, remove, unrecorded
from services.init.netfilter import Netfilter

FAILED = 255
_POST_STOP_SECONDS = 20.0
_LOCK_SECONDS = 15.0  # longer than the manager may take to remove its rules
_DIRECTORIES = (  # what Docker made for the reference's bind mounts (spec 09 §16.1), and the EBS mount point
    "/var/log/ecs", "/var/log/ecs/exec", "/var/log/ecs/daemons", "/var/run/ecs",
)  # fmt: skip
_RULES = "could not create route to the credentials proxy"
_STEP: dict[type[Exception], str] = {
    RouteError: "could not create routes for task metadata server",
    SysctlError: "could not enable loopback routing",
}


class Failed(Exception):
    """A verb could not do its work; the text is what the log says, the status is 255."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status. `argv` is without the program name (default: the command line's)."""
    program = sys.argv[0] if sys.argv and sys.argv[0] else "ecs-init"
    action, status = _parse(list(sys.argv[1:] if argv is None else argv), program)
    if action is None:
        return status
    log = open_log(os.environ.get("ECS_LOGLEVEL", ""))
    if action not in _VERBS:
        print(_usage(program))
        return 1
    if action != "version":
        log.info(action)
    try:
        _VERBS[action][0](os.environ)
    except (Failed, gpu.GpuError, NetfilterError, OSError) as error:
        log.error("%s", error)
        return FAILED
    return 0


def _parse(arguments: list[str], program: str) -> tuple[str | None, int]:
    """(action, 0), or (None, status) when there is nothing more to do. Options count only before the action."""
    while arguments and arguments[0].startswith("-") and arguments[0] != "-":
        option = arguments.pop(0)
        if option == "--":
            break
        if option in ("-h", "-help", "--help", "--h"):
            print(f"Usage of {program}:", file=sys.stderr)
            return None, 0
        name = option.lstrip("-").partition("=")[0]
        print(f"flag provided but not defined: -{name}\nUsage of {program}:", file=sys.stderr)
        return None, 2
    if not arguments:
        print(_usage(program))
        return None, 1
    return arguments[0], 0


def _usage(program: str) -> str:
    lines = [f"  {name:<15}  {text}" for name, (_, text) in _VERBS.items() if text]
    return "\n".join((f"Usage: {program} ACTION", "", " Available actions:", *lines, ""))


def pre_start(environ: Mapping[str, str]) -> None:
    """Find the GPUs, make directories, and see to rules, kernel settings and route as far as that is possible now.

    Only a host without iptables, or without the right to use it, fails here: the process `init` has the rules in its
    care and goes on trying, and running tasks must get their credentials meanwhile (spec 09 §15 N11, case 20).
    """
    log = open_log()
    if launch.wants_gpus():
        gpu.set_up(log)
    merged = launch.environment_of(environ)[0]
    _make_directories(merged)
    directory = Path(merged["ECS_RUN_DIR"])
    with state.exclusive(directory) as alone:
        if not alone:
            log.info("the rules are in the care of the running service")
            return
        manager = Manager(Settings(directory, switches=read_switches(merged, log)), log)
        try:
            manager.start()
        except NotPossibleHere as error:
            raise Failed(f"{_RULES}: {error}") from error
        except NetfilterError as error:
            log.error("%s: %s; the service tries again", _RULES, error)
            return
        outcome = manager.converge()
    for failure in outcome.errors:
        log.error("%s: %s; the service tries again", _STEP.get(type(failure), _RULES), failure)


def _make_directories(merged: Mapping[str, str]) -> None:
    log = open_log()
    for path in (*_DIRECTORIES, merged["ECS_DATADIR"]):
        Path(path).mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        Path(service_host.EBS_DIRECTORY).mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        log.error("cannot make %s, so no EBS volume can be attached: %s", service_host.EBS_DIRECTORY, error)


def post_stop(environ: Mapping[str, str]) -> None:
    """Undo what the record says, or without a record everything that could be ours (spec 09 §15 N9)."""
    log = open_log()
    directory = launch.run_directory(environ)
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        with state.exclusive(directory) as alone:
            if alone:
                return _remove(directory, log.warning)
        if time.monotonic() > deadline:
            raise Failed(f"the service still runs and keeps its rules ({directory / state.LOCK_NAME}): stop it first")
        time.sleep(0.2)


def _remove(directory: Path, warn: Callable[[str], None]) -> None:
    netfilter = Netfilter()
    record = state.load(directory, open_log()) or unrecorded(netfilter)
    errors: list[str] = []
    if not record.removed:
        errors = remove(record, netfilter, local=False, deadline=time.monotonic() + _POST_STOP_SECONDS)
    state.forget(directory)
    for error in errors:
        warn(error)
    if errors and errors[0].startswith("error removing route_localnet"):
        raise Failed(errors[0])  # the one failure that the reference reports; the others are warnings


def start(environ: Mapping[str, str]) -> None:
    """Become the agent: the process tree in the foreground. Returns only by an error."""
    log = open_log()
    merged, notes = launch.environment_of(environ)
    for note in notes:
        log.warning(note)
    predecessor.warn_of_database(Path(merged["ECS_DATADIR"]), log)
    try:
        predecessor.remove_agent_container(host.docker_socket(environ.get("DOCKER_HOST", "")), log)
    except predecessor.DockerAway as error:
        log.info("Docker does not answer yet (%s); the service waits for it", error)
    except OSError as error:
        raise Failed(f"could not remove existing Agent container: {error}") from error
    try:
        launch.become_agent(merged)
    except OSError as error:
        raise Failed(f"could not start Agent: {error}; install the package again") from error


def stop(environ: Mapping[str, str]) -> None:
    """Ask the started agent to end and wait for it; success when none runs."""
    directory = launch.run_directory(environ)
    try:
        found = launch.stop_agent(directory)
    except (OSError, TimeoutError) as error:
        raise Failed(f"could not stop Amazon Elastic Container Service Agent: {error}") from error
    if not found:
        open_log().info("the agent does not run: nothing to stop")


def reload_cache(environ: Mapping[str, str]) -> None:
    """There is no image to load: the agent is the installed package itself."""
    print(
        "reload-cache has no effect: the agent is installed by the package manager, not from an image", file=sys.stderr
    )


def version(environ: Mapping[str, str]) -> None:
    """The version line."""
    if not VERSION or not COMMIT:
        open_log().error("failed print version info, err: Version info not set")
        return
    print(f"ecs-init version {VERSION} ({COMMIT})")


_VERBS: dict[str, tuple[Callable[[Mapping[str, str]], None], str]] = {
    "pre-start": (pre_start, "Prepare the ECS Agent for starting"),
    "start": (start, "Start the ECS Agent and wait for it to stop"),
    "pre-stop": (stop, "Stop the ECS Agent"),
    "stop": (stop, "Stop the ECS Agent"),
    "post-stop": (post_stop, "Cleanup procedure for the ECS Agent"),
    "reload-cache": (reload_cache, "Reload the cached image of the ECS Agent into Docker"),
    "version": (version, ""),
}

if __name__ == "__main__":
    sys.exit(main())
