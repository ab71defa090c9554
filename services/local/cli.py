"""The command `ecs-local`.

Exit status: 0 done, 1 it did not work out, 2 the call or the file is wrong, 130 interrupted; `run` and `demo` give the
exit code of a container that failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from services.local.tool.settings import Problem, read

if TYPE_CHECKING:
    from services.local.tool.settings import Settings
    from services.local.tool.show import Screen


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns its exit status."""
    args = _parser().parse_args(argv)
    from services.local.tool import ecs as api
    from services.local.tool.show import Screen

    settings = None
    try:
        settings = read()
        return _call(settings, args, Screen())
    except Problem as problem:
        print(f"ecs-local: {problem}", file=sys.stderr)
        return problem.status
    except api.ERRORS as error:
        print(f"ecs-local: {api.explain(error, settings or read())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader (head, less) has gone; nothing more to say, also not at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _call(settings: Settings, args: argparse.Namespace, screen: Screen) -> int:
    if args.command == "demo":
        from services.local.tool.demo import Demo

        return Demo(settings, Path(args.file) if args.file else example(), screen).run()
    from services.local.tool import commands

    result: int = getattr(commands, args.command)(settings, args, screen)
    return result


def example() -> Path:
    """examples/hello.json of the clone or of the installation. Raises Problem when it is in neither."""
    places = [Path(__file__).parents[2] / "examples", Path(sysconfig.get_path("data")) / "share/ecs-agent/examples"]
    for place in places:
        if (place / "hello.json").is_file():
            return place / "hello.json"
    raise Problem("examples/hello.json is not installed; name a task definition file.", 2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ecs-local",
        description="Run Amazon ECS task definitions on this machine, through the real agent.",
        epilog="Environment: ECS_DATADIR (state and logs, default ~/.local/state/ecs-local), ECS_LOCAL_PORT (default "
        "51670), ECS_LOCAL_SECRETS_FILE (secrets instead of those of AWS), ECS_LOCAL_ASSUME_TASK_ROLES, ECS_CLUSTER, "
        "AWS_REGION, DOCKER_HOST.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("up", help="start the control plane and the agent in the background")
    down = commands.add_parser("down", help="stop the tasks, the agent and the control plane")
    down.add_argument("--keep-tasks", action="store_true", help="leave the containers running")
    run = commands.add_parser("run", help="register a task definition file and run it")
    run.add_argument("file", metavar="FILE.json", help="input of RegisterTaskDefinition, or output of describe")
    run.add_argument("--count", type=_count, default=1, metavar="N", help="how many tasks, 1 to 10 (default 1)")
    run.add_argument("--no-follow", action="store_true", help="return at once instead of showing states until the end")
    ps = commands.add_parser("ps", help="list tasks and their containers")
    ps.add_argument("-a", "--all", action="store_true", help="stopped tasks too")
    logs = commands.add_parser("logs", help="print what a task's containers wrote")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the containers end")
    logs.add_argument("--container", metavar="NAME", help="only this container")
    stop = commands.add_parser("stop", help="stop a task and wait until it has stopped")
    stop.add_argument("--reason", default="Stopped with ecs-local", help="shown as the task's stoppedReason")
    stop.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="how long to wait (default 60)")
    for command in (logs, stop):
        command.add_argument("task", metavar="TASK", help="id, beginning of an id, or ARN")
    for command in (run, ps, logs, stop):
        command.add_argument("--cluster", metavar="NAME", help="default: ECS_CLUSTER, or 'default'")
    demo = commands.add_parser("demo", help="run an example from start to end and clear everything away")
    demo.add_argument("file", nargs="?", metavar="FILE.json", help="default: examples/hello.json")
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 10:
        raise argparse.ArgumentTypeError("give a number from 1 to 10")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
