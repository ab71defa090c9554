"""`ecs-local demo`: the whole way of one task definition on this machine, and everything gone afterwards.

This is what `make run` runs. Whatever it starts (tree, task, dockerd) it ends, in the opposite order, also after
Ctrl-C, SIGTERM or a failure. Tasks of an earlier demonstration that was killed are cleared away first.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from docker import APIClient

from services.local.tool import dockers, ports, tree
from services.local.tool import ecs as api
from services.local.tool.files import host_ports, load_definition
from services.local.tool.settings import CREDENTIALS_PORT, INTROSPECTION_PORT, Problem, Settings
from services.local.tool.show import Screen
from services.local.tool.terminal import own_foreground
from services.local.tool.watch import Follower, all_started, all_stopped, exit_status

Json = dict[str, Any]
STARTED_BY = "ecs-local demo"
START_SECONDS, STOP_SECONDS = 120.0, 60.0
LOOK_SECONDS = 0.5
HINTS_AFTER_SECONDS = 60.0


class Demo:
    """One demonstration: prepare, run, watch, clear away."""

    def __init__(self, settings: Settings, path: Path, screen: Screen, command: list[str] | None = None) -> None:
        self._settings, self._path, self._screen, self._command = settings, path, screen, command
        self._arns: list[str] = []
        self._shown: set[str] = set()
        self._follower: Follower | None = None
        self._started = False
        self._note = settings.directory / "local" / "demo.json"

    def run(self) -> int:
        """The demonstration; returns the exit status. Raises Problem when it cannot even begin."""
        request = load_definition(self._path)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _interrupt)
        status = 0
        with own_foreground(), ExitStack() as undo:
            undo.callback(self._say_goodbye)
            try:
                docker = self._prepare(undo, request)
                status = self._show(docker, request)
            except KeyboardInterrupt:
                self._screen.line()
            finally:
                _hold_signals()
        return status

    # -- before ------------------------------------------------------------------------------------------------------

    def _prepare(self, undo: ExitStack, request: Json) -> APIClient:
        settings, screen = self._settings, self._screen
        for directory in (settings.directory, settings.log.parent, self._note.parent):
            try:
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise Problem(
                    f"{directory} cannot be used: {error.strerror}. Set ECS_DATADIR to a directory of yours."
                ) from None
        if note := tree.running(settings):
            raise Problem(
                f"A tree already runs in {settings.directory} (pid {note['pid']}). Stop it with: ecs-local down"
            )
        with screen.working("Docker Engine"):
            docker, engine = dockers.ensure_engine(settings.directory / "log" / "dockerd.log")
            if engine:
                self._started = True
                undo.callback(self._stop_engine, engine)
        self._clear_leftovers(docker)
        ports.check_free(
            [
                (settings.port, "tcp", "ECS API of the control plane"),
                (INTROSPECTION_PORT, "tcp", "introspection"),
                (CREDENTIALS_PORT, "tcp", "task credentials and metadata"),
                *((port, protocol, f"host port in {self._path.name}") for port, protocol in host_ports(request)),
            ]
        )
        if any(c.get("image") == dockers.SAMPLE_IMAGE for c in request["containerDefinitions"]):
            with screen.working(f"sample image {dockers.SAMPLE_IMAGE}, made from this machine's busybox"):
                dockers.build_sample_image(docker)
        undo.callback(self._remove_containers, docker)
        with screen.working("process tree: control plane, agent"):
            self._started = True
            process = tree.start(settings, self._command, dies_with_caller=True)
            undo.callback(self._stop_tree, process)
            tree.wait_connected(settings, lambda: process.poll() is None)
        return docker

    def _clear_leftovers(self, docker: APIClient) -> None:
        """Containers of a demonstration that was killed still hold their ports."""
        try:
            left = json.loads(self._note.read_text())
        except (OSError, ValueError):
            return
        count = dockers.remove_containers(docker, [str(a) for a in left])
        if count:
            self._screen.line(f"Removed {count} container(s) that an interrupted demonstration had left.", "note")
        self._note.unlink(missing_ok=True)

    # -- the show ----------------------------------------------------------------------------------------------------

    def _show(self, docker: APIClient, request: Json) -> int:
        settings, screen = self._settings, self._screen
        ecs = api.client(settings, patient=True)
        self._stop_orphans(ecs)
        definition = ecs.register_task_definition(**request)["taskDefinition"]
        screen.line(f"\nRunning {definition['family']}:{definition['revision']} from {self._path}", "head")
        answer = api.run_task(ecs, settings.cluster, definition, startedBy=STARTED_BY)
        for sentence in api.replaced(ecs, settings.cluster, definition, answer["tasks"]):
            screen.line(f"Replaced on this machine: {sentence}", "note")
        if answer["failures"]:
            raise Problem("The task cannot be placed: " + describe_failures(answer["failures"]))
        self._arns = [t["taskArn"] for t in answer["tasks"]]
        self._note.write_text(json.dumps(self._arns))
        screen.line(f"Task {self._arns[0]}", "note")
        follower = self._follower = Follower(ecs, settings.cluster, self._arns, screen)
        if not follower.until(all_started, START_SECONDS):
            screen.line(f"The task has not started within {START_SECONDS:.0f} s.\n{tree.tail(settings)}", "bad")
            return 1
        began, hinted = time.monotonic(), False
        helpers = {c["name"] for c in definition["containerDefinitions"] if not c.get("essential", True)}
        while True:
            tasks = follower.look()
            self._show_finished(docker, helpers)
            if all_stopped(tasks):
                self._show_finished(docker, {c["name"] for c in definition["containerDefinitions"]})
                return exit_status(tasks)
            if not hinted and (helpers <= self._shown or time.monotonic() - began > HINTS_AFTER_SECONDS):
                self._hints(definition)
                hinted = True
            time.sleep(LOOK_SECONDS)

    def _stop_orphans(self, ecs: Any) -> None:
        for arn in api.task_arns(ecs, self._settings.cluster, "RUNNING", started_by=STARTED_BY):
            ecs.stop_task(cluster=self._settings.cluster, task=arn, reason="left by an interrupted demonstration")

    def _show_finished(self, docker: APIClient, names: set[str]) -> None:
        """Print what containers with these names wrote, once they have ended."""
        for arn in self._arns:
            for container in dockers.containers_of(docker, arn):
                name = container["Labels"].get(dockers.NAME_LABEL, "")
                if name not in names or name in self._shown or container["State"] not in ("exited", "dead"):
                    continue
                self._shown.add(name)
                self._screen.line(f"\nOutput of {name}:", "head")
                for line in dockers.read_log(docker, container["Id"]).splitlines():
                    self._screen.line(f"  {line}")
                self._screen.line()

    def _hints(self, definition: Json) -> None:
        settings, id_, name = self._settings, api.short_id(self._arns[0]), _command()
        pages = [
            f"  http://127.0.0.1:{port['hostPort']}/"
            for container in definition["containerDefinitions"]
            for port in container["portMappings"]
            if port.get("hostPort") and port.get("protocol") == "tcp"
        ]
        self._screen.line("Look further, in another terminal:", "head")
        for line in (
            *pages,
            f"  aws ecs describe-tasks --endpoint-url {settings.endpoint} --region {settings.region} "
            f"--cluster {settings.cluster} --tasks {self._arns[0]}",
            f"  curl http://127.0.0.1:{INTROSPECTION_PORT}/v1/tasks",
            f"  {name} ps",
            f"  {name} logs {id_} -f",
            f"  less {settings.log}",
        ):
            self._screen.line(line)
        self._screen.line("Ctrl-C stops the task and everything that was started.", "note")

    # -- after -------------------------------------------------------------------------------------------------------

    def _stop_tree(self, process: subprocess.Popen[bytes]) -> None:
        with suppress(Problem), self._screen.working("stopping the task"):
            self._stop_tasks()
        with self._screen.working("stopping the process tree"):
            process.poll()
            tree.stop(self._settings, process.pid)
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)

    def _stop_tasks(self) -> None:
        ecs = api.client(self._settings, read_timeout=3)
        try:
            for arn in self._arns:
                ecs.stop_task(cluster=self._settings.cluster, task=arn, reason="the demonstration ends")
            if self._follower and not self._follower.until(all_stopped, STOP_SECONDS):
                self._screen.line(
                    f"The task has not stopped within {STOP_SECONDS:.0f} s; its containers are removed.", "bad"
                )
        except (ClientError, BotoCoreError) as error:
            self._screen.line(f"The task could not be stopped in order: {api.explain(error, self._settings)}", "bad")

    def _remove_containers(self, docker: APIClient) -> None:
        try:
            dockers.remove_containers(docker, self._arns)
        except dockers.FAILURES as error:
            self._screen.line(f"Containers of the task could not be removed: {error}", "bad")
        else:
            self._note.unlink(missing_ok=True)

    def _stop_engine(self, engine: subprocess.Popen[bytes]) -> None:
        with self._screen.working("stopping the Docker Engine that was started"):
            dockers.stop_engine(engine)

    def _say_goodbye(self) -> None:
        if self._started:
            self._screen.line("Everything that was started has ended.", "note")


def describe_failures(failures: list[Json]) -> str:
    """Placement failures for people."""
    return "; ".join(f"{f.get('reason')}{' (' + f['detail'] + ')' if f.get('detail') else ''}" for f in failures)


def _command() -> str:
    """How the user can call this program: by name when it is on PATH, else by its path."""
    return "ecs-local" if shutil.which("ecs-local") else sys.argv[0]


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _hold_signals() -> None:
    """While clearing away, another Ctrl-C must not leave things behind."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
