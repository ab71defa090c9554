"""The command `ecs-supervisorctl`: supervisord's own client, pointed at the running tree.

`status`, `start`, `stop`, `restart` and `tail` of single programs are the interface; none of them touches a running
task. What changes the set of programs, or ends the service behind systemd's back, is refused (spec 10 §18 trap 9).
"""

from __future__ import annotations

import os
import sys

from supervisor import supervisorctl
from supervisor.options import ClientOptions

from common.config import load

REFUSED = {
    "reload": "systemctl restart ecs",
    "update": "systemctl restart ecs",
    "add": "systemctl restart ecs",
    "remove": "systemctl stop ecs",
    "shutdown": "systemctl stop ecs",
}


class Plugin(supervisorctl.DefaultControllerPlugin):  # type: ignore[misc]
    """supervisorctl's commands but for those that are not for single programs."""

    def _refuse(self, command: str, instead: str) -> None:
        self.ctl.output(f"{command} is not for the programs of the ECS agent; use: {instead}")
        self.ctl.exitstatus = supervisorctl.LSBInitExitStatuses.UNIMPLEMENTED_FEATURE

    def do_restart(self, arg: str) -> None:
        if "all" in arg.split():
            self._refuse("restart all", "systemctl restart ecs")
        else:
            super().do_restart(arg)

    def do_stop(self, arg: str) -> None:
        if "all" in arg.split():
            self._refuse("stop all", "systemctl stop ecs")
        else:
            super().do_stop(arg)


def _refusal(command: str, instead: str) -> None:
    def refuse(self: Plugin, arg: str) -> None:
        self._refuse(command, instead)

    setattr(Plugin, f"do_{command}", refuse)


for _command, _instead in REFUSED.items():
    _refusal(_command, _instead)


def main(argv: list[str] | None = None) -> int:
    """Run one command, or a prompt without one; returns supervisorctl's exit status."""
    run_dir = os.path.abspath(load(os.environ)["ECS_RUN_DIR"])
    options = ClientOptions()
    options.searchpaths = []  # a supervisord.conf in the working directory is none of our business
    options.plugin_factories = [("default", Plugin, {})]
    options.configroot.supervisorctl.prompt = "ecs"
    arguments = sys.argv[1:] if argv is None else argv
    options.realize(["-s", f"unix://{run_dir}/supervisor.sock", *arguments], doc=__doc__)
    controller = supervisorctl.Controller(options)
    if options.args:
        controller.onecmd(" ".join(options.args))
        return int(controller.exitstatus)
    controller.exec_cmdloop(None, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
