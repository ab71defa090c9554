"""The subcommands of `ecs-local` other than demo: up, run, ps, logs, stop, down."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from services.local.tool import dockers, ports, tree
from services.local.tool import ecs as api
from services.local.tool.demo import describe_failures
from services.local.tool.files import load_definition
from services.local.tool.settings import CREDENTIALS_PORT, INTROSPECTION_PORT, Problem, Settings
from services.local.tool.show import Screen
from services.local.tool.watch import Follower, all_stopped, exit_status

Json = dict[str, Any]
STARTED_BY = "ecs-local"
STOP_SECONDS = 60.0


def _client(settings: Settings) -> Any:
    return api.client(settings, patient=tree.running(settings) is not None)


def up(settings: Settings, args: argparse.Namespace, screen: Screen) -> int:
    """Start the tree and wait until the instance is registered and connected."""
    if note := tree.running(settings):
        screen.line(f"Already up (pid {note['pid']}).", "note")
        return _endpoints(settings, screen)
    dockers.connect()
    ports.check_free(
        [
            (settings.port, "tcp", "ECS API of the control plane"),
            (INTROSPECTION_PORT, "tcp", "introspection"),
            (CREDENTIALS_PORT, "tcp", "task credentials and metadata"),
        ]
    )
    process = tree.start(settings)
    try:
        with screen.working("process tree: control plane, agent"):
            tree.wait_connected(settings, lambda: process.poll() is None)
    except BaseException:
        tree.stop(settings, process.pid)
        raise
    return _endpoints(settings, screen)


def _endpoints(settings: Settings, screen: Screen) -> int:
    screen.line(f"ECS API         {settings.endpoint}   (region {settings.region}, cluster {settings.cluster})")
    screen.line(f"introspection   http://127.0.0.1:{INTROSPECTION_PORT}/v1/metadata")
    screen.line(f"log             {settings.log}")
    screen.line(f"Try: aws ecs list-clusters --endpoint-url {settings.endpoint} --region {settings.region}", "note")
    return 0


def down(settings: Settings, args: argparse.Namespace, screen: Screen) -> int:
    """Stop the tasks, remove their containers, stop the tree, wait until it is gone."""
    note = tree.running(settings)
    if note is None:
        settings.note.unlink(missing_ok=True)
        screen.line("Nothing runs.", "note")
        return 0
    if not args.keep_tasks:
        try:
            _stop_everything(settings, screen)
        except api.ERRORS as error:
            screen.line(f"The tasks could not be stopped in order: {api.explain(error, settings)}", "bad")
    with screen.working("stopping the process tree"):
        tree.stop(settings, int(note["pid"]))
    return 0


def _stop_everything(settings: Settings, screen: Screen) -> None:
    ecs = _client(settings)
    for cluster in (a.rsplit("/", 1)[-1] for a in ecs.list_clusters()["clusterArns"]):
        live = api.task_arns(ecs, cluster, "RUNNING")
        follower = Follower(ecs, cluster, live, screen)
        follower.catch_up()
        for arn in live:
            ecs.stop_task(cluster=cluster, task=arn, reason="ecs-local down")
        if live and not follower.until(all_stopped, STOP_SECONDS):
            screen.line(
                f"Some tasks have not stopped within {STOP_SECONDS:.0f} s; their containers are removed.", "bad"
            )
        stopped = api.task_arns(ecs, cluster, "STOPPED")
        try:
            dockers.remove_containers(dockers.connect(), stopped)
        except (Problem, *dockers.FAILURES) as error:  # the tree shall end all the same
            screen.line(f"The containers of cluster {cluster} could not be removed: {error}", "bad")


def run(settings: Settings, args: argparse.Namespace, screen: Screen) -> int:
    """Register the file and run it; follow until it ends unless told not to."""
    request = load_definition(Path(args.file))
    ecs, cluster = _client(settings), args.cluster or settings.cluster
    definition = ecs.register_task_definition(**request)["taskDefinition"]
    screen.line(f"{definition['family']}:{definition['revision']} is registered", "note")
    answer = api.run_task(ecs, cluster, definition, count=args.count, startedBy=STARTED_BY)
    for sentence in api.replaced(ecs, cluster, definition, answer["tasks"]):
        screen.line(f"Replaced on this machine: {sentence}", "note")
    for task in answer["tasks"]:
        screen.line(task["taskArn"])
    if answer["failures"]:
        screen.line(
            f"{len(answer['failures'])} of {args.count} task(s) cannot be placed: "
            + describe_failures(answer["failures"]),
            "bad",
        )
        if not answer["tasks"]:
            return 1
    if args.no_follow:
        return 1 if answer["failures"] else 0
    arns = [t["taskArn"] for t in answer["tasks"]]
    follower = Follower(ecs, cluster, arns, screen)
    try:
        follower.until(all_stopped)
    except KeyboardInterrupt:
        screen.line(
            f"\nThe task goes on. ecs-local logs {api.short_id(arns[0])} -f shows its output, "
            f"ecs-local stop {api.short_id(arns[0])} ends it.",
            "note",
        )
        return 0
    return exit_status(list(follower.seen.values())) or int(bool(answer["failures"]))


def ps(settings: Settings, args: argparse.Namespace, screen: Screen) -> int:
    """The tasks of the cluster and their containers."""
    ecs, cluster = _client(settings), args.cluster or settings.cluster
    statuses = ("RUNNING", "STOPPED") if args.all else ("RUNNING",)
    tasks = api.describe(ecs, cluster, api.task_arns(ecs, cluster, *statuses))
    rows = [row for task in sorted(tasks, key=lambda t: str(t["createdAt"])) for row in _rows(task)]
    if rows:
        screen.table(("TASK", "DEFINITION", "CONTAINER", "STATUS", "HEALTH", "PORTS", "AGE"), rows)
    else:
        screen.line(
            f"No tasks in cluster {cluster}." + ("" if args.all else " Stopped ones: ecs-local ps --all"), "note"
        )
    return 0


def _rows(task: Json) -> list[tuple[str, ...]]:
    name = task["taskDefinitionArn"].rsplit("/", 1)[-1]
    rows: list[tuple[str, ...]] = [
        (api.short_id(task["taskArn"]), name, "", task["lastStatus"], _health(task), "", _age(task))
    ]
    for container in task["containers"]:
        ended = f" ({container['exitCode']})" if container.get("exitCode") is not None else ""
        bound = sorted(
            {
                f"{b['hostPort']}->{b['containerPort']}/{b.get('protocol', 'tcp')}"
                for b in container.get("networkBindings") or []
                if b.get("hostPort")
            }
        )
        rows.append(
            ("", "", container["name"], container["lastStatus"] + ended, _health(container), ", ".join(bound), "")
        )
    return rows


def _health(thing: Json) -> str:
    status = str(thing.get("healthStatus") or "UNKNOWN")
    return "" if status == "UNKNOWN" else status


def _age(task: Json) -> str:
    seconds = int(time.time() - task["createdAt"].timestamp())
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{max(0, seconds)}s"


def logs(settings: Settings, args: argparse.Namespace, screen: Screen) -> int:
    """Print what a task's containers wrote, from Docker."""
    cluster = args.cluster or settings.cluster
    task = api.find_task(_client(settings), cluster, args.task)
    docker = dockers.connect()
    containers = [
        c
        for c in dockers.containers_of(docker, task["taskArn"])
        if not args.container or c["Labels"][dockers.NAME_LABEL] == args.container
    ]
    if not containers:
        known = ", ".join(c["name"] for c in task["containers"])
        raise Problem(
            f"Task {api.short_id(task['taskArn'])} has no {'such ' if args.container else ''}container in "
            f"Docker (defined: {known}; {task.get('stoppedReason', 'it is ' + task['lastStatus'])})."
        )
    try:
        dockers.stream_logs(docker, containers, args.follow, prefixed=len(containers) > 1)
    except KeyboardInterrupt:
        return 0
    return 0


def stop(settings: Settings, args: argparse.Namespace, screen: Screen) -> int:
    """Stop a task and wait until it has stopped."""
    ecs, cluster = _client(settings), args.cluster or settings.cluster
    task = api.find_task(ecs, cluster, args.task)
    follower = Follower(ecs, cluster, [task["taskArn"]], screen)
    follower.catch_up()
    ecs.stop_task(cluster=cluster, task=task["taskArn"], reason=args.reason)
    if not follower.until(all_stopped, args.timeout):
        raise Problem(
            f"The task has not stopped within {args.timeout:.0f} s; it will be as soon as the agent reports it."
        )
    return 0
