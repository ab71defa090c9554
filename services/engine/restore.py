"""Taking up the saved tasks after a start of the engine.

The order matters: Docker's event stream is opened first, then each worker asks Docker about its containers, and only
then handles the events that have queued in its inbox meanwhile; no stop falls between. Host resources are accounted
for before any task may enter the queue, and the host ports of live containers before any is chosen; those that wait
enter the queue in the order in which they arrived (ECS agent behaviour, spec 03 §5.3, §6.6.5, §11.4).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from common.errors import Terminal
from common.model.status import ContainerStatus, TaskStatus
from common.model.task import Task
from services.engine.core.progress import needs_admission
from services.engine.engine import Engine

log = logging.getLogger(__name__)

STREAM_SECONDS = 30.0  # Docker has answered just before; a stream that does not open by then is watched on its own


def restore(engine: Engine) -> int:
    """Load all tasks, account for them, open the event stream, start their workers. Returns how many there are."""
    tasks = engine.records.tasks()
    settle_limits(engine, tasks.values())
    for task in tasks.values():
        if holds_resources(task):
            engine.admission.hold(task)
        for container in task.containers:
            if container.docker_id and container.known != ContainerStatus.STOPPED:
                engine.hands.taken_up(container)
    engine.images.load(tasks.values())
    in_order = sorted(tasks.values(), key=lambda t: t.arrival)
    workers = [engine.add(task, is_new=False) for task in in_order]
    for task in in_order:
        if needs_admission(task):
            engine.admission.enter(task)
    engine.listen()
    if not engine.stream_open.wait(STREAM_SECONDS):
        log.error("Docker's event stream does not open; the tasks are taken up nevertheless")
    for worker in workers:
        worker.start()
    if tasks:
        log.info("%d tasks are taken up again", len(tasks))
    return len(tasks)


def settle_limits(engine: Engine, tasks: Iterable[Task]) -> None:
    """Task limits for all or for none: a task that was set up without them turns them off (spec 03 §9).

    Raises Terminal when the configuration demands them.
    """
    if not engine.facts.task_limits_enabled:
        return
    without = next((t for t in tasks if _runs_without_limits(t)), None)
    if without is None:
        return
    if engine.config["ECS_ENABLE_TASK_CPU_MEM_LIMIT"]:
        raise Terminal(
            f"ECS_ENABLE_TASK_CPU_MEM_LIMIT is true, but task {without.arn} was started without task limits; "
            "stop that task or unset the option"
        )
    log.warning("task limits are off, because task %s was started without them", without.arn)
    engine.without_limits()


def _runs_without_limits(task: Task) -> bool:
    return task.prepared and not (task.limits_enabled or task.is_internal) and task.known != TaskStatus.STOPPED


def holds_resources(task: Task) -> bool:
    """Whether the saved task was using the host when the engine ended."""
    if task.known == TaskStatus.STOPPED or task.is_internal:
        return False
    began = any(
        ContainerStatus.MANIFEST_PULLED <= c.known <= ContainerStatus.RESOURCES_PROVISIONED for c in task.containers
    )
    return task.admitted or began
